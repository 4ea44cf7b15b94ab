//! The in-place operations: what passes over a weight's own buffer, and nothing else may.

use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::state::{Slot, Visit};
use crate::device::Element;
use crate::device::cpu::{Held, Kernel, Leg, update, walk};
use crate::direction::{Key, group};

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

/// Elements a thread takes at a time: a multiple of [`group::GROUP`], 64 KiB of f32.
const CHUNK: usize = 128 * group::GROUP;

/// Weights that are walked over at once: candle lends a buffer to an operation only, so each waits within the operation on the one
/// before it.
const AT_ONCE: usize = 64;

/// A walk over each weight leg by leg, in place. The threads take stretches of many weights together, so large and small ones keep them
/// equally busy.
pub fn walk_over<T: Element>(walks: &[(&Tensor, Vec<Leg>)]) -> candle_core::Result<()> {
    walks.chunks(AT_ONCE).try_for_each(|walks| gather::<T>(walks, Vec::new()))
}

/// The numbers of weights, lent, and how they are to be walked.
type Lent<'s, 'w, T> = Vec<(&'s mut [T], &'w [Leg])>;

/// Borrows the numbers of the weights of `walks` beside those that are `lent` already, and walks when it has them all.
fn gather<'w, T: Element>(walks: &'w [(&Tensor, Vec<Leg>)], lent: Lent<'_, 'w, T>) -> candle_core::Result<()> {
    if let [(weight, _), ..] = walks {
        return weight.inplace_op1(&Gather { walks, lent: Cell::new(lent) });
    }
    let stretches = lent.into_iter().flat_map(|(weights, legs)| {
        weights.chunks_mut(CHUNK).enumerate().map(move |(i, stretch)| (stretch, i * CHUNK, legs))
    });
    let stretches: Vec<_> = stretches.collect();
    stretches.into_par_iter().for_each(|(stretch, first, legs)| walk::walk(stretch, first, legs));
    Ok(())
}

/// The operation on the first weight of `walks`.
struct Gather<'s, 'w, T> {
    walks: &'w [(&'w Tensor, Vec<Leg>)],
    lent: Cell<Lent<'s, 'w, T>>,
}

impl<T: Element> InplaceOp1 for Gather<'_, '_, T> {
    fn name(&self) -> &'static str {
        "walk"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        let mut lent: Lent<T> = self.lent.take();
        let mut slot = slot(storage)?;
        let numbers = bytemuck::try_cast_slice_mut(slot.bytes()).map_err(candle_core::Error::wrap)?;
        lent.push((numbers, &self.walks[0].1));
        gather(&self.walks[1..], lent)
    }
}

/// A fused pass over one weight tensor and its state, all threads.
pub struct Update<'a, K, const S: usize> {
    /// What the weights are multiplied by first.
    pub scale: f32,
    /// The gradient's directions on this tensor, and its coefficients.
    pub terms: &'a [(Key, f32)],
    /// The rule.
    pub kernel: &'a K,
    /// A gradient that the terms are added to.
    pub dense: Option<&'a [f32]>,
    /// The rule's.
    pub state: RefCell<[Slot<'a>; S]>,
    /// Rounds what is held in half precision.
    pub rounding: Key,
}

impl<K: Kernel<S>, const S: usize> Pass for Update<'_, K, S> {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let Update { scale, terms, kernel, dense, rounding, .. } = *self;
        let mut state = self.state.borrow_mut();
        let mut buffers = state.each_mut().map(|slot| slot.chunks(CHUNK).into_iter());
        let chunks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .map(|chunk| (chunk, buffers.each_mut().map(|held| held.next().unwrap_or(Held::F32(&mut [])))))
            .collect();
        chunks.into_par_iter().enumerate().for_each(|(i, (chunk, mut state))| {
            let dense = dense.map(|dense| &dense[i * CHUNK..i * CHUNK + chunk.len()]);
            update::update(chunk, dense, &mut state, i * CHUNK, scale, terms, rounding, kernel);
        });
    }
}

/// W += scale B A, a row of W at a time: B [outer, r], A [r, inner].
pub struct AddProduct {
    /// Rows of B.
    pub b: Vec<Vec<f32>>,
    /// Rows of A.
    pub a: Vec<Vec<f32>>,
    /// In front of the product.
    pub scale: f32,
}

impl Pass for AddProduct {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let inner = weights.len() / self.b.len();
        weights.par_chunks_mut(inner).zip(&self.b).for_each(|(row, b)| {
            for (i, w) in row.iter_mut().enumerate() {
                let sum: f32 = b.iter().zip(&self.a).map(|(b, a)| b * a[i]).sum();
                *w = T::narrow(w.widen() + self.scale * sum);
            }
        });
    }
}

/// A weight's numbers as they are held.
fn slot(storage: &mut CpuStorage) -> candle_core::Result<Slot<'_>> {
    match storage {
        CpuStorage::F32(w) => Ok(Slot::F32(w)),
        CpuStorage::BF16(w) => Ok(Slot::Bf16(w)),
        CpuStorage::F16(w) => Ok(Slot::F16(w)),
        _ => candle_core::bail!("weights are held in f32, f16 or bf16"),
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
        (self.visit.borrow_mut())(self.name, slot(storage)?).map_err(candle_core::Error::wrap)
    }
}
