//! Digests of weights, which identify the state of a run.

use anyhow::Result;
use rayon::prelude::*;

use super::weights::Weights;
use crate::base::Digest;
use crate::device::Array;

/// The digest of each trained weight's bytes in storage precision, in the order of [`Params`](super::Params).
pub fn trained_digests(weights: Weights) -> Result<Vec<Digest>> {
    array_digests(weights.trained().map(|(_, array)| array))
}

/// The digest of each array's bytes, in order.
pub fn array_digests<'a>(arrays: impl Iterator<Item = &'a Array>) -> Result<Vec<Digest>> {
    let arrays: Vec<_> = arrays.collect();
    Ok(arrays.into_par_iter().map(|array| Digest::of(array.bytes())).collect())
}
