//! What a method is: the gradient it goes by, its knobs and their defaults.

use anyhow::Result;

use super::optimizer::Optimizer;
use super::selection::Selection;
use super::settings::{Distribution, Preset, Settings, Sides};
use crate::params::Params;

/// The two-point estimator's knobs.
pub(super) const TWO_POINT: &[&str] = &["perturbation-mode", "num-directions", "distribution", "zo-eps"];

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
pub(super) enum Rate {
    /// A multiple of 0.016 / sqrt(d): the variance of the estimate grows with the number of weights d. Made for MeZO's 20,000
    /// steps: for ZO-SGD 1e-5 at 2.6 M weights (docs/results.md), 1.4e-7 at 13 billion, where MeZO takes 1e-7 to 1e-6. Short
    /// runs bear more.
    Estimated(f64),
    /// The same for any d.
    Fixed(f64),
}

/// Groups of knobs, as flags without their dashes.
type RawArgs = &'static [&'static [&'static str]];

/// How a method is made: from settings that [`Method::resolve`] has filled in.
type Make = fn(&Settings, &Params) -> Result<Optimizer>;

/// MeZO's estimator.
pub(super) const GAUSSIAN: Smoothing =
    Smoothing { sides: Sides::Two, distribution: Distribution::Gaussian, num_directions: 1, zo_eps: None };
/// R-AdaZO's own settings, for the methods of its comparison.
pub(super) const SPHERE_OF_TEN: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 10, zo_eps: Some(5e-3) };
/// VAMO's estimator.
pub(super) const SPHERE: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 1, zo_eps: None };

/// A method: its name, its knobs, where it is from, how it is made.
#[derive(Clone, Copy)]
pub struct Method {
    /// As `--optimizer` takes it.
    pub name: &'static str,
    /// The knobs that it has, as flags without their dashes.
    knobs: RawArgs,
    /// Which gradients it goes by.
    pub order: Order,
    /// The default learning rate.
    rate: Rate,
    /// The paper.
    pub source: &'static str,
    /// Its estimator by `--preset code`, which is the default, and by `--preset paper`.
    smoothing: [Smoothing; 2],
    /// What its snapshots of the whole training set store.
    snapshot_cost: SnapshotCost,
    make: Make,
}

/// What an estimator stores of a snapshot of the whole training set.
#[derive(Clone, Copy, Debug)]
pub(super) enum SnapshotCost {
    /// A few numbers at most.
    Nothing,
    /// q directions' seeds and products, and a slope for each of them and each example.
    Slopes,
    /// A copy of the weights, and a gradient in f32.
    Copies,
}

impl Method {
    /// A method of function values alone, whose default learning rate is `multiple` times ZO-SGD's.
    pub(super) const fn zeroth(name: &'static str, source: &'static str, multiple: f64, knobs: RawArgs, make: Make) -> Self {
        let (order, rate, snapshot_cost) = (Order::Zeroth, Rate::Estimated(multiple), SnapshotCost::Nothing);
        Method { name, source, rate, knobs, make, order, smoothing: [GAUSSIAN; 2], snapshot_cost }
    }

    /// A method of first-order gradients, for some weights or all.
    pub(super) const fn mixed(name: &'static str, source: &'static str, rate: f64, knobs: RawArgs, make: Make) -> Self {
        Method { order: Order::Mixed, ..Self::first(name, source, rate, knobs, make) }
    }

    /// A method of first-order gradients alone.
    pub(super) const fn first(name: &'static str, source: &'static str, rate: f64, knobs: RawArgs, make: Make) -> Self {
        Method { order: Order::First, rate: Rate::Fixed(rate), ..Self::zeroth(name, source, 1.0, knobs, make) }
    }

    /// With this estimator, unless told otherwise.
    pub(super) const fn by(self, smoothing: Smoothing) -> Self {
        Method { smoothing: [smoothing; 2], ..self }
    }

    /// With this estimator by `--preset paper`.
    pub(super) const fn by_preset_paper(self, smoothing: Smoothing) -> Self {
        Method { smoothing: [self.smoothing[0], smoothing], ..self }
    }

    /// With snapshots that store so much.
    pub(super) const fn storing(self, snapshot_cost: SnapshotCost) -> Self {
        Method { snapshot_cost, ..self }
    }

    /// The knobs that it has, as flags without their dashes.
    pub fn knobs(&self) -> impl Iterator<Item = &'static str> {
        self.knobs.iter().flat_map(|group| group.iter().copied())
    }

    /// Whether its two-point estimator is for the weights alone that get no first-order gradient. (VAMO's is its snapshot's.)
    fn estimates_the_rest(&self) -> bool {
        self.order == Order::Mixed && matches!(self.snapshot_cost, SnapshotCost::Nothing)
    }

    /// Refuses a knob that was given and that the method does not have, or does not use.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        if self.estimates_the_rest()
            && self.fo_params(settings) == Selection::All
            && let Some(knob) = settings.given()?.iter().find(|knob| TWO_POINT.contains(&knob.as_str()))
        {
            let name = knob.replace('-', "_");
            return Err(usage!(
                "`{name}`: {} with `fo_params all` estimates no gradient, so this option has no effect; give \
                 other `fo_params` too",
                self.name
            ));
        }
        match settings.given()?.iter().find(|knob| !self.knobs().any(|own| own == **knob)) {
            Some(knob) => {
                let name = knob.replace('-', "_");
                let knobs: Vec<String> = self.knobs().map(|own| format!("`{}`", own.replace('-', "_"))).collect();
                Err(usage!("`{name}` does not apply to {}; its options are: {}", self.name, knobs.join(", ")))
            }
            None => Ok(()),
        }
    }

    /// Whether its estimates follow from the values of its functions, so far as it needs no first-order gradient.
    pub fn replays(&self) -> bool {
        !matches!(self.snapshot_cost, SnapshotCost::Slopes)
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
        match self.snapshot_cost {
            SnapshotCost::Nothing => 0,
            SnapshotCost::Slopes => 8 * (q + q * num_examples + q * q),
            SnapshotCost::Copies => num_weights * (size + 4),
        }
    }

    /// Makes the method, from settings that are resolved, for weights whose roles are set.
    pub fn make(&self, settings: &Settings, params: &Params) -> Result<Optimizer> {
        (self.make)(settings, params)
    }
}
