//! The rules that turn an estimate into a move of the weights: one file a method, one line in the table.

mod zo_sgd;

use anyhow::Result;

use crate::error::nearest;
use crate::estimator::Estimate;
use crate::params::Params;

/// Consumes an estimate. The weights move in [`Params`]; a rule only says how.
pub trait Rule {
    /// One update with learning rate `lr`.
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()>;

    /// Bytes of state that the rule holds beside the weights.
    fn state_bytes(&self) -> usize;
}

/// The settings that rules are made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// wd in theta -= lr (g + wd theta).
    pub weight_decay: f32,
}

/// A method: its name, what it does in one line, where it is from, and how it is made.
pub struct Method {
    /// As `--optimizer` takes it.
    pub name: &'static str,
    /// The update rule, the estimate it takes.
    pub definition: &'static str,
    /// The paper.
    pub source: &'static str,
    /// Makes its rule.
    pub build: fn(&Settings) -> Box<dyn Rule>,
}

/// All methods.
pub const METHODS: &[Method] = &[Method {
    name: "zo-sgd",
    definition: "theta -= lr (g + weight_decay theta), two-side, N(0, I)",
    source: "MeZO, Malladi et al. 2023, arXiv 2305.17333",
    build: |settings| Box::new(zo_sgd::ZoSgd::new(settings)),
}];

/// The method of that name.
pub fn method(name: &str) -> Result<&'static Method> {
    METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
        usage!("--optimizer: there is no method \"{name}\": {}", nearest(name, METHODS.iter().map(|m| m.name)))
    })
}
