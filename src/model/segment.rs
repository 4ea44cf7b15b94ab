//! Where in a model a weight stands. The loader notes it as an architecture loads its weights.

use crate::params::ParamId;

/// The parts of a model, from the tokens up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// What embeds tokens; a tied head's weight is there.
    Stem,
    /// A block, from 0.
    Block(usize),
    /// What stands between the last block and the logits.
    Head,
}

/// A weight's place.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which weight.
    pub id: ParamId,
    /// Where it stands.
    pub segment: Segment,
    /// Its name; in a block what follows the block's own.
    pub name: String,
}
