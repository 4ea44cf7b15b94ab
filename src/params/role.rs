//! Identity and role of a weight; sets of weights by role.

/// Index of a weight in the order of [`Params`](super::Params). Tied weights share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(super) usize);

/// The source of a weight's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Function values: the weight moves along directions.
    Estimated,
    /// A backward pass.
    Differentiated,
    /// None: the weight does not change.
    Frozen,
}

/// The weights that a direction covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamSet {
    /// Those with a zeroth-order gradient: in a zeroth-order run, all that are trained.
    Estimated,
    /// All that are trained, including those with a first-order gradient.
    Trained,
}

impl ParamSet {
    pub(super) fn holds(self, role: Role) -> bool {
        role == Role::Estimated || (self == ParamSet::Trained && role == Role::Differentiated)
    }
}
