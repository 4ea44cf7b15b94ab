//! ZO-SGD: theta <- theta - lr (g + weight_decay theta), g the estimate (MeZO, Algorithm 1; arXiv 2305.17333).

use super::rule::DirectionRule;
use crate::direction::Term;
use crate::direction::term::scaled;
use crate::zo::step_context::StepContext;

/// No state.
pub struct ZoSgd;

impl DirectionRule for ZoSgd {
    fn moves(&mut self, at: &StepContext, terms: &[Term]) -> Vec<Term> {
        scaled(terms, -at.learning_rate)
    }

    fn definition(&self) -> String {
        "theta -= lr g".into()
    }
}
