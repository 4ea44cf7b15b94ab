//! TODO

use candle_core::{CpuStorage, Layout, Storage, Tensor};
use half::{bf16, f16};

/// A weight's numbers as they are held.
pub enum Numbers<'a> {
    /// 4 bytes each.
    F32(&'a [f32]),
    /// 2 bytes each: 7 bits of fraction.
    Bf16(&'a [bf16]),
    /// 2 bytes each: 10 bits of fraction.
    F16(&'a [f16]),
}

pub(crate) fn numbers<'a>(storage: &'a Storage, layout: &Layout) -> candle_core::Result<Numbers<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a weight is not contiguous") };
    match storage {
        Storage::Cpu(CpuStorage::F32(w)) => Ok(Numbers::F32(&w[start..end])),
        Storage::Cpu(CpuStorage::BF16(w)) => Ok(Numbers::Bf16(&w[start..end])),
        Storage::Cpu(CpuStorage::F16(w)) => Ok(Numbers::F16(&w[start..end])),
        _ => candle_core::bail!("weights are held in f32, f16 or bf16 on the CPU"),
    }
}

pub(crate) fn with_weight<R>(
    weight: &Tensor,
    read: impl FnOnce(Numbers) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = weight.storage_and_layout();
    read(numbers(&storage, layout)?)
}
