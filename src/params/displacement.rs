//! What is pending for a weight, folded into one map.

use crate::noise::{Key, Leg, Share, Term, gather};

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

    /// What the weights are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The way back and the update go along one direction: it is drawn once.
    pub fn walk(&mut self, term: Term) {
        gather(&mut self.terms, term);
    }

    /// Weight decay: what was walked so far shrinks with the weights.
    pub fn shrink(&mut self, factor: f32) {
        self.scale *= factor;
        self.terms.iter_mut().for_each(|t| t.coeff *= factor);
    }

    /// The pending moves and a gradient's terms side by side, so that a direction of both is drawn once.
    pub fn shares<'t>(&self, gradient: impl Iterator<Item = &'t Term>, key: impl Fn(u64) -> Key) -> Vec<Share> {
        let share = |seed, pending, gradient| (seed, Share { key: key(seed), pending, gradient });
        let mut shares: Vec<(u64, Share)> = self.terms.iter().map(|t| share(t.seed, t.coeff, 0.0)).collect();
        for term in gradient {
            match shares.iter_mut().find(|(seed, _)| *seed == term.seed) {
                Some((_, same)) => same.gradient += term.coeff,
                None => shares.push(share(term.seed, 0.0, term.coeff)),
            }
        }
        shares.into_iter().map(|(_, share)| share).collect()
    }

    /// As a pass takes it; None where it moves nothing.
    pub fn leg(&self, key: impl Fn(u64) -> Key) -> Option<Leg> {
        let moves = self.scale != 1.0 || !self.terms.is_empty();
        moves.then(|| Leg { scale: self.scale, terms: self.terms.iter().map(|t| (key(t.seed), t.coeff)).collect() })
    }
}
