//! What is pending for a weight, folded into one map.

use super::role::ParamSet;
use crate::device::cpu::AffineMove;
use crate::direction::term::gather;
use crate::direction::{Key, Term};

/// A displacement that has not been applied yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    Along(ParamSet, Term),
    Shrink(f32),
    /// What comes behind it finds the weights rounded, at random from this seed, whether or not somebody read them here.
    EndStep(u64),
}

/// One weight's pending moves, up to where it is rounded, as an affine map: scale * theta + sum of terms.
pub struct Displacement {
    scale: f32,
    terms: Vec<Term>,
}

impl Displacement {
    /// Nothing is pending.
    pub fn none() -> Self {
        Displacement { scale: 1.0, terms: Vec::new() }
    }

    /// Without directions that the weights have come back along.
    pub fn simplified(mut self) -> Self {
        self.terms.retain(|t| t.coeff != 0.0);
        self
    }

    /// Several moves along one direction are one: it is drawn once.
    pub fn perturb(&mut self, term: Term) {
        gather(&mut self.terms, term);
    }

    /// Weight decay: what was walked so far shrinks with the weights.
    pub fn shrink(&mut self, factor: f32) {
        self.scale *= factor;
        self.terms.iter_mut().for_each(|t| t.coeff *= factor);
    }

    /// As a pass takes it, rounded at random under `rounding` where there is one; None where it moves nothing.
    pub fn affine_move(&self, key: impl Fn(&Term) -> Key, rounding: Option<Key>) -> Option<AffineMove> {
        let moves = self.scale != 1.0 || !self.terms.is_empty();
        let terms = || self.terms.iter().map(|t| (key(t), t.coeff)).collect();
        moves.then(|| AffineMove { scale: self.scale, terms: terms(), rounding })
    }
}
