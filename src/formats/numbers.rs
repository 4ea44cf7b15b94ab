//! Reads numbers from a file with conversion.

use std::any::TypeId;
use std::io::Read;

use anyhow::Result;
use rayon::prelude::*;

use crate::device::cpu::convert::convert;
use crate::device::{Element, zeros};

/// Reads `len` numbers stored as S, chunk by chunk, and converts them to H in parallel.
pub(super) fn read_numbers<S: Element, H: Element>(reader: &mut dyn Read, len: usize) -> Result<Vec<H>> {
    /// Numbers per read.
    const CHUNK: usize = 1 << 20;
    /// Numbers per task.
    const PER_TASK: usize = 1 << 16;
    let mut held = zeros::<H>(len)?;
    if TypeId::of::<S>() == TypeId::of::<H>() {
        reader.read_exact(bytemuck::cast_slice_mut(&mut held))?;
        return Ok(held);
    }
    let mut stored = vec![S::zeroed(); CHUNK.min(len)];
    for held in held.chunks_mut(CHUNK) {
        let stored = &mut stored[..held.len()];
        reader.read_exact(bytemuck::cast_slice_mut(stored))?;
        held.par_chunks_mut(PER_TASK).zip(stored.par_chunks(PER_TASK)).for_each(|(held, stored)| convert(stored, held));
    }
    Ok(held)
}
