//! Which weight, where its gradient comes from, and sets of weights by that.

/// Which weight: an index into the order of [`Params`]. Tied weights share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(super) usize);

/// Where a weight's gradient comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// From function values: it walks along directions.
    Estimated,
    /// From a backward pass.
    Differentiated,
    /// From nowhere: it stays as it is.
    Frozen,
}

/// The weights that a direction spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamSet {
    /// Those whose gradient is estimated. In a zeroth-order run these are all that are trained.
    Estimated,
    /// All that are trained, those with a first-order gradient included.
    Trained,
}

impl ParamSet {
    pub(super) fn holds(self, role: Role) -> bool {
        role == Role::Estimated || (self == ParamSet::Trained && role == Role::Differentiated)
    }
}
