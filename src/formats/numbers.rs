//! Numbers out of a file, converted as they are read.

use std::any::TypeId;
use std::io::Read;

use anyhow::Result;
use rayon::prelude::*;

use crate::device::cpu::convert::convert;
use crate::device::{Element, zeros};

/// `len` numbers that are stored as S: read a stretch at a time, and converted by all threads into the place where they stay.
pub(super) fn read_numbers<S: Element, H: Element>(reader: &mut dyn Read, len: usize) -> Result<Vec<H>> {
    /// Numbers read at a time.
    const STRETCH: usize = 1 << 20;
    /// Numbers that a thread converts at a time.
    const SHARE: usize = 1 << 16;
    let mut held = zeros::<H>(len)?;
    if TypeId::of::<S>() == TypeId::of::<H>() {
        reader.read_exact(bytemuck::cast_slice_mut(&mut held))?;
        return Ok(held);
    }
    let mut stored = vec![S::zeroed(); STRETCH.min(len)];
    for held in held.chunks_mut(STRETCH) {
        let stored = &mut stored[..held.len()];
        reader.read_exact(bytemuck::cast_slice_mut(stored))?;
        held.par_chunks_mut(SHARE).zip(stored.par_chunks(SHARE)).for_each(|(held, stored)| convert(stored, held));
    }
    Ok(held)
}
