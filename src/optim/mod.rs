//! The rules that turn an estimate into a move of the weights: one file a method, one line in the table.

mod meazo;
mod r_adazo;
mod zo_adam;
mod zo_adamm;
mod zo_rmsprop;
mod zo_sgd;
mod zo_sgd_momentum;
mod zo_sign;
mod zo_sign_scalar;

use anyhow::Result;

use crate::error::nearest;
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// Consumes an estimate. The weights move in [`Params`]; a rule only says how.
pub trait Rule {
    /// One update with learning rate `lr`.
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()>;

    /// Bytes of state that the rule holds beside the weights.
    fn state_bytes(&self) -> usize;

    /// The rule with its numbers filled in: what is printed at the start and kept in run.json.
    fn definition(&self) -> String;
}

/// The knobs that rules are made from, as given; a rule fills in its own defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// wd: theta shrinks by the factor 1 - lr wd a step (matrices and embeddings only).
    pub weight_decay: Option<f32>,
    /// b of momentum.
    pub momentum: Option<f32>,
    /// b1 of the first moment.
    pub beta1: Option<f32>,
    /// b2 of the second moment.
    pub beta2: Option<f32>,
    /// The small constant of the root.
    pub zeta: Option<f32>,
    /// Whether the root takes the running maximum of v.
    pub amsgrad: Option<bool>,
}

/// A method: its name, its knobs, where it is from, how it is made.
pub struct Method {
    /// As `--optimizer` takes it.
    pub name: &'static str,
    /// The knobs that it has, as flags without their dashes.
    pub knobs: &'static [&'static str],
    /// The default learning rate, as a multiple of zo-sgd's.
    pub rate: f64,
    /// The paper.
    pub source: &'static str,
    /// Makes its rule.
    pub build: fn(&Settings, &Params) -> Box<dyn Rule>,
}

const MEZO: &str = "MeZO, Malladi et al. 2023, arXiv 2305.17333";
const ZO_BENCH: &str = "ZO-Bench, Zhang et al. 2024, arXiv 2402.11592";
const R_ADAZO: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014";

/// All methods.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    Method { name: "zo-sgd", knobs: &["weight-decay"], rate: 1.0, source: MEZO, build: |s, _| Box::new(zo_sgd::ZoSgd::new(s)) },
    Method { name: "zo-sgd-momentum", knobs: &["weight-decay", "momentum"], rate: 0.1, source: ZO_BENCH, build: |s, p| fused(zo_sgd_momentum::ZoSgdMomentum::new(s), s, p) },
    Method { name: "zo-sign", knobs: &["weight-decay"], rate: 10.0, source: "ZO-signSGD, Liu et al. 2019, ICLR", build: |s, p| fused(zo_sign::ZoSign::new(), s, p) },
    Method { name: "zo-sign-scalar", knobs: &["weight-decay"], rate: 10.0, source: ZO_BENCH, build: |s, _| Box::new(zo_sign_scalar::ZoSignScalar::new(s)) },
    Method { name: "zo-rmsprop", knobs: &["weight-decay", "beta2", "zeta"], rate: 10.0, source: R_ADAZO, build: |s, p| fused(zo_rmsprop::ZoRmsProp::new(s), s, p) },
    Method { name: "zo-adamm", knobs: &["weight-decay", "beta1", "beta2", "zeta", "amsgrad"], rate: 10.0, source: "Chen et al. 2019, as Algorithm 1 of arXiv 2502.01014", build: |s, p| zo_adamm::build(s, p) },
    Method { name: "zo-adam", knobs: &["weight-decay", "beta1", "beta2", "zeta"], rate: 10.0, source: ZO_BENCH, build: |s, p| fused(zo_adam::ZoAdam::new(s), s, p) },
    Method { name: "r-adazo", knobs: &["weight-decay", "beta1", "beta2", "zeta"], rate: 2.5, source: R_ADAZO, build: |s, p| fused(r_adazo::RAdaZo::new(s), s, p) },
    Method { name: "meazo", knobs: &["weight-decay", "beta2", "zeta"], rate: 10.0, source: "MEAZO, arXiv 2605.03869", build: |s, _| Box::new(meazo::Meazo::new(s)) },
];

/// The method of that name.
pub fn method(name: &str) -> Result<&'static Method> {
    METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
        usage!("--optimizer: there is no method \"{name}\": {}", nearest(name, METHODS.iter().map(|m| m.name)))
    })
}

impl Method {
    /// Refuses a knob that was given and that the method does not have.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let given = [
            ("weight-decay", settings.weight_decay.is_some()),
            ("momentum", settings.momentum.is_some()),
            ("beta1", settings.beta1.is_some()),
            ("beta2", settings.beta2.is_some()),
            ("zeta", settings.zeta.is_some()),
            ("amsgrad", settings.amsgrad.is_some()),
        ];
        match given.iter().find(|(knob, given)| *given && !self.knobs.contains(knob)) {
            Some((knob, _)) => {
                Err(usage!("--{knob}: {} has no such knob; its knobs are: {}", self.name, self.knobs.join(", ")))
            }
            None => Ok(()),
        }
    }
}

/// The equations of a rule that has state, or is not linear in the direction: a kernel, told the step's numbers.
trait Equations<const S: usize>: Kernel<S> {
    /// The learning rate of the step that comes next, the `step`-th from 1.
    fn set(&mut self, lr: f32, step: i32);

    /// As [`Rule::definition`].
    fn definition(&self) -> String;
}

/// A rule made of its equations: `S` buffers of state, one fused pass a step.
struct Fused<E, const S: usize> {
    equations: E,
    weight_decay: Option<f32>,
    state: State<S>,
    steps: i32,
}

/// The rule with state of zeros for `params`.
fn fused<E: Equations<S> + 'static, const S: usize>(equations: E, settings: &Settings, params: &Params) -> Box<dyn Rule> {
    Box::new(Fused { equations, weight_decay: settings.weight_decay, state: params.state(), steps: 0 })
}

impl<E: Equations<S>, const S: usize> Rule for Fused<E, S> {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        self.steps += 1;
        self.equations.set(lr, self.steps);
        decay(lr, self.weight_decay, params);
        params.update(&estimate.terms, &mut self.state, &self.equations)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        self.equations.definition()
    }
}

/// Decoupled weight decay: theta *= 1 - lr wd, with the pass that comes next.
fn decay(lr: f32, weight_decay: Option<f32>, params: &mut Params) {
    params.shrink(1.0 - lr * weight_decay.unwrap_or(0.0));
}
