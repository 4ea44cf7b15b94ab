//! TODO

use anyhow::{Result, bail};
use candle_core::{CpuStorage, Tensor};

/// All bytes of the storage of a weight on the CPU, lent to `read`. Fails for views that are not contiguous.
pub fn with_bytes<R>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((0, _)) = layout.contiguous_offsets() else { bail!("a weight is not one whole buffer") };
    match &*storage {
        candle_core::Storage::Cpu(CpuStorage::F32(w)) => Ok(read(bytemuck::cast_slice(w))),
        candle_core::Storage::Cpu(CpuStorage::BF16(w)) => Ok(read(bytemuck::cast_slice(w))),
        candle_core::Storage::Cpu(CpuStorage::F16(w)) => Ok(read(bytemuck::cast_slice(w))),
        _ => bail!("weights are held in f32, f16 or bf16 on the CPU"),
    }
}
