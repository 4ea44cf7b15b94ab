//! Numbers out of quantised blocks, and what llama.cpp did to some tensors undone.

use std::io::Read;

use anyhow::Result;
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use rayon::prelude::*;

use crate::element::{Element, convert};
use crate::model::checkpoint::zeros;

/// What the file has otherwise than the checkpoint that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The rows of each head: rotary pairs lie side by side, where transformers has all first halves before all second ones.
    Interleaved {
        /// How many heads there are.
        heads: usize,
    },
    /// A norm's weight is larger by one.
    OneMore,
}

impl Undo {
    /// Rows of `width` numbers back into transformers' order; the norms are done before they are narrowed.
    pub fn rows<H: Copy>(self, numbers: &mut [H], width: usize) {
        let Undo::Interleaved { heads } = self else { return };
        let head = numbers.len() / heads;
        let half = head / width / 2;
        let mut whole = Vec::with_capacity(head);
        for rows in numbers.chunks_mut(head) {
            whole.clear();
            whole.extend_from_slice(rows);
            for (i, row) in whole.chunks(width).enumerate() {
                rows[(i % 2 * half + i / 2) * width..][..width].copy_from_slice(row);
            }
        }
    }
}

/// `len` numbers that are stored in blocks of `kind`: read a stretch at a time, opened by all threads.
pub fn read_blocks<H: Element>(reader: &mut dyn Read, kind: GgmlDType, len: usize) -> Result<Vec<H>> {
    /// Numbers read at a time.
    const STRETCH: usize = 1 << 20;
    /// Numbers that a thread opens at a time: whole blocks of every kind.
    const SHARE: usize = 1 << 14;
    let bytes_of = |numbers: usize| numbers / kind.block_size() * kind.type_size();
    let mut held = zeros::<H>(len)?;
    let mut stored = vec![0u8; bytes_of(STRETCH.min(len))];
    for held in held.chunks_mut(STRETCH) {
        let stored = &mut stored[..bytes_of(held.len())];
        reader.read_exact(stored)?;
        held.par_chunks_mut(SHARE).zip(stored.par_chunks(bytes_of(SHARE))).try_for_each(|(held, blocks)| {
            let blocks = qtensor_from_ggml(kind, blocks, vec![held.len()], &Device::Cpu)?;
            let wide: Vec<f32> = blocks.dequantize(&Device::Cpu)?.to_vec1()?;
            convert(&wide, held);
            anyhow::Ok(())
        })?;
    }
    Ok(held)
}
