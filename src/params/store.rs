//! The weights: ordered, named, and changed nowhere else.
//!
//! [`Params::walk`] and [`Params::shrink`] only remember a displacement. [`Params::settle`] applies everything that is
//! pending in ONE in-place pass and lends the weights as [`Weights`]; there is no other way to read them, so nobody can
//! see weights that have not settled. [`Weights::at`] lends them as they would be at [`Points`] near them, where they never go.
//! A two-point step costs one pass, its update; many steps that nobody reads between, as in a replay, are one together.

use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::in_place::{AddProduct, InPlace, Shown, Update, walk_over};
use super::param::Param;
use super::pending::{Displacement, Move};
use super::role::{ParamId, ParamSet, Role};
use super::state::{Slot, State, StateDtype, Visit};
use super::weights::Weights;
use crate::device::bytes::with_bytes;
use crate::device::cpu::{Kernel, Leg, gram};
use crate::direction::term::gather;
use crate::direction::{Direction, Key, Term, seed};

/// What a fused pass makes its gradient from, beside a dense one, and what it does on the way.
#[derive(Clone, Copy, Debug)]
pub struct UpdateInput<'a> {
    /// A gradient over the weights whose gradient is estimated.
    pub terms: &'a [Term],
    /// One more, over all that are trained.
    pub correction: &'a [Term],
    /// Weight decay's factor.
    pub shrink: f32,
    /// The step's, from which weights and state in half precision are rounded at random.
    pub seed: u64,
}

/// All weights of a model, in one dtype but for an adapter's, in the order in which the model asked for them.
pub struct Params {
    pub(super) params: Vec<Param>,
    by_name: HashMap<String, ParamId>,
    pending: Vec<Move>,
    dtype: DType,
    walk_time: Duration,
}

impl Params {
    /// Empty; holds tensors of `dtype`.
    pub fn new(dtype: DType) -> Self {
        Params { params: Vec::new(), by_name: HashMap::new(), pending: Vec::new(), dtype, walk_time: Duration::ZERO }
    }

    /// The dtype that the model's own weights are held in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Adds a weight. Fails if the name is taken, the dtype is another, or the tensor is not one whole buffer.
    pub fn insert(&mut self, name: &str, tensor: Tensor) -> Result<ParamId> {
        self.insert_as(self.dtype, name, tensor)
    }

    /// Adds a weight of an adapter: f32, whatever the others are held in, for it is small and moves by small steps.
    pub fn insert_adapter(&mut self, name: &str, tensor: Tensor) -> Result<ParamId> {
        self.insert_as(DType::F32, name, tensor)
    }

    fn insert_as(&mut self, dtype: DType, name: &str, tensor: Tensor) -> Result<ParamId> {
        if tensor.dtype() != dtype {
            bail!("weight {name} is {:?}, not {dtype:?}", tensor.dtype());
        }
        let whole = with_bytes(&tensor, |bytes| bytes.len() == tensor.elem_count() * dtype.size_in_bytes());
        if tensor.track_op() || !whole.unwrap_or(false) {
            bail!("weight {name} is a view or a variable, not a plain buffer");
        }
        let start = |tensor: &Tensor| with_bytes(tensor, <[u8]>::as_ptr);
        let filled = tensor.elem_count() > 0;
        if let Some(other) =
            self.params.iter().find(|p| filled && matches!((start(&p.tensor), start(&tensor)), (Ok(a), Ok(b)) if a == b))
        {
            bail!("weight {name} is {} once more: tied weights are one", other.name);
        }
        let id = ParamId(self.params.len());
        if self.by_name.insert(name.to_string(), id).is_some() {
            bail!("weight {name} is there twice");
        }
        let (decays, noise_id) = (tensor.rank() >= 2, seed::tensor_id(name));
        self.params.push(Param { name: name.to_string(), tensor, decays, noise_id, role: Role::Estimated });
        Ok(id)
    }

    /// The weight of that name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// All weights in order, with their names.
    pub fn ids(&self) -> impl Iterator<Item = (ParamId, &str)> {
        self.params.iter().enumerate().map(|(i, p)| (ParamId(i), p.name.as_str()))
    }

    /// How many numbers a weight has.
    pub fn len(&self, id: ParamId) -> usize {
        self.params[id.0].tensor.elem_count()
    }

    /// Says where a weight's gradient comes from. To be said before anything walks and before any state is made.
    pub fn set_role(&mut self, id: ParamId, role: Role) {
        self.params[id.0].role = role;
    }

    /// Where a weight's gradient comes from.
    pub fn role(&self, id: ParamId) -> Role {
        self.params[id.0].role
    }

    /// How many numbers there are: d.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.tensor.elem_count()).sum()
    }

    /// How many of them `span` holds: the d of a direction.
    pub fn count_over(&self, span: ParamSet) -> usize {
        self.params.iter().filter(|p| span.holds(p.role)).map(|p| p.tensor.elem_count()).sum()
    }

    /// Wall time spent in passes over the weights so far.
    pub fn walk_time(&self) -> Duration {
        self.walk_time
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(|p| p.tensor.elem_count() * p.tensor.dtype().size_in_bytes()).sum()
    }

    /// The inner products of the directions of that kind and these seeds over the weights of `span`: [q, q], row by row. The root of a diagonal
    /// element brings its direction to the unit sphere. Tensor by tensor in order, so with the same bits for any number of
    /// threads.
    pub fn gram(&mut self, direction: Direction, seeds: &[u64], span: ParamSet) -> Vec<f64> {
        let start = Instant::now();
        let held: Vec<&Param> = self.params.iter().filter(|p| span.holds(p.role)).collect();
        let of_one = |p: &&Param| {
            let keys: Vec<Key> = seeds.iter().map(|&seed| p.key(direction, seed)).collect();
            let mut products = vec![0.0; seeds.len() * seeds.len()];
            gram::gram(&keys, p.tensor.elem_count(), &mut products);
            products
        };
        let each: Vec<Vec<f64>> = held.par_iter().map(of_one).collect();
        let mut total = vec![0.0; seeds.len() * seeds.len()];
        each.iter().for_each(|products| total.iter_mut().zip(products).for_each(|(t, p)| *t += p));
        self.walk_time += start.elapsed();
        total
    }

    /// theta += sum of coeff * z(seed) over the weights whose gradient is estimated, remembered until somebody reads.
    pub fn perturb(&mut self, terms: &[Term]) {
        self.perturb_over(ParamSet::Estimated, terms);
    }

    /// The same over the weights of `span`.
    pub fn perturb_over(&mut self, span: ParamSet, terms: &[Term]) {
        self.pending.extend(terms.iter().map(|term| Move::Along(span, *term)));
    }

    /// theta *= factor for the weights that decay and are trained, remembered until somebody reads.
    pub fn shrink(&mut self, factor: f32) {
        if factor != 1.0 {
            self.pending.push(Move::Shrink(factor));
        }
    }

    /// Says that a step's moves are complete: the weights are rounded at random from the step's `seed`, up or down with the chances
    /// that keep the expectation, so that half precision loses no step, however small. What moves next is rounded apart from them,
    /// though it may be applied in the same pass: so whoever reads the weights between two steps, to score or to save them, changes
    /// nothing.
    pub fn end_step(&mut self, seed: u64) -> Result<()> {
        /// Steps in one pass at most: more would gain little, and what is pending takes memory.
        const TOGETHER: usize = 32;
        if !self.pending.is_empty() {
            self.pending.push(Move::EndStep(seed));
        }
        if self.pending.iter().filter(|m| matches!(m, Move::EndStep(_))).count() >= TOGETHER {
            self.settle()?;
        }
        Ok(())
    }

    /// Applies all that is pending, in one pass over the weights, and lends them.
    pub fn settle(&mut self) -> Result<Weights<'_>> {
        if !self.pending.is_empty() {
            let start = Instant::now();
            let mut walks: Vec<(&Tensor, Vec<Leg>)> = Vec::new();
            for param in &self.params {
                let stretches = self.pending.split_inclusive(|m| matches!(m, Move::EndStep(_)));
                let legs: Vec<Leg> = stretches.filter_map(|moves| Self::leg(param, moves)).collect();
                if !legs.is_empty() {
                    walks.push((&param.tensor, legs));
                }
            }
            // An adapter's are held apart from the model's own; seldom do both walk.
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let held: Vec<_> = walks.extract_if(.., |(tensor, _)| tensor.dtype() == dtype).collect();
                match dtype {
                    DType::F16 => walk_over::<f16>(&held),
                    DType::BF16 => walk_over::<bf16>(&held),
                    _ => walk_over::<f32>(&held),
                }
                .context("cannot move the weights")?;
            }
            self.pending.clear();
            self.walk_time += start.elapsed();
        }
        Ok(Weights::of(&self.params))
    }

    /// State for a rule: `S` zeros for every weight that is trained.
    pub fn state<const S: usize>(&self, names: [&'static str; S], dtype: StateDtype) -> State<S> {
        let len = |p: &Param| if ParamSet::Trained.holds(p.role) { p.tensor.elem_count() } else { 0 };
        State::new(self.params.iter().map(|p| (p.name.as_str(), len(p))), names, dtype)
    }

    /// One fused pass over the weights whose gradient is estimated, a step's end: applies `kernel` at each weight to the gradient, the
    /// sum of coeff * z(seed). What is pending settles first.
    pub fn update<K: Kernel<S>, const S: usize>(
        &mut self,
        descent: &UpdateInput,
        state: &mut State<S>,
        kernel: &K,
    ) -> Result<()> {
        self.settle()?;
        let start = Instant::now();
        for (i, param) in self.params.iter().enumerate().filter(|(_, p)| p.role == Role::Estimated) {
            Self::descend(param, None, descent, state.buffers(i), kernel)?;
        }
        self.walk_time += start.elapsed();
        Ok(())
    }

    /// The same for one weight that has a first-order gradient, as many numbers as it has. Fails if something is pending.
    pub fn update_one<K: Kernel<S>, const S: usize>(
        &mut self,
        id: ParamId,
        dense: &[f32],
        descent: &UpdateInput,
        state: &mut State<S>,
        kernel: &K,
    ) -> Result<()> {
        let param = &self.params[id.0];
        if !self.pending.is_empty() || param.role != Role::Differentiated || dense.len() != param.tensor.elem_count() {
            bail!(
                "{} numbers do not update weight {} ({:?}, pending: {:?})",
                dense.len(),
                param.name,
                param.role,
                self.pending
            );
        }
        let start = Instant::now();
        Self::descend(param, Some(dense), descent, state.buffers(id.0), kernel)?;
        self.walk_time += start.elapsed();
        Ok(())
    }

    /// A weight's part in moves that are rounded together; None where it has none.
    fn leg(param: &Param, moves: &[Move]) -> Option<Leg> {
        let (mut map, mut rounding) = (Displacement::none(), None);
        for m in moves {
            match *m {
                Move::Along(span, term) if span.holds(param.role) => map.walk(term),
                Move::Shrink(factor) if param.decays && param.role != Role::Frozen => map.shrink(factor),
                Move::EndStep(seed) => rounding = Some(Key::of_rounding(seed, param.noise_id)),
                _ => {}
            }
        }
        map.simplified().leg(|term| param.key(term.direction, term.seed), rounding)
    }

    fn descend<K: Kernel<S>, const S: usize>(
        param: &Param,
        dense: Option<&[f32]>,
        descent: &UpdateInput,
        state: [Slot<'_>; S],
        kernel: &K,
    ) -> Result<()> {
        let own = if param.role == Role::Estimated { descent.terms } else { &[] };
        let mut terms = Vec::new();
        own.iter().chain(descent.correction).for_each(|term| gather(&mut terms, *term));
        let op = InPlace(Update {
            scale: if param.decays { descent.shrink } else { 1.0 },
            terms: &terms.iter().map(|t| (param.key(t.direction, t.seed), t.coeff)).collect::<Vec<_>>(),
            kernel,
            dense,
            state: state.into(),
            rounding: Key::of_rounding(descent.seed, param.noise_id),
        });
        param.tensor.inplace_op1(&op).with_context(|| format!("cannot update weight {}", param.name))
    }

    /// Overwrites one weight in place with the bytes that `source` gives. Fails if something is pending.
    pub fn overwrite(&mut self, id: ParamId, source: &mut dyn Read) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are overwritten while a walk is pending");
        }
        let param = &self.params[id.0];
        let mut read = |_: &str, mut slot: Slot| Ok(source.read_exact(slot.bytes())?);
        Ok(param.tensor.inplace_op1(&Shown::new(&param.name, &mut read))?)
    }

    /// W += scale B A, for B [outer, r] and A [r, inner] in f32. Fails if something is pending.
    pub fn add_product(&mut self, id: ParamId, b: ParamId, a: ParamId, scale: f32) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are merged while a walk is pending");
        }
        let [b, a] = [b, a].map(|id| self.params[id.0].tensor.to_vec2::<f32>());
        Ok(self.params[id.0].tensor.inplace_op1(&InPlace(AddProduct { b: b?, a: a?, scale }))?)
    }

    /// Shows the buffer of every weight that is trained, each under its name, nothing pending.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.settle()?;
        self.params
            .iter()
            .filter(|p| p.role != Role::Frozen)
            .try_for_each(|p| Ok(p.tensor.inplace_op1(&Shown::new(&p.name, visit))?))
    }

    /// A copy under the same ids: what is trained in buffers of its own, what is frozen shared. Fails if something is pending.
    pub fn copy(&self) -> Result<Params> {
        if !self.pending.is_empty() {
            bail!("weights are copied while a walk is pending");
        }
        let tensor = |p: &Param| match p.role {
            Role::Frozen => Ok(p.tensor.clone()),
            _ => p.tensor.copy().map(|tensor| tensor.detach()),
        };
        let copied = |p: &Param| Ok(Param { name: p.name.clone(), tensor: tensor(p)?, ..*p });
        let params = self.params.iter().map(copied).collect::<Result<_>>()?;
        Ok(Params { params, by_name: self.by_name.clone(), pending: Vec::new(), walk_time: Duration::ZERO, ..*self })
    }

    /// Overwrites all weights that are trained by those of `other`, a copy or the original of these.
    pub fn copy_from(&mut self, other: &mut Params) -> Result<()> {
        let from = other.settle()?;
        self.pending.clear();
        for (id, name) in from.ids().filter(|(id, _)| from.role(*id) != Role::Frozen) {
            with_bytes(from.get(id), |mut bytes| self.overwrite(id, &mut bytes))
                .and_then(|done| done)
                .context(name.to_string())?;
        }
        Ok(())
    }
}
