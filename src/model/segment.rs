//! The position of each weight in a model, recorded by the loader.

use crate::params::ParamId;

/// The segments of a model, from the tokens up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// The embedding, tied to the head or not.
    Stem,
    /// A block, from 0.
    Block(usize),
    /// What follows the last block.
    Head,
}

/// The position of a weight.
#[derive(Clone, Debug)]
pub struct Place {
    /// The weight.
    pub id: ParamId,
    /// Its segment.
    pub segment: Segment,
    /// Its name; in a block the part after the block's prefix.
    pub name: String,
}
