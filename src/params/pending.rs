//! Pending moves of a weight, composed into one affine map.

use super::role::ParamSet;
use crate::device::cpu::AffineMove;
use crate::direction::term::gather;
use crate::direction::{Key, Term};

/// A pending move.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    Along(ParamSet, Term),
    Shrink(f32),
    /// End of a step: the moves before it are rounded stochastically from this seed, separately from those after it,
    /// whether or not the weights are read in between.
    EndStep(u64),
}

/// A weight's pending moves between two roundings, composed: theta <- scale * theta + sum of coeff * z.
pub struct Displacement {
    scale: f32,
    terms: Vec<Term>,
}

impl Displacement {
    /// The identity.
    pub fn none() -> Self {
        Displacement { scale: 1.0, terms: Vec::new() }
    }

    /// Drops terms that cancelled.
    pub fn simplified(mut self) -> Self {
        self.terms.retain(|t| t.coeff != 0.0);
        self
    }

    /// Adds a term; terms along one direction are merged, so that it is drawn once.
    pub fn perturb(&mut self, term: Term) {
        gather(&mut self.terms, term);
    }

    /// Weight decay: scales theta and the terms so far.
    pub fn shrink(&mut self, factor: f32) {
        self.scale *= factor;
        self.terms.iter_mut().for_each(|t| t.coeff *= factor);
    }

    /// The map for a pass, rounded stochastically under `rounding` if given; None for the identity.
    pub fn affine_move(&self, key: impl Fn(&Term) -> Key, rounding: Option<Key>) -> Option<AffineMove> {
        let moves = self.scale != 1.0 || !self.terms.is_empty();
        let terms = || self.terms.iter().map(|t| (key(t), t.coeff)).collect();
        moves.then(|| AffineMove { scale: self.scale, terms: terms(), rounding })
    }
}
