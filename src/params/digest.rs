//! Digests of weights: they tell the weights of one step from another's.

use anyhow::Result;
use rayon::prelude::*;

use super::weights::Weights;
use crate::base::Digest;
use crate::device::Array;

/// The digest of each trained weight's bytes, as the weight is held, in order.
pub fn trained_digests(weights: Weights) -> Result<Vec<Digest>> {
    array_digests(weights.trained().map(|(_, array)| array))
}

/// The digest of each weight's bytes.
pub fn array_digests<'a>(arrays: impl Iterator<Item = &'a Array>) -> Result<Vec<Digest>> {
    let arrays: Vec<_> = arrays.collect();
    Ok(arrays.into_par_iter().map(|array| Digest::of(array.bytes())).collect())
}
