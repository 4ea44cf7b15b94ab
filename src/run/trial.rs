//! Measures a run's first steps on stand-ins: models of the same widths with two or three blocks.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Context, Result};

use super::loaded::LoadedModel;
use super::pace::duration;
use super::setup::make_method;
use crate::base::Peaks;
use crate::config::RunConfig;
use crate::data::task::{Splits, Task};
use crate::data::{Batch, Example, Pick};
use crate::device::cpu::matrix::warm_up;
use crate::model::{Model, Segment};
use crate::params::{ParamId, ParamSet, Params, Role};
use crate::prompt::PromptLoss;
use crate::prompt::evaluate::evaluate;
use crate::zo::methods::method;
use crate::zo::{Batches, Order, Problem, StepContext};

/// The tokens fed to evaluate `examples`.
pub(super) fn tokens(examples: &[Example], batch_size: usize) -> usize {
    examples.chunks(batch_size).map(|part| Batch::pack(part, Pick::All).num_tokens()).sum()
}

/// The measurements on stand-ins.
pub(super) struct Trial<'a> {
    config: &'a RunConfig,
    task: &'a Task,
    opened: &'a LoadedModel,
    /// The training batch with the most tokens, one of about the mean, and the largest evaluation batch.
    largest: Vec<Example>,
    pub(super) typical: Vec<Example>,
    pub(super) evaluated: Vec<Example>,
    /// The number of blocks below the lowest differentiated, else the lowest trained, weight; and of the blocks from
    /// there on.
    plain: usize,
    upper: usize,
    /// Whether there is a backward pass.
    backward: bool,
    /// Of the whole model.
    num_weights: usize,
    /// The start time, and the number of stand-ins measured.
    progress: Cell<(Instant, u32)>,
}

/// The cost of one stand-in, or of the whole model. Times in seconds, sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) snapshot_seconds: f64,
    pub(super) eval_seconds: f64,
    pub(super) activations: f64,
    pub(super) eval_activations: f64,
    pub(super) gradients: f64,
    /// The peak of activations and gradients together.
    pub(super) both: f64,
    pub(super) state_per_weight: f64,
}

impl Measured {
    /// self + times * (with - without) for everything that grows with the number of blocks. A negative difference is
    /// noise.
    fn plus(self, times: f64, with: &Measured, without: &Measured) -> Measured {
        let grow = |of: fn(&Measured) -> f64| of(&self) + times * (of(with) - of(without)).max(0.0);
        Measured {
            seconds: grow(|t| t.seconds),
            snapshot_seconds: grow(|t| t.snapshot_seconds),
            eval_seconds: grow(|t| t.eval_seconds),
            activations: grow(|t| t.activations),
            eval_activations: grow(|t| t.eval_activations),
            gradients: grow(|t| t.gradients),
            both: grow(|t| t.both),
            ..self
        }
    }
}

impl<'a> Trial<'a> {
    pub(super) fn new(
        config: &'a RunConfig,
        task: &'a Task,
        opened: &'a LoadedModel,
        examples: &Splits<Example>,
        num_weights: usize,
    ) -> Result<Self> {
        let pick = PromptLoss::pick(task.loss);
        let mut batches = Batches::new(examples.train.len(), config.batch_size, config.seed);
        // One or two epochs show the range of batches.
        let seen = config.max_steps.min(2 * (examples.train.len() as u64).div_ceil(config.batch_size as u64));
        let examples_of = |batch: &[usize]| -> Vec<Example> { batch.iter().map(|&i| examples.train[i].clone()).collect() };
        let lengths: Vec<usize> = examples.train.iter().map(|e| Batch::pack([e], pick).num_tokens()).collect();
        let sized = (0..seen).map(|step| {
            let batch = batches.at(step);
            (batch.iter().map(|&i| lengths[i]).sum::<usize>(), batch)
        });
        let sized: Vec<(usize, Vec<usize>)> = sized.collect();
        let mean = sized.iter().map(|(size, _)| size).sum::<usize>() / sized.len();
        let (_, largest) = sized.iter().max_by_key(|(size, _)| size).context("no training batch")?;
        let (_, typical) = sized.iter().min_by_key(|(size, _)| size.abs_diff(mean)).context("no training batch")?;
        let (largest, typical) = (examples_of(largest), examples_of(typical));
        let evaluated =
            examples.dev.chunks(config.inputs.eval_batch_size).chain(examples.eval.chunks(config.inputs.eval_batch_size));
        let evaluated = evaluated.max_by_key(|b| tokens(b, b.len())).context("nothing to evaluate")?.to_vec();
        let (params, model) = (&opened.params, &opened.model);
        let lowest_of = |is: fn(Role) -> bool| {
            params
                .ids()
                .filter(|(id, _)| is(params.role(*id)))
                .filter_map(|(id, _)| model.place(id))
                .map(|p| p.segment)
                .min()
        };
        let differentiated = lowest_of(|role| role == Role::Differentiated);
        let lowest = differentiated.or(lowest_of(|role| role != Role::Frozen));
        let blocks = model.num_blocks();
        let plain = match lowest {
            Some(Segment::Stem) => 0,
            Some(Segment::Block(block)) => block,
            Some(Segment::Head) | None => blocks,
        };
        let (upper, backward) = (blocks - plain, differentiated.is_some());
        let progress = Cell::new((Instant::now(), 0));
        Ok(Trial { config, task, opened, largest, typical, evaluated, plain, upper, backward, num_weights, progress })
    }

    /// The number of stand-ins measured.
    fn parts(&self) -> u32 {
        let (lower, upper) = if self.upper == 0 { (0, self.plain) } else { (self.plain.min(1), self.upper) };
        2 + u32::from(upper > 2) + lower as u32
    }

    /// The cost of the whole model, extrapolated from stand-ins of two and three blocks.
    pub(super) fn extrapolate(&self) -> Result<Measured> {
        let (plain, upper) = (self.plain as f64, self.upper as f64);
        // The first computation is slow: buffers are new, threads are asleep.
        if self.backward {
            warm_up();
        }
        self.measure(self.plain.min(1), 1 - self.plain.min(1))?;
        // The last block differs in kind, so the cost of one more shows between two and three.
        if self.upper == 0 {
            let two = self.measure(self.plain.min(2), 0)?;
            let three = if self.plain > 2 { self.measure(3, 0)? } else { two };
            return Ok(two.plus((plain - 2.0).max(0.0), &three, &two));
        }
        let few = self.upper.min(2);
        let two = self.measure(0, few)?;
        let three = if self.upper > 2 { self.measure(0, 3)? } else { two };
        let whole = two.plus((upper - 2.0).max(0.0), &three, &two);
        if self.plain == 0 {
            return Ok(whole);
        }
        Ok(whole.plus(plain, &self.measure(1, few)?, &two))
    }

    /// Measures the first steps on a stand-in with this many plain and upper blocks.
    fn measure(&self, plain: usize, upper: usize) -> Result<Measured> {
        let (start, tried) = self.progress.get();
        self.progress.set((start, tried + 1));
        let seconds = start.elapsed().as_secs_f64();
        // A long silence is explained.
        if tried == 0 && self.num_weights > MANY_WEIGHTS {
            tracing::info!(
                "plan    timing a few steps on two and three blocks; for a model of this size this takes a while"
            );
        } else if seconds > 5.0 {
            tracing::info!("plan    {tried} of {} parts timed in {}", self.parts(), duration(seconds));
        }
        let (model, mut params) = self.stand_in(plain + upper)?;
        self.assign_roles(&model, &mut params, plain);
        let mut optimizer = make_method(self.config, &mut params)?;
        let mut step = |examples: &[Example], step: u64, params: &mut Params| -> Result<(f64, Peaks)> {
            let batches = Batches::new(examples.len(), examples.len(), 0);
            let mut problem = PromptLoss::new(&model, self.task.loss, examples, batches, self.config.micro_batch_size);
            let start = Instant::now();
            // Moves no weight, and keeps products with the rate out of the slow subnormal range.
            let at = StepContext { step, run_seed: 0, learning_rate: 1e-20 };
            optimizer.step(&at, params, &mut problem)?;
            Ok((start.elapsed().as_secs_f64(), problem.cost().peaks))
        };
        let (_, peaks) = step(&self.largest, 1, &mut params)?;
        let (mut with_snapshot, ..) = step(&self.typical, 1, &mut params)?;
        let period = self
            .config
            .settings
            .snapshot_steps
            .filter(|_| method(&self.config.optimizer).is_ok_and(|m| m.order == Order::Zeroth));
        if period.is_some() {
            // It costs about one step, and one measurement is noisy.
            with_snapshot = with_snapshot.min(step(&self.typical, 1, &mut params)?.0);
        }
        // One of steps 2 and 3 takes no snapshot, unless every step does. Very short steps are measured twice.
        let mut seconds = f64::INFINITY;
        let start = Instant::now();
        for _ in 0..2 {
            seconds = seconds.min(step(&self.typical, 2, &mut params)?.0).min(step(&self.typical, 3, &mut params)?.0);
            if start.elapsed().as_secs_f64() > 0.3 {
                break;
            }
        }
        if let Some(period) = period.filter(|period| *period > 3) {
            // Steps redraw all directions since the snapshot; the cost of one more shows in the middle of the period.
            let middle = 1 + period / 2;
            let mut later = seconds;
            step(&self.typical, 1, &mut params)?;
            let (start, mut at) = (Instant::now(), 1);
            while at < middle && start.elapsed().as_secs_f64() < 5.0 {
                at += 1;
                later = step(&self.typical, at, &mut params)?.0;
            }
            seconds += (later - seconds).max(0.0) * (middle - 2) as f64 / (at.max(3) - 2) as f64;
        }
        let start = Instant::now();
        let found = evaluate(&model, params.settle()?, &self.evaluated, self.task.loss, self.evaluated.len(), |_| Ok(()))?;
        let eval_seconds = start.elapsed().as_secs_f64();
        let trained = params.count_over(ParamSet::Trained);
        Ok(Measured {
            seconds,
            snapshot_seconds: match (self.config.settings.snapshot_steps, period) {
                (None, _) => 0.0,
                (_, Some(_)) => with_snapshot,
                (Some(_), None) => (with_snapshot - seconds).max(0.0),
            },
            eval_seconds,
            activations: peaks.held as f64,
            both: peaks.both as f64,
            eval_activations: found.activation_peak as f64,
            gradients: peaks.aside as f64,
            state_per_weight: optimizer.bytes()?.0 as f64 / trained.max(1) as f64,
        })
    }

    fn stand_in(&self, blocks: usize) -> Result<(Model, Params)> {
        self.opened.model.stand_in(self.config.inputs.dtype.dtype(), blocks)
    }

    /// Blocks below `plain` get the roles of the model's block 0, the others those of its lowest upper block; weights
    /// outside the blocks keep theirs.
    fn assign_roles(&self, stand_in: &Model, params: &mut Params, plain: usize) {
        let LoadedModel { model, params: real, .. } = self.opened;
        let role = |id: ParamId| {
            let place = stand_in.place(id)?;
            let segment = match place.segment {
                Segment::Block(block) => Segment::Block(if block < plain { 0 } else { self.plain }),
                other => other,
            };
            Some(real.role(model.weight_in(segment, &place.name)?))
        };
        let roles: Vec<_> = params.ids().map(|(id, _)| (id, role(id).unwrap_or(Role::Estimated))).collect();
        roles.into_iter().for_each(|(id, role)| params.set_role(id, role));
    }
}

/// Models with more weights than this announce the trial.
pub(super) const MANY_WEIGHTS: usize = 500_000_000;
