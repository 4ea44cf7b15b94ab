//! The in-place operations: what passes over a weight's own buffer, and nothing else may.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Slot, Visit};
use crate::element::Element;
use crate::noise::{self, Held, Kernel, Key, Leg, Share};

/// A pass over one weight tensor, whatever precision it is held in.
pub trait Pass {
    /// Over all of its numbers.
    fn pass<T: Element>(&self, weights: &mut [T]);
}

/// A [`Pass`] as candle runs it: in place.
pub struct InPlace<P>(pub P);

impl<P: Pass> InplaceOp1 for InPlace<P> {
    fn name(&self) -> &'static str {
        "pass over a weight"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        match storage {
            CpuStorage::F32(w) => self.0.pass::<f32>(w),
            CpuStorage::BF16(w) => self.0.pass::<bf16>(w),
            CpuStorage::F16(w) => self.0.pass::<f16>(w),
            _ => candle_core::bail!("weights are held in f32, f16 or bf16"),
        }
        Ok(())
    }
}

/// Elements a thread takes at a time: a multiple of [`noise::GROUP`], 64 KiB of f32.
const CHUNK: usize = 128 * noise::GROUP;

/// A walk leg by leg, in place, all threads.
pub struct Settle(pub Vec<Leg>);

impl Pass for Settle {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let walk = |(i, chunk): (usize, &mut [T])| noise::walk(chunk, i * CHUNK, &self.0);
        if weights.len() <= CHUNK {
            walk((0, weights));
        } else {
            weights.par_chunks_mut(CHUNK).enumerate().for_each(walk);
        }
    }
}

/// A fused pass over one weight tensor and its state, all threads.
pub struct Update<'a, K, const S: usize> {
    scale: f32,
    shares: &'a [Share],
    kernel: &'a K,
    dense: Option<&'a [f32]>,
    state: RefCell<[Slot<'a>; S]>,
    rounding: Key,
}

impl<'a, K, const S: usize> Update<'a, K, S> {
    /// Weights scaled, then settled and updated by `shares`, `dense` added to their gradient.
    pub fn new(
        scale: f32,
        shares: &'a [Share],
        kernel: &'a K,
        dense: Option<&'a [f32]>,
        state: [Slot<'a>; S],
        rounding: Key,
    ) -> Self {
        Update { scale, shares, kernel, dense, state: RefCell::new(state), rounding }
    }
}

impl<K: Kernel<S>, const S: usize> Pass for Update<'_, K, S> {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let (dense, scale, shares, rounding, kernel) = (self.dense, self.scale, self.shares, self.rounding, self.kernel);
        let mut state = self.state.borrow_mut();
        let mut buffers = state.each_mut().map(|slot| slot.chunks(CHUNK).into_iter());
        let chunks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .map(|chunk| (chunk, buffers.each_mut().map(|held| held.next().unwrap_or(Held::F32(&mut [])))))
            .collect();
        chunks.into_par_iter().enumerate().for_each(|(i, (chunk, mut state))| {
            let dense = dense.map(|dense| &dense[i * CHUNK..i * CHUNK + chunk.len()]);
            noise::update(chunk, dense, &mut state, i * CHUNK, scale, shares, rounding, kernel);
        });
    }
}

/// A weight's own buffer, shown to a visitor.
pub struct Shown<'a, 'v> {
    name: &'a str,
    visit: RefCell<&'a mut Visit<'v>>,
}

impl<'a, 'v> Shown<'a, 'v> {
    /// Under `name`.
    pub fn new(name: &'a str, visit: &'a mut Visit<'v>) -> Self {
        Shown { name, visit: RefCell::new(visit) }
    }
}

impl InplaceOp1 for Shown<'_, '_> {
    fn name(&self) -> &'static str {
        "show"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        let slot = match storage {
            CpuStorage::F32(w) => Slot::F32(w),
            CpuStorage::BF16(w) => Slot::Bf16(w),
            CpuStorage::F16(w) => Slot::F16(w),
            _ => candle_core::bail!("weights are held in f32, f16 or bf16"),
        };
        (self.visit.borrow_mut())(self.name, slot).map_err(candle_core::Error::wrap)
    }
}
