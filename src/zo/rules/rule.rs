//! What a rule is, and the two kinds that there are: a fused pass of equations with state, and moves along the estimate's own
//! directions.

use anyhow::{Result, bail};

use crate::direction::Term;
use crate::params::{Params, State, StateDtype, UpdateInput, Visit};
use crate::zo::estimate::Estimate;
use crate::zo::numbers::f32_or;
use crate::zo::problem::Gradients;
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

pub(super) use crate::device::cpu::update::{Kernel, kernel};

/// A first-order gradient, where a step has one.
pub type Streamed<'a, 'g> = Option<&'a mut (dyn Gradients + 'g)>;

/// Consumes a step's gradient. The weights move in [`Params`]; a rule only says how.
pub trait Rule {
    /// One update. The length of the first-order gradient comes back, where there was one.
    fn step(
        &mut self,
        at: &StepContext,
        params: &mut Params,
        estimate: &Estimate,
        gradients: Streamed,
    ) -> Result<Option<f64>>;

    /// With its numbers filled in: what is printed at the start and kept in run.json.
    fn definition(&self) -> String;

    /// Shows the state that it holds beside the weights.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// The equations of a rule that has state, or is not linear in the gradient.
pub trait Equations<const S: usize> {
    /// What its numbers of state are called.
    const STATE: [&'static str; S];

    /// The arithmetic of a step at one weight: (theta, gradient, state) to the new theta and state.
    fn at(&self, step: &StepContext) -> impl Kernel<S>;

    /// As [`Rule::definition`].
    fn definition(&self) -> String;
}

/// A rule made of its equations: `S` buffers of state, one fused pass a step.
struct Fused<E, const S: usize> {
    equations: E,
    weight_decay: f32,
    held: StateDtype,
    state: State<S>,
}

/// The rule with state of zeros for `params`.
pub(crate) fn fused<E: Equations<S> + 'static, const S: usize>(
    equations: E,
    settings: &Settings,
    params: &Params,
) -> Box<dyn Rule> {
    let held = settings.state_dtype.unwrap_or_default();
    let state = params.state(E::STATE, held);
    Box::new(Fused { equations, weight_decay: f32_or(settings.weight_decay, 0.0), held, state })
}

impl<E: Equations<S>, const S: usize> Rule for Fused<E, S> {
    /// Weights with a first-order gradient are updated as it comes, those without in one pass behind it.
    fn step(
        &mut self,
        at: &StepContext,
        params: &mut Params,
        estimate: &Estimate,
        gradients: Streamed,
    ) -> Result<Option<f64>> {
        let kernel = self.equations.at(at);
        let shrink = 1.0 - at.learning_rate * self.weight_decay;
        let input = UpdateInput { terms: &estimate.terms, correction: &estimate.correction, shrink, seed: at.seed(0) };
        let mut squares = None;
        if let Some(gradients) = gradients {
            let squares = squares.insert(0.0);
            while let Some(block) = gradients.next(params.settle()?)? {
                for (id, gradient) in block {
                    *squares += gradient.squared_norm();
                    params.update_one(id, &gradient, &input, &mut self.state, &kernel)?;
                }
            }
        }
        params.update(&input, &mut self.state, &kernel)?;
        Ok(squares.map(f64::sqrt))
    }

    fn definition(&self) -> String {
        let held = if S > 0 && self.held == StateDtype::Bf16 { "; state in bf16, rounded at random" } else { "" };
        defined(format!("{}{held}", self.equations.definition()), self.weight_decay)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.state.visit(visit)
    }
}

/// A rule's equations, and its weight decay where it has one: of every rule the same, apart from the gradient.
fn defined(equations: String, weight_decay: f32) -> String {
    match weight_decay {
        0.0 => equations,
        decay => format!("{equations}; theta -= lr {decay} theta"),
    }
}

/// A rule that moves the weights along the estimate's own directions.
pub(crate) trait DirectionRule {
    /// How far along which.
    fn moves(&mut self, at: &StepContext, terms: &[Term]) -> Vec<Term>;

    /// As [`Rule::definition`], without weight decay.
    fn definition(&self) -> String;

    /// As [`Rule::visit`].
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// Its moves and weight decay stay pending until the weights are read, and are applied in one pass.
struct Directional<R> {
    rule: R,
    weight_decay: f32,
}

/// The rule with the settings' weight decay.
pub(crate) fn directional<R: DirectionRule + 'static>(rule: R, settings: &Settings) -> Box<dyn Rule> {
    Box::new(Directional { rule, weight_decay: f32_or(settings.weight_decay, 0.0) })
}

impl<R: DirectionRule> Rule for Directional<R> {
    fn step(
        &mut self,
        at: &StepContext,
        params: &mut Params,
        estimate: &Estimate,
        gradients: Streamed,
    ) -> Result<Option<f64>> {
        if gradients.is_some() {
            bail!("{} moves along directions alone and has no use for a first-order gradient", self.rule.definition());
        }
        params.shrink(1.0 - at.learning_rate * self.weight_decay);
        params.perturb(&self.rule.moves(at, &estimate.terms));
        params.end_step(at.seed(0))?;
        Ok(None)
    }

    fn definition(&self) -> String {
        defined(self.rule.definition(), self.weight_decay)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.rule.visit(visit)
    }
}
