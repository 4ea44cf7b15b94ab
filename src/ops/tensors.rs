//! Borrowed f32 slices of tensors for the loops.

use candle_core::{CpuStorage, Layout, Storage, Tensor};

use crate::device::cpu::SmallWeight;
use crate::params::Leaf;

/// The elements of a contiguous f32 tensor on the CPU. Fails for others.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(x), Some((start, end))) => Ok(&x[start..end]),
        (_, None) => candle_core::bail!("a tensor is not contiguous"),
        _ => candle_core::bail!("activations are f32"),
    }
}

/// Calls `read` with the elements of several contiguous f32 tensors.
pub(super) fn with_floats<const N: usize, R>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut all: [&[f32]; N] = [&[]; N];
    for (floats_of, (storage, layout)) in all.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("a tensor is not on the CPU") };
        *floats_of = floats(storage, layout)?;
    }
    read(all)
}

/// A small weight in f32, at the points of `leaf`.
pub(super) fn small_weight(leaf: &Leaf) -> SmallWeight {
    SmallWeight::of(leaf.array(), leaf.displaced())
}
