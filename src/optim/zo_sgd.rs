//! ZO-SGD: theta <- theta - lr (g + weight_decay theta), g the estimate (MeZO, Algorithm 1; arXiv 2305.17333).

use super::rule::Linear;
use crate::estimator::At;
use crate::noise::{Term, scaled};

/// No state.
pub struct ZoSgd;

impl Linear for ZoSgd {
    fn moves(&mut self, at: &At, terms: &[Term]) -> Vec<Term> {
        scaled(terms, -at.learning_rate)
    }

    fn definition(&self) -> String {
        "theta -= lr g".into()
    }
}
