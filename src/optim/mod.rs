//! The methods: one file each, one line in the table. A method is an estimator, which says where the gradient comes from,
//! and a rule, which turns it into a move of the weights.

mod adam;
mod meazo;
mod mezo_svrg;
mod r_adazo;
mod rule;
mod sgd;
mod svrg;
mod vamo;
mod zo_adamm;
mod zo_conservative;
mod zo_rmsprop;
mod zo_sgd;
mod zo_sgd_momentum;
mod zo_sign;
mod zo_sign_scalar;

use anyhow::Result;
use candle_core::DType;

use crate::config::{Distribution, Plan, Preset, Selection, Settings, Sides};
use crate::error::nearest;
use crate::estimator::{Estimator, TwoPoint};
use crate::params::{Params, Slot, Visit};
use rule::{fused, walked};

pub use rule::{Rule, Streamed};

/// A method, ready to run.
pub struct Optimizer {
    /// Where the gradient comes from.
    pub estimator: Box<dyn Estimator>,
    /// What it does to the weights.
    pub rule: Box<dyn Rule>,
}

impl Optimizer {
    /// Bytes of the rule's state, and of what the estimator keeps.
    pub fn bytes(&mut self) -> Result<(usize, usize)> {
        let (mut state, mut snapshot) = (0, 0);
        let add_to = |total: &mut usize, mut slot: Slot| {
            *total += slot.bytes().len();
            Ok(())
        };
        self.rule.visit(&mut |_, slot| add_to(&mut state, slot))?;
        self.estimator.visit(&mut |_, slot| add_to(&mut snapshot, slot))?;
        Ok((state, snapshot))
    }

    /// Shows everything that a run needs besides its weights to go on as if nothing had happened.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.rule.visit(&mut |name, slot| visit(&format!("rule.{name}"), slot))?;
        self.estimator.visit(&mut |name, slot| visit(&format!("estimator.{name}"), slot))
    }
}

/// Which gradients a method goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Function values alone.
    Zeroth,
    /// A backward pass for the weights that `--fo-params` names, function values for the others.
    Mixed,
    /// A backward pass alone.
    First,
}

/// The two-point estimator that a method takes unless told otherwise. No radius: the one that follows the model's size.
#[derive(Clone, Copy, Debug)]
pub struct Smoothing {
    sides: Sides,
    distribution: Distribution,
    num_directions: usize,
    zo_eps: Option<f64>,
}

/// A learning rate where none is given.
#[derive(Clone, Copy, Debug)]
enum Rate {
    /// A multiple of 0.016 / sqrt(d): the variance of the estimate grows with the number of weights d. Made for MeZO's 20,000
    /// steps: for ZO-SGD 1e-5 at 2.6 M weights (docs/results.md), 1.4e-7 at 13 billion, where MeZO takes 1e-7 to 1e-6. Short
    /// runs bear more.
    Estimated(f64),
    /// The same for any d.
    Fixed(f64),
}

/// A method: its name, its knobs, where it is from, how it is made.
pub struct Method {
    /// As `--optimizer` takes it.
    pub name: &'static str,
    /// The knobs that it has, as flags without their dashes.
    knobs: &'static [&'static [&'static str]],
    /// Which gradients it goes by.
    pub order: Order,
    /// The default learning rate.
    rate: Rate,
    /// The paper.
    pub source: &'static str,
    /// Its estimator by `--preset code`, which is the default, and by `--preset paper`.
    smoothing: [Smoothing; 2],
    /// What its snapshots of the whole training set keep.
    keeps: Keeps,
    /// Makes it, from settings that [`Method::resolve`] has filled in.
    make: fn(&Settings, &Params) -> Result<Optimizer>,
}

/// What an estimator keeps of the whole training set.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    /// Nothing to speak of.
    Little,
    /// q directions' seeds and products, and a slope for each of them and each example.
    Slopes,
    /// A copy of the weights, and a gradient in f32.
    Copies,
}

/// The two-point estimator's.
const TWO_POINT: &[&str] = &["perturbation-mode", "num-directions", "distribution", "zo-eps"];
const FRESH: &[&str] = &["fresh-batch-per-direction"];
/// What a paper and the code that people run do differently.
const PRESET: &[&str] = &["preset"];
const DECAY: &[&str] = &["weight-decay"];
const MOMENTUM: &[&str] = &["momentum", "state-dtype"];
const SECOND_MOMENT: &[&str] = &["beta2", "zeta", "state-dtype"];
const MOMENTS: &[&str] = &["beta1", "beta2", "zeta", "state-dtype"];
const SNAPSHOT: &[&str] = &["snapshot-steps"];

const MEZO: &str = "MeZO, Malladi et al. 2023, arXiv 2305.17333";
const ZO_BENCH: &str = "ZO-Bench, Zhang et al. 2024, arXiv 2402.11592";
const R_ADAZO: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014";
const ADAMM: &str = "Chen et al. 2019, as Algorithm 1 of arXiv 2502.01014";

const GAUSSIAN: Smoothing =
    Smoothing { sides: Sides::Two, distribution: Distribution::Gaussian, num_directions: 1, zo_eps: None };
/// R-AdaZO's own settings, for the methods of its comparison.
const SPHERE_OF_TEN: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 10, zo_eps: Some(5e-3) };
const SPHERE: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 1, zo_eps: None };
/// Paper and code agree.
const AGREED: [Smoothing; 2] = [GAUSSIAN, GAUSSIAN];
const ADAPTIVE: [Smoothing; 2] = [GAUSSIAN, SPHERE_OF_TEN];

/// All methods.
#[rustfmt::skip]
pub const METHODS: &[Method] = {
    use Order::{First, Mixed, Zeroth};
    use Keeps::{Copies, Little, Slopes};
    use Rate::{Estimated, Fixed};
    &[
        Method { name: "zo-sgd", knobs: &[TWO_POINT, FRESH, DECAY], order: Zeroth, rate: Estimated(1.0), source: MEZO, smoothing: AGREED, keeps: Little, make: |s, _| Ok(zeroth(s, walked(zo_sgd::ZoSgd, s))) },
        Method { name: "zo-sgd-momentum", knobs: &[TWO_POINT, FRESH, DECAY, MOMENTUM], order: Zeroth, rate: Estimated(0.1), source: ZO_BENCH, smoothing: AGREED, keeps: Little, make: |s, p| Ok(zeroth(s, fused(zo_sgd_momentum::ZoSgdMomentum::new(s), s, p))) },
        Method { name: "zo-sign", knobs: &[TWO_POINT, FRESH, DECAY], order: Zeroth, rate: Estimated(10.0), source: "ZO-signSGD, Liu et al. 2019, ICLR", smoothing: AGREED, keeps: Little, make: |s, p| Ok(zeroth(s, fused(zo_sign::ZoSign::new(), s, p))) },
        Method { name: "zo-sign-scalar", knobs: &[TWO_POINT, FRESH, DECAY], order: Zeroth, rate: Estimated(10.0), source: ZO_BENCH, smoothing: AGREED, keeps: Little, make: |s, _| Ok(zeroth(s, walked(zo_sign_scalar::ZoSignScalar, s))) },
        Method { name: "zo-conservative", knobs: &[TWO_POINT], order: Zeroth, rate: Estimated(1.0), source: ZO_BENCH, smoothing: AGREED, keeps: Little, make: |s, _| Ok(zo_conservative::make(s)) },
        Method { name: "zo-rmsprop", knobs: &[TWO_POINT, FRESH, PRESET, DECAY, SECOND_MOMENT], order: Zeroth, rate: Estimated(10.0), source: R_ADAZO, smoothing: ADAPTIVE, keeps: Little, make: |s, p| Ok(zeroth(s, fused(zo_rmsprop::ZoRmsProp::new(s), s, p))) },
        Method { name: "zo-adamm", knobs: &[TWO_POINT, FRESH, PRESET, DECAY, MOMENTS, &["amsgrad"]], order: Zeroth, rate: Estimated(10.0), source: ADAMM, smoothing: ADAPTIVE, keeps: Little, make: |s, p| Ok(zo_adamm::make(s, p)) },
        Method { name: "zo-adam", knobs: &[TWO_POINT, FRESH, DECAY, MOMENTS], order: Zeroth, rate: Estimated(10.0), source: ZO_BENCH, smoothing: AGREED, keeps: Little, make: |s, p| Ok(zeroth(s, fused(adam::Adam::new(s), s, p))) },
        Method { name: "r-adazo", knobs: &[TWO_POINT, FRESH, PRESET, DECAY, MOMENTS], order: Zeroth, rate: Estimated(2.5), source: R_ADAZO, smoothing: ADAPTIVE, keeps: Little, make: |s, p| Ok(zeroth(s, fused(r_adazo::RAdaZo::new(s), s, p))) },
        Method { name: "meazo", knobs: &[TWO_POINT, FRESH, DECAY, &["beta2", "zeta"]], order: Zeroth, rate: Estimated(10.0), source: "MEAZO, arXiv 2605.03869", smoothing: AGREED, keeps: Little, make: |s, _| Ok(zeroth(s, walked(meazo::Meazo::new(s), s))) },
        Method { name: "mezo-svrg", knobs: &[TWO_POINT, SNAPSHOT], order: Zeroth, rate: Estimated(1.0), source: "MeZO-SVRG, Gautam et al. 2024, arXiv 2404.08080", smoothing: AGREED, keeps: Little, make: |s, _| Ok(mezo_svrg::make(s)) },
        Method { name: "vamo", knobs: &[TWO_POINT, DECAY, SNAPSHOT, &["alpha", "max-directions", "direction-tolerance", "fo-params"]], order: Mixed, rate: Fixed(1e-3), source: "VAMO, Chen and Ma 2025, arXiv 2505.13954", smoothing: [SPHERE, SPHERE], keeps: Slopes, make: |s, p| Ok(vamo::make(s, p)) },
        Method { name: "sgd", knobs: &[TWO_POINT, DECAY, &["fo-params"]], order: Mixed, rate: Fixed(1e-3), source: "Robbins and Monro 1951", smoothing: AGREED, keeps: Little, make: |s, p| Ok(sgd::make(s, p)) },
        Method { name: "adamw", knobs: &[DECAY, MOMENTS], order: First, rate: Fixed(1e-5), source: "Loshchilov and Hutter 2019, arXiv 1711.05101", smoothing: AGREED, keeps: Little, make: |s, p| Ok(Optimizer { estimator: Box::new(sgd::Backprop::new(s)), rule: fused(adam::Adam::new(s), s, p) }) },
        Method { name: "svrg", knobs: &[DECAY, SNAPSHOT], order: First, rate: Fixed(1e-3), source: "Johnson and Zhang 2013, NIPS", smoothing: AGREED, keeps: Copies, make: |s, p| svrg::make(s, p) },
    ]
};

/// The method of that name.
pub fn method(name: &str) -> Result<&'static Method> {
    METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
        usage!("--optimizer: there is no method \"{name}\": {}", nearest(name, METHODS.iter().map(|m| m.name)))
    })
}

/// The estimator of a plan that was set up.
pub fn estimator(plan: &Plan) -> Result<Box<dyn Estimator>> {
    Ok(method(&plan.optimizer)?.make(&plan.settings, &Params::new(DType::F32))?.estimator)
}

impl Method {
    /// The knobs that it has, as flags without their dashes.
    pub fn knobs(&self) -> impl Iterator<Item = &'static str> {
        self.knobs.iter().flat_map(|group| group.iter().copied())
    }

    /// Whether its two-point estimator is for the weights alone that get no first-order gradient. (VAMO's is its snapshot's.)
    fn estimates_the_rest(&self) -> bool {
        self.order == Order::Mixed && matches!(self.keeps, Keeps::Little)
    }

    /// Refuses a knob that was given and that the method does not have, or does not use.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        if self.estimates_the_rest()
            && self.fo_params(settings) == Selection::All
            && let Some(knob) = settings.given()?.iter().find(|knob| TWO_POINT.contains(&knob.as_str()))
        {
            return Err(usage!("--{knob}: {} with --fo-params all estimates nothing; give --fo-params too", self.name));
        }
        match settings.given()?.iter().find(|knob| !self.knobs().any(|own| own == **knob)) {
            Some(knob) => {
                let knobs: Vec<&str> = self.knobs().collect();
                Err(usage!("--{knob}: {} has no such knob; its knobs are: {}", self.name, knobs.join(", ")))
            }
            None => Ok(()),
        }
    }

    /// Whether its estimates follow from the values of its functions, so far as it needs no first-order gradient.
    pub fn replays(&self) -> bool {
        !matches!(self.keeps, Keeps::Slopes)
    }

    /// The weights that get a first-order gradient.
    pub fn fo_params(&self, settings: &Settings) -> Selection {
        match self.order {
            Order::Zeroth => Selection::None,
            Order::Mixed => settings.fo_params.clone().unwrap_or(Selection::All),
            Order::First => Selection::All,
        }
    }

    /// Fills in what was not given, for `num_trained` weights that suit the radius `zo_eps`, `num_estimated` of them without a
    /// first-order gradient, and an epoch of `epoch` steps. What a method does not use stays as it is.
    pub fn resolve(&self, given: &Settings, zo_eps: f64, num_trained: usize, num_estimated: usize, epoch: u64) -> Settings {
        let mut settings = given.clone();
        let smoothing = self.smoothing[usize::from(given.preset == Some(Preset::Paper))];
        let num_weights = if self.estimates_the_rest() { num_estimated } else { num_trained };
        if self.order != Order::First && num_weights > 0 {
            let distribution = *settings.distribution.get_or_insert(smoothing.distribution);
            settings.perturbation_mode.get_or_insert(smoothing.sides);
            settings.num_directions.get_or_insert(smoothing.num_directions);
            // The radius, or on the sphere the one that goes equally far.
            let default = match distribution {
                Distribution::Sphere => smoothing.zo_eps.unwrap_or(zo_eps * (num_weights as f64).sqrt()),
                _ => zo_eps,
            };
            settings.zo_eps.get_or_insert(default);
        }
        if self.order == Order::Mixed {
            settings.fo_params = Some(self.fo_params(given));
        }
        if self.knobs().any(|knob| knob == "snapshot-steps") {
            settings.snapshot_steps.get_or_insert(if self.order == Order::Zeroth { 10 } else { epoch });
        }
        settings
    }

    /// The learning rate where none is given, for `num_trained` weights, `num_estimated` of them without a first-order
    /// gradient. Those bear no more than ZO-SGD's, and a hybrid has one rate for all.
    pub fn learning_rate(&self, num_trained: usize, num_estimated: usize) -> f64 {
        let zo_sgd = |d: usize| 0.016 / (d as f64).sqrt();
        match self.rate {
            Rate::Estimated(multiple) => multiple * zo_sgd(num_trained),
            Rate::Fixed(rate) if num_estimated > 0 => rate.min(zo_sgd(num_estimated)),
            Rate::Fixed(rate) => rate,
        }
    }

    /// Bytes of what its snapshots keep, for so many examples and trained weights of `size` bytes each.
    pub fn snapshot_bytes(&self, settings: &Settings, num_weights: usize, size: usize, num_examples: usize) -> usize {
        let q = settings.max_directions.or(settings.num_directions).unwrap_or(1);
        match self.keeps {
            Keeps::Little => 0,
            Keeps::Slopes => 8 * (q + q * num_examples + q * q),
            Keeps::Copies => num_weights * (size + 4),
        }
    }

    /// Makes the method, from settings that are resolved, for weights whose roles are set.
    pub fn make(&self, settings: &Settings, params: &Params) -> Result<Optimizer> {
        (self.make)(settings, params)
    }
}

/// 1 - beta as people write it.
fn rest(beta: f32) -> f64 {
    (1e6 * (1.0 - f64::from(beta))).round() / 1e6
}

/// A knob in f32, where arithmetic is done.
fn or(given: Option<f64>, default: f32) -> f32 {
    given.map_or(default, |x| x as f32)
}

/// The two-point estimator as the settings have it.
fn two_point(settings: &Settings) -> TwoPoint {
    TwoPoint {
        sides: settings.perturbation_mode.unwrap_or_default(),
        distribution: settings.distribution.unwrap_or_default(),
        zo_eps: or(settings.zo_eps, 1e-3),
        num_directions: settings.num_directions.unwrap_or(1),
        fresh_batches: settings.fresh_batch_per_direction.unwrap_or(false),
    }
}

/// A method that goes by the two-point estimate of its mini-batch.
fn zeroth(settings: &Settings, rule: Box<dyn Rule>) -> Optimizer {
    Optimizer { estimator: Box::new(two_point(settings)), rule }
}
