//! Directions by name, and how far along them: what a zeroth-order gradient is a list of.

/// What the coordinates of a direction are drawn from. (A direction on the sphere is a Gaussian one whose term is divided by its length.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// z ~ N(0, I).
    Gaussian,
    /// Every coordinate +1 or -1 with equal chances.
    Rademacher,
}

/// One direction and how far along it. The direction itself is never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// With the seed it names the direction: z(seed, ., .).
    pub direction: Direction,
    /// Names the direction among those of its kind.
    pub seed: u64,
    /// The multiple of the direction.
    pub coeff: f32,
}

impl Term {
    /// A multiple of a Gaussian direction.
    pub fn gaussian(seed: u64, coeff: f32) -> Self {
        Direction::Gaussian.term(seed, coeff)
    }

    /// Whether both go along the same direction.
    pub fn is_along(&self, other: &Term) -> bool {
        (self.direction, self.seed) == (other.direction, other.seed)
    }
}

impl Direction {
    /// A multiple of the direction of this kind that `seed` names.
    pub fn term(self, seed: u64, coeff: f32) -> Term {
        Term { direction: self, seed, coeff }
    }
}

/// All terms, `factor` times as far.
pub fn scaled(terms: &[Term], factor: f32) -> Vec<Term> {
    terms.iter().map(|t| Term { coeff: factor * t.coeff, ..*t }).collect()
}

/// Adds a term to a list in which each direction stands once.
pub fn gather(terms: &mut Vec<Term>, term: Term) {
    match terms.iter_mut().find(|t| t.is_along(&term)) {
        Some(same) => same.coeff += term.coeff,
        None => terms.push(term),
    }
}
