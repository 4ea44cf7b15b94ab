//! What a rule is, and the two kinds that there are: a fused pass of equations with state, and moves along the estimate's own
//! directions.

use anyhow::Result;

use super::or;
use crate::config::{Settings, StateDtype};
use crate::estimator::{At, Estimate};
use crate::noise::{Kernel, Term};
use crate::objective::Gradients;
use crate::params::{Descent, Params, State, Visit};

/// A first-order gradient, where a step has one.
pub type Streamed<'a, 'g> = Option<&'a mut (dyn Gradients + 'g)>;

/// Consumes a step's gradient. The weights move in [`Params`]; a rule only says how.
pub trait Rule {
    /// One update. The length of the first-order gradient comes back, where there was one.
    fn step(&mut self, at: &At, params: &mut Params, estimate: &Estimate, gradients: Streamed) -> Result<Option<f64>>;

    /// With its numbers filled in: what is printed at the start and kept in run.json.
    fn definition(&self) -> String;

    /// Shows the state that it holds beside the weights.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// The equations of a rule that has state, or is not linear in the gradient: a kernel, told the step's numbers.
pub(super) trait Equations<const S: usize>: Kernel<S> {
    /// What its numbers of state are called.
    const STATE: [&'static str; S];

    /// The numbers of the step that comes next.
    fn set(&mut self, at: &At);

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
pub(super) fn fused<E: Equations<S> + 'static, const S: usize>(
    equations: E,
    settings: &Settings,
    params: &Params,
) -> Box<dyn Rule> {
    let held = settings.state_dtype.unwrap_or_default();
    let state = params.state(E::STATE, held);
    Box::new(Fused { equations, weight_decay: or(settings.weight_decay, 0.0), held, state })
}

impl<E: Equations<S>, const S: usize> Rule for Fused<E, S> {
    /// Weights with a first-order gradient are updated as it comes, those without in one pass behind it.
    fn step(&mut self, at: &At, params: &mut Params, estimate: &Estimate, gradients: Streamed) -> Result<Option<f64>> {
        self.equations.set(at);
        let shrink = 1.0 - at.learning_rate * self.weight_decay;
        let descent = Descent { terms: &estimate.terms, correction: &estimate.correction, shrink, seed: at.seed(0) };
        let mut squares = None;
        if let Some(gradients) = gradients {
            let squares = squares.insert(0.0);
            while let Some(block) = gradients.next(params.settle()?)? {
                for (id, gradient) in block {
                    *squares += gradient.squared_norm();
                    params.update_one(id, &gradient, &descent, &mut self.state, &self.equations)?;
                }
            }
        }
        params.update(&descent, &mut self.state, &self.equations)?;
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
pub(super) trait Linear {
    /// How far along which.
    fn moves(&mut self, at: &At, terms: &[Term]) -> Vec<Term>;

    /// As [`Rule::definition`], without weight decay.
    fn definition(&self) -> String;

    /// As [`Rule::visit`].
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

/// A linear rule: its moves and weight decay are pending until somebody reads, and settle in one pass.
struct Walked<L> {
    linear: L,
    weight_decay: f32,
}

/// The rule with the settings' weight decay.
pub(super) fn walked<L: Linear + 'static>(linear: L, settings: &Settings) -> Box<dyn Rule> {
    Box::new(Walked { linear, weight_decay: or(settings.weight_decay, 0.0) })
}

impl<L: Linear> Rule for Walked<L> {
    fn step(&mut self, at: &At, params: &mut Params, estimate: &Estimate, _: Streamed) -> Result<Option<f64>> {
        params.shrink(1.0 - at.learning_rate * self.weight_decay);
        params.walk(&self.linear.moves(at, &estimate.terms));
        params.end_step(at.seed(0))?;
        Ok(None)
    }

    fn definition(&self) -> String {
        defined(self.linear.definition(), self.weight_decay)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.linear.visit(visit)
    }
}
