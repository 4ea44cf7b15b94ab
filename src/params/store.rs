//! All weights of a model, and every operation that moves them.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::DType;
use rayon::prelude::*;

use super::in_place::{Update, add_product, apply_all};
use super::param::Param;
use super::pending::{Displacement, Move};
use super::role::{ParamId, ParamSet, Role};
use super::state::{Slot, State, StateDtype, Visit};
use super::weights::Weights;
use crate::device::cpu::{AffineMove, Kernel, gram};
use crate::device::{Array, View};
use crate::direction::term::gather;
use crate::direction::{Direction, Key, Term, seed};

/// Input of a fused pass besides a first-order gradient.
#[derive(Clone, Copy, Debug)]
pub struct UpdateInput<'a> {
    /// Zeroth-order gradient over [`ParamSet::Estimated`].
    pub terms: &'a [Term],
    /// Added to the gradient over [`ParamSet::Trained`] (VAMO's correction).
    pub correction: &'a [Term],
    /// Weight decay's factor, 1 - lr * decay.
    pub shrink: f32,
    /// The step's seed, from which weights and state in half precision are rounded stochastically.
    pub seed: u64,
}

/// All weights of a model, in insertion order. All have the model's dtype, except an adapter's, in f32.
pub struct Params {
    pub(super) params: Vec<Param>,
    by_name: HashMap<String, ParamId>,
    pending: Vec<Move>,
    dtype: DType,
    pass_time: Duration,
}

impl Params {
    /// Without weights; the model's will be held in `dtype`.
    pub fn new(dtype: DType) -> Self {
        Params { params: Vec::new(), by_name: HashMap::new(), pending: Vec::new(), dtype, pass_time: Duration::ZERO }
    }

    /// Storage precision of the model's own weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Adds a weight. Fails if the name is taken or the array's dtype is not the model's.
    pub fn insert(&mut self, name: &str, array: Array) -> Result<ParamId> {
        self.insert_as(self.dtype, name, array)
    }

    /// Adds a weight of an adapter, held in f32 for any model: adapters are small and take small steps.
    pub fn insert_adapter(&mut self, name: &str, array: Array) -> Result<ParamId> {
        self.insert_as(DType::F32, name, array)
    }

    fn insert_as(&mut self, dtype: DType, name: &str, array: Array) -> Result<ParamId> {
        if array.dtype() != dtype {
            bail!("weight {name} is {:?}, not {dtype:?}", array.dtype());
        }
        let id = ParamId(self.params.len());
        if self.by_name.insert(name.to_string(), id).is_some() {
            bail!("weight {name} occurs twice");
        }
        let (decays, tensor_id) = (array.shape().len() >= 2, seed::tensor_id(name));
        self.params.push(Param { name: name.into(), array: Arc::new(array), decays, tensor_id, role: Role::Estimated });
        Ok(id)
    }

    /// The weight with this name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// All weights in order, with their names.
    pub fn ids(&self) -> impl Iterator<Item = (ParamId, &str)> {
        self.params.iter().enumerate().map(|(i, p)| (ParamId(i), p.name.as_str()))
    }

    /// Number of elements of a weight.
    pub fn len(&self, id: ParamId) -> usize {
        self.params[id.0].array.len()
    }

    /// Sets the source of a weight's gradient. Call before any move and before any state is made.
    pub fn set_role(&mut self, id: ParamId, role: Role) {
        self.params[id.0].role = role;
    }

    /// The source of a weight's gradient.
    pub fn role(&self, id: ParamId) -> Role {
        self.params[id.0].role
    }

    /// Number of elements of all weights: d.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.array.len()).sum()
    }

    /// Number of elements over `set`: the dimension of a direction.
    pub fn count_over(&self, set: ParamSet) -> usize {
        self.params.iter().filter(|p| set.holds(p.role)).map(|p| p.array.len()).sum()
    }

    /// Wall time spent in passes over the weights so far.
    pub fn pass_time(&self) -> Duration {
        self.pass_time
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(|p| p.array.bytes().len()).sum()
    }

    /// Gram matrix of q directions over the weights of `set`: [q, q], row-major. Dividing a direction by the square root of
    /// its diagonal element gives a unit vector. Summed tensor by tensor in order: the same bits for any number of threads.
    pub fn gram(&mut self, direction: Direction, seeds: &[u64], set: ParamSet) -> Vec<f64> {
        let start = Instant::now();
        let covered: Vec<&Param> = self.params.iter().filter(|p| set.holds(p.role)).collect();
        let of_one = |p: &&Param| {
            let keys: Vec<Key> = seeds.iter().map(|&seed| p.key(direction, seed)).collect();
            let mut products = vec![0.0; seeds.len() * seeds.len()];
            gram::gram(&keys, p.array.len(), &mut products);
            products
        };
        let each: Vec<Vec<f64>> = covered.par_iter().map(of_one).collect();
        let mut total = vec![0.0; seeds.len() * seeds.len()];
        each.iter().for_each(|products| total.iter_mut().zip(products).for_each(|(t, p)| *t += p));
        self.pass_time += start.elapsed();
        total
    }

    /// theta += sum of coeff * z(seed) over [`ParamSet::Estimated`]; pending until the weights are read.
    pub fn perturb(&mut self, terms: &[Term]) {
        self.perturb_over(ParamSet::Estimated, terms);
    }

    /// theta += sum of coeff * z(seed) over `set`; pending until the weights are read.
    pub fn perturb_over(&mut self, set: ParamSet, terms: &[Term]) {
        self.pending.extend(terms.iter().map(|term| Move::Along(set, *term)));
    }

    /// theta *= factor for trained weights that decay; pending until the weights are read.
    pub fn shrink(&mut self, factor: f32) {
        if factor != 1.0 {
            self.pending.push(Move::Shrink(factor));
        }
    }

    /// Ends a step: its moves are rounded stochastically from `seed`, without bias, so that half precision loses no step,
    /// however small. Later moves are rounded separately even if they are applied in the same pass, so reading the weights
    /// between two steps, to score or save them, changes nothing.
    pub fn end_step(&mut self, seed: u64) -> Result<()> {
        /// Bounds the memory of the pending moves; more steps per pass would save little.
        const MAX_PENDING_STEPS: usize = 32;
        if !self.pending.is_empty() {
            self.pending.push(Move::EndStep(seed));
        }
        if self.pending.iter().filter(|m| matches!(m, Move::EndStep(_))).count() >= MAX_PENDING_STEPS {
            self.settle()?;
        }
        Ok(())
    }

    /// Applies all pending moves in one pass and returns the weights for reading. Fails while an operation holds a weight.
    pub fn settle(&mut self) -> Result<Weights<'_>> {
        if !self.pending.is_empty() {
            let start = Instant::now();
            let Params { params, pending, .. } = &mut *self;
            let mut all = Vec::new();
            for param in params {
                let steps = pending.split_inclusive(|m| matches!(m, Move::EndStep(_)));
                let moves: Vec<AffineMove> = steps.filter_map(|moves| affine_move(param, moves)).collect();
                if !moves.is_empty() {
                    all.push((param.numbers_mut()?, moves));
                }
            }
            apply_all(all);
            self.pending.clear();
            self.pass_time += start.elapsed();
        }
        Ok(Weights::of(&self.params))
    }

    /// Zero state for a rule: `S` buffers for every trained weight.
    pub fn state<const S: usize>(&self, names: [&'static str; S], dtype: StateDtype) -> State<S> {
        let len = |p: &Param| if ParamSet::Trained.holds(p.role) { p.array.len() } else { 0 };
        State::new(self.params.iter().map(|p| (p.name.as_str(), len(p))), names, dtype)
    }

    /// A fused pass over [`ParamSet::Estimated`], which ends a step: applies `kernel` elementwise to theta, state and the
    /// gradient sum of coeff * z(seed). Pending moves are applied first.
    pub fn update<K: Kernel<S>, const S: usize>(
        &mut self,
        input: &UpdateInput,
        state: &mut State<S>,
        kernel: &K,
    ) -> Result<()> {
        self.settle()?;
        let start = Instant::now();
        for (i, param) in self.params.iter_mut().enumerate().filter(|(_, p)| p.role == Role::Estimated) {
            update_param(param, None, input, state.buffers(i), kernel)?;
        }
        self.pass_time += start.elapsed();
        Ok(())
    }

    /// A fused pass over one differentiated weight with its first-order gradient `dense` [len]. Fails if moves are pending.
    pub fn update_one<K: Kernel<S>, const S: usize>(
        &mut self,
        id: ParamId,
        dense: &[f32],
        input: &UpdateInput,
        state: &mut State<S>,
        kernel: &K,
    ) -> Result<()> {
        let (param, is_settled) = (&mut self.params[id.0], self.pending.is_empty());
        if !is_settled || param.role != Role::Differentiated || dense.len() != param.array.len() {
            let (numbers, Param { name, role, .. }) = (dense.len(), param);
            bail!("{numbers} numbers do not update weight {name} ({role:?}, no move pending: {is_settled})");
        }
        let start = Instant::now();
        update_param(param, Some(dense), input, state.buffers(id.0), kernel)?;
        self.pass_time += start.elapsed();
        Ok(())
    }

    /// Overwrites one weight in place with bytes from `source`. Fails if moves are pending.
    pub fn overwrite(&mut self, id: ParamId, source: &mut dyn Read) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are overwritten while a walk is pending");
        }
        let mut numbers = self.params[id.0].numbers_mut()?;
        Ok(source.read_exact(Slot::of(&mut numbers).bytes())?)
    }

    /// W += scale B A, for B [outer, r] and A [r, inner] in f32. Fails if moves are pending.
    pub fn add_product(&mut self, id: ParamId, b: ParamId, a: ParamId, scale: f32) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are merged while a walk is pending");
        }
        let (r, [b, a]) = (self.params[a.0].array.shape()[0], [b, a].map(|id| self.params[id.0].array.clone()));
        let (View::F32(b), View::F32(a)) = (b.view(), a.view()) else { bail!("an adapter is stored in f32") };
        add_product(self.params[id.0].numbers_mut()?, b, a, r, scale);
        Ok(())
    }

    /// Visits the buffer of every trained weight under its name, after applying pending moves.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.settle()?;
        for param in self.params.iter_mut().filter(|p| p.role != Role::Frozen) {
            let name = param.name.clone();
            visit(&name, Slot::of(&mut param.numbers_mut()?))?;
        }
        Ok(())
    }

    /// A copy under the same ids; frozen weights are shared. Fails if moves are pending.
    pub fn copy(&self) -> Result<Params> {
        if !self.pending.is_empty() {
            bail!("weights are copied while a walk is pending");
        }
        let array = |p: &Param| match p.role {
            Role::Frozen => p.array.clone(),
            _ => Arc::new(p.array.as_ref().clone()),
        };
        let params = self.params.iter().map(|p| Param { name: p.name.clone(), array: array(p), ..*p }).collect();
        Ok(Params { params, by_name: self.by_name.clone(), pending: Vec::new(), pass_time: Duration::ZERO, ..*self })
    }

    /// Overwrites all trained weights with those of `other`, a copy or the original of these; pending moves are dropped.
    pub fn copy_from(&mut self, other: &mut Params) -> Result<()> {
        let from = other.settle()?;
        self.pending.clear();
        for (id, name) in from.ids().filter(|(id, _)| from.role(*id) != Role::Frozen) {
            self.overwrite(id, &mut from.get(id).bytes()).context(name.to_string())?;
        }
        Ok(())
    }
}

/// A weight's share of moves that are rounded together; None if there is none.
fn affine_move(param: &Param, moves: &[Move]) -> Option<AffineMove> {
    let (mut map, mut rounding) = (Displacement::none(), None);
    for m in moves {
        match *m {
            Move::Along(set, term) if set.holds(param.role) => map.perturb(term),
            Move::Shrink(factor) if param.decays && param.role != Role::Frozen => map.shrink(factor),
            Move::EndStep(seed) => rounding = Some(Key::of_rounding(seed, param.tensor_id)),
            _ => {}
        }
    }
    map.simplified().affine_move(|term| param.key(term.direction, term.seed), rounding)
}

fn update_param<K: Kernel<S>, const S: usize>(
    param: &mut Param,
    dense: Option<&[f32]>,
    input: &UpdateInput,
    state: [Slot<'_>; S],
    kernel: &K,
) -> Result<()> {
    let estimated = if param.role == Role::Estimated { input.terms } else { &[] };
    let mut terms = Vec::new();
    estimated.iter().chain(input.correction).for_each(|term| gather(&mut terms, *term));
    let update = Update {
        scale: if param.decays { input.shrink } else { 1.0 },
        terms: &terms.iter().map(|t| (param.key(t.direction, t.seed), t.coeff)).collect::<Vec<_>>(),
        dense,
        rounding: Key::of_rounding(input.seed, param.tensor_id),
    };
    update.pass(param.numbers_mut()?, state, kernel);
    Ok(())
}
