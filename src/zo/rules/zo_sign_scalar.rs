//! theta <- theta - lr sign(c) z, the sign of the projected gradient: ZO-Bench's code calls it sign (arXiv 2402.11592).

use super::rule::DirectionRule;
use crate::direction::Term;
use crate::zo::step_context::StepContext;

/// No state. Of several directions each has its own sign and weight 1/q.
pub struct ZoSignScalar;

impl DirectionRule for ZoSignScalar {
    fn moves(&mut self, at: &StepContext, terms: &[Term]) -> Vec<Term> {
        let share = at.learning_rate / terms.len() as f32;
        let moving = terms.iter().filter(|t| t.coeff != 0.0);
        moving.map(|t| Term { coeff: -share * t.coeff.signum(), ..*t }).collect()
    }

    fn definition(&self) -> String {
        "theta -= lr sign(c) z, the mean over the directions".into()
    }
}
