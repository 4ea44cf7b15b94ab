//! TODO

use candle_core::{CpuStorage, Layout, Storage, Tensor};

use crate::device::cpu::Small;
use crate::params::Leaf;

/// The f32 numbers of a contiguous tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(x), Some((start, end))) => Ok(&x[start..end]),
        (_, None) => candle_core::bail!("a tensor is not contiguous"),
        _ => candle_core::bail!("activations are f32"),
    }
}

/// The same of tensors, lent to `read` together.
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

/// Of `rows` rows of activations those that stand for one of so many points.
pub(super) fn rows_a_point(rows: usize, points: usize) -> candle_core::Result<usize> {
    if !rows.is_multiple_of(points) {
        candle_core::bail!("{rows} rows of activations for {points} points");
    }
    Ok(rows / points)
}

/// The rows of x [.., width], at most `many` together, each stretch with the point that it stands for.
pub(super) fn by_points(
    x: &mut [f32],
    width: usize,
    points: usize,
    many: usize,
) -> candle_core::Result<Vec<(usize, &mut [f32])>> {
    let rows = rows_a_point(x.len() / width, points)?;
    let of_point = x.chunks_mut(rows.max(1) * width).enumerate();
    Ok(of_point.flat_map(|(point, x)| x.chunks_mut(many * width).map(move |x| (point, x))).collect())
}

/// A small weight in f32, at the points that `leaf` is read at.
pub(super) fn small(leaf: &Leaf) -> candle_core::Result<Small> {
    Small::of(leaf.tensor(), leaf.displaced())
}
