//! Terms coeff * z(seed): a zeroth-order gradient is a list of them.

/// The distribution of a direction's coordinates. (A direction on the sphere is a Gaussian one with its coefficient divided
/// by its norm.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// z ~ N(0, I).
    Gaussian,
    /// Each coordinate +1 or -1 with equal probability.
    Rademacher,
}

/// coeff * z(seed): a multiple of one direction, which is never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Distribution of z.
    pub direction: Direction,
    /// Seed of z.
    pub seed: u64,
    /// Coefficient of z.
    pub coeff: f32,
}

impl Term {
    /// coeff * z(seed) with Gaussian z.
    pub fn gaussian(seed: u64, coeff: f32) -> Self {
        Direction::Gaussian.term(seed, coeff)
    }

    /// Whether both are multiples of the same direction.
    pub fn is_along(&self, other: &Term) -> bool {
        (self.direction, self.seed) == (other.direction, other.seed)
    }
}

impl Direction {
    /// coeff * z(seed) with z of this distribution.
    pub fn term(self, seed: u64, coeff: f32) -> Term {
        Term { direction: self, seed, coeff }
    }
}

/// factor * each term.
pub fn scaled(terms: &[Term], factor: f32) -> Vec<Term> {
    terms.iter().map(|t| Term { coeff: factor * t.coeff, ..*t }).collect()
}

/// Adds a term to a list that holds each direction once.
pub fn gather(terms: &mut Vec<Term>, term: Term) {
    match terms.iter_mut().find(|t| t.is_along(&term)) {
        Some(same) => same.coeff += term.coeff,
        None => terms.push(term),
    }
}
