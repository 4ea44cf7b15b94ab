//! Update rules, of two kinds: fused passes with state, and moves along the estimate's own directions.

use anyhow::{Result, bail};

use crate::direction::Term;
use crate::params::{Params, State, StateDtype, UpdateInput, Visit};
use crate::zo::estimate::Estimate;
use crate::zo::numbers::f32_or;
use crate::zo::problem::Gradients;
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

pub(super) use crate::device::cpu::update::{Kernel, kernel};

/// A step's first-order gradient, if it has one.
pub type Streamed<'a, 'g> = Option<&'a mut (dyn Gradients + 'g)>;

/// Updates the weights from a step's gradient. All moves go through [`Params`].
pub trait Rule {
    /// One update. Returns the norm of the first-order gradient, if there was one.
    fn step(
        &mut self,
        at: &StepContext,
        params: &mut Params,
        estimate: &Estimate,
        gradients: Streamed,
    ) -> Result<Option<f64>>;

    /// The equations with their numbers, printed at the start and stored in run.json.
    fn definition(&self) -> String;

    /// Visits the state between steps.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// The elementwise equations of a rule with state, or not linear in the gradient.
pub trait Equations<const S: usize> {
    /// Names of the state's buffers.
    const STATE: [&'static str; S];

    /// The update of one element in this step: (theta, gradient, state) to the new theta and state.
    fn at(&self, step: &StepContext) -> impl Kernel<S>;

    /// As [`Rule::definition`].
    fn definition(&self) -> String;
}

/// A rule from its equations: `S` buffers of state, one fused pass per step.
struct Fused<E, const S: usize> {
    equations: E,
    weight_decay: f32,
    state_dtype: StateDtype,
    state: State<S>,
}

/// The rule with zero state for `params`.
pub(crate) fn fused<E: Equations<S> + 'static, const S: usize>(
    equations: E,
    settings: &Settings,
    params: &Params,
) -> Box<dyn Rule> {
    let state_dtype = settings.state_dtype.unwrap_or_default();
    let state = params.state(E::STATE, state_dtype);
    Box::new(Fused { equations, weight_decay: f32_or(settings.weight_decay, 0.0), state_dtype, state })
}

impl<E: Equations<S>, const S: usize> Rule for Fused<E, S> {
    /// Weights with a first-order gradient are updated as it arrives, the others in one pass afterwards.
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
        let held = if S > 0 && self.state_dtype == StateDtype::Bf16 { "; state in bf16, rounded at random" } else { "" };
        with_weight_decay(format!("{}{held}", self.equations.definition()), self.weight_decay)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.state.visit(visit)
    }
}

/// The equations, and weight decay if there is any: decoupled from the gradient for every rule.
fn with_weight_decay(equations: String, weight_decay: f32) -> String {
    match weight_decay {
        0.0 => equations,
        decay => format!("{equations}; theta -= lr {decay} theta"),
    }
}

/// A rule that moves the weights along the estimate's own directions.
pub(crate) trait DirectionRule {
    /// The moves of a step.
    fn moves(&mut self, at: &StepContext, terms: &[Term]) -> Vec<Term>;

    /// As [`Rule::definition`], without weight decay.
    fn definition(&self) -> String;

    /// As [`Rule::visit`].
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// Moves and weight decay stay pending until the weights are read, and are applied in one pass.
struct Directional<R> {
    rule: R,
    weight_decay: f32,
}

/// The rule with weight decay from the settings.
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
        with_weight_decay(self.rule.definition(), self.weight_decay)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.rule.visit(visit)
    }
}
