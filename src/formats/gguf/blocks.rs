//! Dequantises GGML blocks.

use std::io::Read;

use anyhow::Result;
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use rayon::prelude::*;

use crate::device::Element;
use crate::device::cpu::convert::convert;
use crate::device::zeros;

/// Reads `len` numbers stored in blocks of type `kind`, chunk by chunk, dequantised in parallel.
pub fn read_blocks<H: Element>(reader: &mut dyn Read, kind: GgmlDType, len: usize) -> Result<Vec<H>> {
    /// Numbers per read.
    const CHUNK: usize = 1 << 20;
    /// Numbers per task; a multiple of every block size.
    const PER_TASK: usize = 1 << 14;
    let bytes_of = |numbers: usize| numbers / kind.block_size() * kind.type_size();
    let mut held = zeros::<H>(len)?;
    let mut stored = vec![0u8; bytes_of(CHUNK.min(len))];
    for held in held.chunks_mut(CHUNK) {
        let stored = &mut stored[..bytes_of(held.len())];
        reader.read_exact(stored)?;
        held.par_chunks_mut(PER_TASK).zip(stored.par_chunks(bytes_of(PER_TASK))).try_for_each(|(held, blocks)| {
            let blocks = qtensor_from_ggml(kind, blocks, vec![held.len()], &Device::Cpu)?;
            let wide: Vec<f32> = blocks.dequantize(&Device::Cpu)?.to_vec1()?;
            convert(&wide, held);
            anyhow::Ok(())
        })?;
    }
    Ok(held)
}
