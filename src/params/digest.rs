//! TODO

use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use super::weights::Weights;
use crate::base::Digest;
use crate::device::bytes::with_bytes;

/// The digest of each trained weight's bytes, as the weight is held, in order.
pub fn trained_digests(weights: Weights) -> Result<Vec<Digest>> {
    tensor_digests(weights.trained().map(|(_, tensor)| tensor))
}

/// The digest of each tensor's bytes.
pub fn tensor_digests<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Vec<Digest>> {
    let tensors: Vec<_> = tensors.collect();
    tensors.into_par_iter().map(|tensor| with_bytes(tensor, Digest::of)).collect()
}
