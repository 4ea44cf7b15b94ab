//! The weights: ordered, named, and changed nowhere else.
//!
//! [`Params::walk`] and [`Params::shrink`] only remember a displacement. [`Params::settle`] applies everything that is
//! pending in ONE in-place pass and lends the weights as [`Weights`]; there is no other way to read them, so nobody can
//! see weights that have not settled. A two-point step costs two passes: the way back from -eps, the update and the
//! next step's +eps are one of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::noise::{self, Element, Kernel, Key, Share, Term};

/// Which weight: an index into the order of [`Params`]. Tied weights share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

struct Param {
    name: String,
    tensor: Tensor,
    /// Whether weight decay applies: matrices and embeddings, not biases and norms.
    decays: bool,
    noise_id: u64,
}

/// A displacement that has not been applied yet.
#[derive(Clone, Copy, Debug)]
enum Move {
    Along(Term),
    Shrink(f32),
}

/// All weights of a model, in one dtype, in the order in which the model asked for them.
pub struct Params {
    params: Vec<Param>,
    by_name: HashMap<String, ParamId>,
    pending: Vec<Move>,
    dtype: DType,
    signs: bool,
    walk_time: Duration,
}

/// The weights as they stand, nothing pending. What models read through.
#[derive(Clone, Copy)]
pub struct Weights<'a>(&'a Params);

impl Params {
    /// Empty; holds tensors of `dtype`.
    pub fn new(dtype: DType) -> Self {
        Params {
            params: Vec::new(),
            by_name: HashMap::new(),
            pending: Vec::new(),
            dtype,
            signs: false,
            walk_time: Duration::ZERO,
        }
    }

    /// The dtype that all weights are held in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Adds a weight. Fails if the name is taken, the dtype is another, or the tensor is not one whole buffer.
    pub fn insert(&mut self, name: &str, tensor: Tensor) -> Result<ParamId> {
        if tensor.dtype() != self.dtype {
            bail!("weight {name} is {:?}, not {:?}", tensor.dtype(), self.dtype);
        }
        let whole = with_bytes(&tensor, |bytes| bytes.len() == tensor.elem_count() * self.dtype.size_in_bytes());
        if tensor.track_op() || !whole.unwrap_or(false) {
            bail!("weight {name} is a view or a variable, not a plain buffer");
        }
        let id = ParamId(self.params.len());
        if self.by_name.insert(name.to_string(), id).is_some() {
            bail!("weight {name} is there twice");
        }
        let decays = tensor.rank() >= 2;
        self.params.push(Param { name: name.to_string(), tensor, decays, noise_id: noise::tensor_id(name) });
        Ok(id)
    }

    /// The weight of that name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// How many numbers there are: d.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.tensor.elem_count()).sum()
    }

    /// Wall time spent in passes over the weights so far.
    pub fn walk_time(&self) -> Duration {
        self.walk_time
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.count() * self.dtype.size_in_bytes()
    }

    /// From here on directions are signs (Rademacher) instead of normals.
    pub fn walk_along_signs(&mut self) {
        self.signs = true;
    }

    fn key(&self, seed: u64, param: &Param) -> Key {
        if self.signs { Key::of_signs(seed, param.noise_id) } else { Key::new(seed, param.noise_id) }
    }

    /// ||z(seed)|| over all weights: what brings a direction to the unit sphere. Tensor by tensor in order, so it has the
    /// same bits for any number of threads.
    pub fn direction_norm(&mut self, seed: u64) -> f64 {
        let start = Instant::now();
        let squares: Vec<f64> =
            self.params.par_iter().map(|p| noise::squared_norm(self.key(seed, p), p.tensor.elem_count())).collect();
        self.walk_time += start.elapsed();
        squares.iter().sum::<f64>().sqrt()
    }

    /// theta += sum of coeff * z(seed), remembered until somebody reads.
    pub fn walk(&mut self, terms: &[Term]) {
        self.pending.extend(terms.iter().copied().map(Move::Along));
    }

    /// theta *= factor for the weights that decay, remembered until somebody reads.
    pub fn shrink(&mut self, factor: f32) {
        if factor != 1.0 {
            self.pending.push(Move::Shrink(factor));
        }
    }

    /// Applies all that is pending, in one pass over the weights, and lends them.
    pub fn settle(&mut self) -> Result<Weights<'_>> {
        if !self.pending.is_empty() {
            let start = Instant::now();
            let (decaying, others) = (self.displacement(true), self.displacement(false));
            for param in &self.params {
                let displacement = if param.decays { &decaying } else { &others };
                displacement.apply(param, |seed| self.key(seed, param))?;
            }
            self.pending.clear();
            self.walk_time += start.elapsed();
        }
        Ok(Weights(self))
    }

    /// State for a rule: `S` zeros for every weight.
    pub fn state<const S: usize>(&self) -> State<S> {
        State(self.params.iter().map(|p| std::array::from_fn(|_| vec![0f32; p.tensor.elem_count()])).collect())
    }

    /// One fused pass: settles what is pending, and applies `kernel` at every weight to the gradient sum of coeff * z(seed).
    pub fn update<K: Kernel<S>, const S: usize>(
        &mut self,
        estimate: &[Term],
        state: &mut State<S>,
        kernel: &K,
    ) -> Result<()> {
        let start = Instant::now();
        let (decaying, others) = (self.displacement(true), self.displacement(false));
        for (param, state) in self.params.iter().zip(&mut state.0) {
            let displacement = if param.decays { &decaying } else { &others };
            let shares = displacement.shares(estimate, |seed| self.key(seed, param));
            let op = InPlace(Update { scale: displacement.scale, shares: &shares, kernel, state: RefCell::new(state) });
            param.tensor.inplace_op1(&op).with_context(|| format!("cannot update weight {}", param.name))?;
        }
        self.pending.clear();
        self.walk_time += start.elapsed();
        Ok(())
    }

    /// Overwrites one weight in place with the bytes that `source` gives. Fails if something is pending.
    pub fn overwrite(&mut self, id: ParamId, source: &mut dyn Read) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are overwritten while a walk is pending");
        }
        Ok(self.params[id.0].tensor.inplace_op1(&Overwrite(RefCell::new(source)))?)
    }

    /// The pending moves as one affine map: scale * theta + sum of terms.
    fn displacement(&self, decays: bool) -> Displacement {
        let mut map = Displacement { scale: 1.0, terms: Vec::new() };
        for m in &self.pending {
            match *m {
                // The way back and the update go along one direction: it is drawn once.
                Move::Along(term) => match map.terms.iter_mut().find(|t| t.seed == term.seed) {
                    Some(same) => same.coeff += term.coeff,
                    None => map.terms.push(term),
                },
                Move::Shrink(factor) if decays => {
                    map.scale *= factor;
                    map.terms.iter_mut().for_each(|t| t.coeff *= factor);
                }
                Move::Shrink(_) => {}
            }
        }
        map.terms.retain(|t| t.coeff != 0.0);
        map
    }
}

impl<'a> Weights<'a> {
    /// The tensor of a weight, sharing its storage.
    pub fn get(&self, id: ParamId) -> &'a Tensor {
        &self.0.params[id.0].tensor
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Tensor)> + use<'a> {
        self.0.params.iter().map(|p| (p.name.as_str(), &p.tensor))
    }
}

/// A rule's state: for every weight tensor, `S` buffers of its length.
pub struct State<const S: usize>(Vec<[Vec<f32>; S]>);

impl<const S: usize> State<S> {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|buffer| 4 * buffer.len()).sum()
    }
}

struct Displacement {
    scale: f32,
    terms: Vec<Term>,
}

impl Displacement {
    /// The pending moves and the estimate side by side, so that a direction of both is drawn once.
    fn shares(&self, estimate: &[Term], key: impl Fn(u64) -> Key) -> Vec<Share> {
        let share = |seed, pending, gradient| (seed, Share { key: key(seed), pending, gradient });
        let mut shares: Vec<(u64, Share)> = self.terms.iter().map(|t| share(t.seed, t.coeff, 0.0)).collect();
        for term in estimate {
            match shares.iter_mut().find(|(seed, _)| *seed == term.seed) {
                Some((_, same)) => same.gradient += term.coeff,
                None => shares.push(share(term.seed, 0.0, term.coeff)),
            }
        }
        shares.into_iter().map(|(_, share)| share).collect()
    }

    fn apply(&self, param: &Param, key: impl Fn(u64) -> Key) -> Result<()> {
        if self.scale == 1.0 && self.terms.is_empty() {
            return Ok(());
        }
        let keys: Vec<(Key, f32)> = self.terms.iter().map(|t| (key(t.seed), t.coeff)).collect();
        let op = InPlace(Settle { scale: self.scale, terms: &keys });
        param.tensor.inplace_op1(&op).with_context(|| format!("cannot move weight {}", param.name))
    }
}

/// A pass over one weight tensor, whatever precision it is held in.
trait Pass {
    fn pass<T: Element>(&self, weights: &mut [T]);
}

/// A [`Pass`] as candle runs it: in place.
struct InPlace<P>(P);

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

/// w <- scale * w + sum of coeff * z, in place, all threads.
struct Settle<'a> {
    scale: f32,
    terms: &'a [(Key, f32)],
}

impl Pass for Settle<'_> {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let walk = |(i, chunk): (usize, &mut [T])| noise::walk(chunk, i * CHUNK, self.scale, self.terms);
        if weights.len() <= CHUNK {
            walk((0, weights));
        } else {
            weights.par_chunks_mut(CHUNK).enumerate().for_each(walk);
        }
    }
}

/// A fused pass over one weight tensor and its state, all threads.
struct Update<'a, K, const S: usize> {
    scale: f32,
    shares: &'a [Share],
    kernel: &'a K,
    state: RefCell<&'a mut [Vec<f32>; S]>,
}

impl<K: Kernel<S>, const S: usize> Pass for Update<'_, K, S> {
    fn pass<T: Element>(&self, weights: &mut [T]) {
        let mut state = self.state.borrow_mut();
        let mut buffers = state.each_mut().map(|buffer| buffer.chunks_mut(CHUNK));
        let chunks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .map(|chunk| (chunk, buffers.each_mut().map(|b| b.next().unwrap_or_default())))
            .collect();
        let (scale, shares, kernel) = (self.scale, self.shares, self.kernel);
        chunks.into_par_iter().enumerate().for_each(|(i, (chunk, state))| {
            noise::update(chunk, state, i * CHUNK, scale, shares, kernel);
        });
    }
}

/// Bytes from outside into a weight's own buffer.
struct Overwrite<'a>(RefCell<&'a mut dyn Read>);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        let bytes = match storage {
            CpuStorage::F32(w) => bytemuck::cast_slice_mut(w),
            CpuStorage::BF16(w) => bytemuck::cast_slice_mut(w),
            CpuStorage::F16(w) => bytemuck::cast_slice_mut(w),
            _ => candle_core::bail!("weights are held in f32, f16 or bf16"),
        };
        Ok(self.0.borrow_mut().read_exact(bytes)?)
    }
}

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
