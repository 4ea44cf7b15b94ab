//! All weights of a model: what moves them, and who may read them.

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
    pass_time: Duration,
}

impl Params {
    /// Empty; holds tensors of `dtype`.
    pub fn new(dtype: DType) -> Self {
        Params { params: Vec::new(), by_name: HashMap::new(), pending: Vec::new(), dtype, pass_time: Duration::ZERO }
    }

    /// The dtype that the model's own weights are held in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Adds a weight. Fails if the name is taken or the numbers are held in another precision.
    pub fn insert(&mut self, name: &str, array: Array) -> Result<ParamId> {
        self.insert_as(self.dtype, name, array)
    }

    /// Adds a weight of an adapter. It is held in f32 whatever the others are: it is small and moves by small steps.
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
        self.params[id.0].array.len()
    }

    /// Says where a weight's gradient comes from. To be said before anything all and before any state is made.
    pub fn set_role(&mut self, id: ParamId, role: Role) {
        self.params[id.0].role = role;
    }

    /// Where a weight's gradient comes from.
    pub fn role(&self, id: ParamId) -> Role {
        self.params[id.0].role
    }

    /// How many numbers there are: d.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.array.len()).sum()
    }

    /// How many of them `set` holds: the d of a direction.
    pub fn count_over(&self, set: ParamSet) -> usize {
        self.params.iter().filter(|p| set.holds(p.role)).map(|p| p.array.len()).sum()
    }

    /// Wall time spent in passes over the weights so far.
    pub fn pass_time(&self) -> Duration {
        self.pass_time
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(|p| p.array.bytes().len()).sum()
    }

    /// The inner products of the directions of that kind and these seeds over the weights of `set`: [q, q], row by row. The root of a diagonal
    /// element brings its direction to the unit sphere. Tensor by tensor in order, so with the same bits for any number of
    /// threads.
    pub fn gram(&mut self, direction: Direction, seeds: &[u64], set: ParamSet) -> Vec<f64> {
        let start = Instant::now();
        let held: Vec<&Param> = self.params.iter().filter(|p| set.holds(p.role)).collect();
        let of_one = |p: &&Param| {
            let keys: Vec<Key> = seeds.iter().map(|&seed| p.key(direction, seed)).collect();
            let mut products = vec![0.0; seeds.len() * seeds.len()];
            gram::gram(&keys, p.array.len(), &mut products);
            products
        };
        let each: Vec<Vec<f64>> = held.par_iter().map(of_one).collect();
        let mut total = vec![0.0; seeds.len() * seeds.len()];
        each.iter().for_each(|products| total.iter_mut().zip(products).for_each(|(t, p)| *t += p));
        self.pass_time += start.elapsed();
        total
    }

    /// theta += sum of coeff * z(seed) over the weights whose gradient is estimated, remembered until somebody reads.
    pub fn perturb(&mut self, terms: &[Term]) {
        self.perturb_over(ParamSet::Estimated, terms);
    }

    /// The same over the weights of `set`.
    pub fn perturb_over(&mut self, set: ParamSet, terms: &[Term]) {
        self.pending.extend(terms.iter().map(|term| Move::Along(set, *term)));
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
            let Params { params, pending, .. } = &mut *self;
            let mut all = Vec::new();
            for param in params {
                let stretches = pending.split_inclusive(|m| matches!(m, Move::EndStep(_)));
                let moves: Vec<AffineMove> = stretches.filter_map(|moves| affine_move(param, moves)).collect();
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

    /// State for a rule: `S` zeros for every weight that is trained.
    pub fn state<const S: usize>(&self, names: [&'static str; S], dtype: StateDtype) -> State<S> {
        let len = |p: &Param| if ParamSet::Trained.holds(p.role) { p.array.len() } else { 0 };
        State::new(self.params.iter().map(|p| (p.name.as_str(), len(p))), names, dtype)
    }

    /// One fused pass over the weights whose gradient is estimated. It ends a step: it applies `kernel` at each weight to the gradient, the sum
    /// of coeff * z(seed). Pending moves are applied first.
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

    /// The same for one weight with its first-order gradient `dense`, as long as the weight. Fails if moves are pending.
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

    /// Overwrites one weight in place with the bytes that `source` gives. Fails if something is pending.
    pub fn overwrite(&mut self, id: ParamId, source: &mut dyn Read) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are overwritten while a walk is pending");
        }
        let mut numbers = self.params[id.0].numbers_mut()?;
        Ok(source.read_exact(Slot::of(&mut numbers).bytes())?)
    }

    /// W += scale B A, for B [outer, r] and A [r, inner] in f32. Fails if something is pending.
    pub fn add_product(&mut self, id: ParamId, b: ParamId, a: ParamId, scale: f32) -> Result<()> {
        if !self.pending.is_empty() {
            bail!("weights are merged while a walk is pending");
        }
        let (r, [b, a]) = (self.params[a.0].array.shape()[0], [b, a].map(|id| self.params[id.0].array.clone()));
        let (View::F32(b), View::F32(a)) = (b.view(), a.view()) else { bail!("an adapter is stored in f32") };
        add_product(self.params[id.0].numbers_mut()?, b, a, r, scale);
        Ok(())
    }

    /// Shows the buffer of every weight that is trained, each under its name, nothing pending.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.settle()?;
        for param in self.params.iter_mut().filter(|p| p.role != Role::Frozen) {
            let name = param.name.clone();
            visit(&name, Slot::of(&mut param.numbers_mut()?))?;
        }
        Ok(())
    }

    /// A copy under the same ids: what is trained in buffers of its own, what is frozen shared. Fails if something is pending.
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

    /// Overwrites all weights that are trained by those of `other`, a copy or the original of these.
    pub fn copy_from(&mut self, other: &mut Params) -> Result<()> {
        let from = other.settle()?;
        self.pending.clear();
        for (id, name) in from.ids().filter(|(id, _)| from.role(*id) != Role::Frozen) {
            self.overwrite(id, &mut from.get(id).bytes()).context(name.to_string())?;
        }
        Ok(())
    }
}

/// A weight's part in moves that are rounded together; None if it has none.
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
    let own = if param.role == Role::Estimated { input.terms } else { &[] };
    let mut terms = Vec::new();
    own.iter().chain(input.correction).for_each(|term| gather(&mut terms, *term));
    let update = Update {
        scale: if param.decays { input.shrink } else { 1.0 },
        terms: &terms.iter().map(|t| (param.key(t.direction, t.seed), t.coeff)).collect::<Vec<_>>(),
        dense,
        rounding: Key::of_rounding(input.seed, param.tensor_id),
    };
    update.pass(param.numbers_mut()?, state, kernel);
    Ok(())
}
