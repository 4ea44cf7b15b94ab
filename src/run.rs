//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::Value;

use crate::checkpoint::{self, Held};
use crate::config::Plan;
use crate::data::Example;
use crate::digest::Digest;
use crate::divergence::Limit;
use crate::error::{Diverged, NotFinite};
use crate::estimator::At;
use crate::eval::{Answers, evaluate};
use crate::files::{self, quoted};
use crate::journal::{Journal, Step};
use crate::memory::peak_rss_bytes;
use crate::model::Model;
use crate::optim::Optimizer;
use crate::params::{Params, Span};
use crate::report;
use crate::results::{About, Memory, Results};
use crate::setup::{Bench, problem};
use crate::stop::Stop;
use crate::task::{Loss, Metric, Splits, Task};
use crate::trajectory::{Done, Log, Scored, Tape};

/// What is to be done: a plan that was set up, its task, and the task's examples.
pub struct Job {
    /// The config.
    pub plan: Plan,
    /// Where the examples and their loss come from.
    pub task: Task,
    /// The examples.
    pub examples: Splits<Example>,
}

/// Makes the steps of `job` that `log` does not know yet, and leaves the best weights in the run folder and in `bench`, which
/// comes with the weights that the run began from.
///
/// Steps that the log knows and no checkpoint holds are made again on the way: told from the log, without a forward pass; but
/// computed where a first-order gradient is wanted, which no log holds.
pub fn train(
    job: &Job,
    bench: &mut Bench,
    optimizer: &mut Optimizer,
    log: &mut Log,
    stop: &Stop,
    bar: ProgressBar,
) -> Result<Results> {
    let Job { plan, task, examples } = job;
    let mut problem = problem(plan, task, &bench.model, &examples.train);
    let mut run = Session::open(job, &bench.model, &mut bench.params, optimizer, log, stop, bar)?;
    let limit = run.limit();

    for step in run.start + 1..=plan.max_steps {
        let (clock, walked) = (Instant::now(), run.params.walk_time());
        let at = At::of(plan, step);
        problem.begin(step);

        let told = run.told(step);
        let heard = RefCell::default();
        let mut tape = Tape::new(&mut problem, told.as_deref(), &heard);
        let (estimate, mut gradients) = run.optimizer.estimator.estimate(&at, run.params, &mut tape)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, at.seed(0), estimate.numbers()).into());
        }
        run.log.step(step, &heard.borrow())?;
        // What the log does not say of a step before its last, the run went past.
        let stops = plan.stop_if_diverged && step >= run.known;
        if stops && limit.is_passed(run.journal.losses(), estimate.loss()) {
            return Err(diverged(plan, run.log, limit, run.journal.losses(), run.best.0).into());
        }
        let gradient_norm = run.optimizer.rule.step(&at, run.params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, walk_time) = (clock.elapsed(), run.params.walk_time() - walked);
        let dev = run.evaluate(step).with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?;
        let (learning_rate, cost, replayed) = (plan.learning_rate_at(step), problem.cost(), told.is_some());
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, walk_time, replayed };
        run.journal.step(done, dev.as_ref())?;
        run.keep_the_best(step, dev)?;
        run.save_and_heed(step)?;
    }
    run.end()
}

/// What a process has open while it trains, beside what it computes.
struct Session<'a> {
    job: &'a Job,
    model: &'a Model,
    params: &'a mut Params,
    optimizer: &'a mut Optimizer,
    log: &'a mut Log,
    journal: Journal,
    stop: &'a Stop,
    /// The step whose weights and state it began with.
    start: u64,
    /// The last step that the log knew then.
    known: u64,
    /// The step with the best dev loss so far.
    best: (u64, Scored),
    /// The step of the newest weights that are in their file.
    kept: u64,
    /// The most bytes that a forward pass of an evaluation held.
    eval_peak: usize,
}

impl<'a> Session<'a> {
    /// Scores what is not scored yet of the weights that the run began from, and goes to where the run stood.
    fn open(
        job: &'a Job,
        model: &'a Model,
        params: &'a mut Params,
        optimizer: &'a mut Optimizer,
        log: &'a mut Log,
        stop: &'a Stop,
        bar: ProgressBar,
    ) -> Result<Self> {
        let known = log.trajectory().steps();
        let journal = Journal::open(&job.plan, known, bar)?;
        let nothing = Scored { loss: f64::INFINITY, accuracy: None, digest: Digest(0) };
        let (start, best, kept, eval_peak) = (0, (0, nothing), 0, 0);
        let mut run = Session { job, model, params, optimizer, log, journal, stop, start, known, best, kept, eval_peak };
        if run.log.trajectory().untrained.is_none() {
            let (scored, _) = run.score(&job.examples.eval, true).context(DAMAGED)?;
            run.log.untrained(scored)?;
        }
        let dev = match run.log.trajectory().dev.get(&0) {
            Some(scored) => *scored,
            None => {
                let (scored, _) = run.score(&job.examples.dev, true).context(DAMAGED)?;
                run.log.dev(scored)?
            }
        };
        run.journal.untrained(&dev)?;
        run.model.write_companions(&job.plan.output_dir, run.params.dtype(), &job.plan.inputs.model)?;
        run.go_to_where_it_stood(dev)?;
        Ok(run)
    }

    /// The loss above which a step is high.
    fn limit(&self) -> Limit {
        let Job { task, examples, .. } = self.job;
        let untrained = self.log.trajectory().dev.get(&0).map_or(f64::NAN, |scored| scored.loss);
        let choices = match task.loss {
            Loss::Classification => examples.train.iter().map(|e| e.candidates.len()).max().unwrap_or(1),
            Loss::TeacherForcing => self.model.shape().vocab_size,
        };
        Limit::new(untrained, choices)
    }

    fn go_to_where_it_stood(&mut self, untrained: Scored) -> Result<()> {
        // Where the best weights that the log knows of are not in their file, the way goes past them once more.
        let (best, scored) = self.log.trajectory().best(self.known).unwrap_or((0, untrained));
        let stored = self.model.stored(self.params, &self.job.plan.output_dir);
        let checked = stored.and_then(|stored| self.log.trajectory().check_stored(&stored, scored.digest));
        let held = checked.is_ok();
        if let Some(other) = checked.err().filter(|_| self.known > 0) {
            tracing::info!("resume  {} is not that of step {best} and is made again: {other:#}", self.model.file());
        }
        let (last, folder) = (if held { self.known } else { best }, &self.job.plan.output_dir);
        self.start = self.held().restore(folder, last)?;
        self.kept = if held { best } else { self.start };
        if !held && self.start == best {
            // The folder is a model from the start, so a disk too small for it shows now and not after the first evaluation.
            self.keep()?;
        }
        self.best = self.log.trajectory().best(self.start).unwrap_or((0, untrained));
        let first = self.start + 1;
        match self.known {
            0 => {}
            known if known == self.start => tracing::info!("resume  behind step {known}"),
            known if self.log.trajectory().header.replays => {
                tracing::info!("resume  steps {first} to {known} are replayed from the trajectory");
            }
            known => tracing::info!(
                "resume  steps {first} to {known} are computed again: no log holds first-order gradients; --save-steps makes \
                 them fewer"
            ),
        }
        Ok(())
    }

    /// What the log tells of a step, where that is all there is to know of it.
    fn told(&self, step: u64) -> Option<Vec<f32>> {
        let trajectory = self.log.trajectory();
        trajectory.values(step).filter(|_| trajectory.header.replays).map(<[f32]>::to_vec)
    }

    /// The score of the weights as they stand. To `hurry` is to heed a signal in the middle.
    fn score(&mut self, examples: &[Example], hurry: bool) -> Result<(Scored, Option<Answers>)> {
        let Job { plan, task, .. } = self.job;
        let stopped = || format!("stopped while scoring; {}", go_on(plan));
        let heed = |_| if hurry { self.stop.check(stopped) } else { Ok(()) };
        let weights = self.params.settle()?;
        let found = evaluate(self.model, weights, examples, task.loss, plan.inputs.eval_batch_size, heed)?;
        self.eval_peak = self.eval_peak.max(found.activation_peak);
        let digest = Digest::of_digests(&Digest::of_trained(weights)?);
        Ok((Scored { loss: found.loss, accuracy: found.accuracy, digest }, found.answers))
    }

    /// The dev score behind a step: what the log says, which the weights must bear out; a new one where it is due.
    fn evaluate(&mut self, step: u64) -> Result<Option<Scored>> {
        let plan = &self.job.plan;
        if let Some(scored) = self.log.trajectory().dev.get(&step).copied() {
            self.log.trajectory().check(step, self.params)?;
            return Ok(Some(scored));
        }
        // What the log does not say of a step before its last was not due then.
        let due = step >= self.known && (step.is_multiple_of(plan.eval_steps) || step == plan.max_steps);
        if !due {
            return Ok(None);
        }
        let (scored, _) = self.score(&self.job.examples.dev, false)?;
        self.warn_if_still(step, scored.digest);
        self.log.dev(scored).map(Some)
    }

    /// Says so where the steps since the last score have moved no weight, which a smooth curve of losses would not show.
    fn warn_if_still(&self, step: u64, digest: Digest) {
        let before = self.log.trajectory().dev.range(..step).next_back();
        if let Some((before, _)) = before.filter(|(_, scored)| scored.digest == digest) {
            tracing::warn!(
                "the weights behind step {step} are those behind step {before}, to the bit: nothing has moved; both losses may be the \
                 same (--zo-eps is too small) or the steps too small for {} (--learning-rate)",
                self.params.dtype().as_str()
            );
        }
    }

    fn keep(&mut self) -> Result<()> {
        self.log.check_place()?;
        self.model.save(self.params.settle()?, &self.job.plan.output_dir)
    }

    fn keep_the_best(&mut self, step: u64, dev: Option<Scored>) -> Result<()> {
        let candidate = !self.log.trajectory().is_cut(step);
        if let Some(dev) = dev.filter(|dev| candidate && dev.loss < self.best.1.loss) {
            if step > self.kept {
                self.keep()?;
                self.kept = step;
            }
            self.best = (step, dev);
        }
        Ok(())
    }

    fn held(&mut self) -> Held<'_> {
        let Session { model, params, optimizer, journal, log, kept, .. } = self;
        Held { model, params, optimizer, journal, log, kept: *kept }
    }

    /// A checkpoint, where one is due; and the end of this process, where a signal asked for it.
    fn save_and_heed(&mut self, step: u64) -> Result<()> {
        let plan = &self.job.plan;
        let asked = self.stop.asked().is_some();
        let due = step >= self.known && (step.is_multiple_of(plan.save_steps.max(1)) || step == plan.max_steps);
        if plan.save_steps > 0 && (due || asked) {
            // Never is a checkpoint ahead of the log, nor in another run's folder.
            self.log.sync()?;
            self.log.check_place()?;
            self.held().save(&plan.output_dir, step, plan.save_total_limit)?;
        }
        if asked {
            self.log.sync()?;
            self.stop.check(|| format!("stopped behind step {step} of {}; {}", plan.max_steps, go_on(plan)))?;
        }
        Ok(())
    }

    /// Takes the best weights back, scores them, and sums up.
    fn end(mut self) -> Result<Results> {
        let plan = &self.job.plan;
        let (best_step, dev) = self.best;
        if best_step != plan.max_steps {
            self.params.settle()?;
            self.model.restore(self.params, &plan.output_dir)?;
        }
        let (eval, answers) = self.score(&self.job.examples.eval, true)?;
        if eval.digest != dev.digest {
            return Err(differs!(
                "{} does not hold the weights of step {best_step}",
                plan.output_dir.join(self.model.file()).display()
            ));
        }
        self.log.done(Done { best_step, digests: Digest::of_trained(self.params.settle()?)? })?;
        let untrained = self.log.trajectory().untrained.context("a run without its first score")?;
        let totals = self.journal.end();
        let (state, snapshot) = self.optimizer.bytes()?;
        let activations = totals.peaks.held.max(self.eval_peak);
        let memory = Memory::of(self.params.bytes(), state, snapshot, totals.peaks.aside, activations, peak_rss_bytes());
        Ok(Results {
            about: About::new(plan, &self.job.task.name),
            steps: plan.max_steps,
            best_step,
            totals,
            dev_loss: dev.loss,
            dev_accuracy: dev.accuracy,
            eval_loss: eval.loss,
            eval_accuracy: eval.accuracy,
            eval_answers: answers,
            eval_perplexity: (self.job.task.metric == Metric::Loss).then(|| eval.loss.exp()),
            untrained_eval_loss: untrained.loss,
            untrained_eval_accuracy: untrained.accuracy,
            trajectory_bytes: self.log.bytes(),
            replays: self.log.trajectory().header.replays,
            memory,
            trained_weights: self.params.count_over(Span::Trained),
            learning_rate: plan.learning_rate.unwrap_or_default(),
        })
    }
}

/// Leaves all_results.json (`results`, and what the caller has put beside them) and loss.svg in the run folder.
pub fn conclude(plan: &Plan, task: &Task, results: &Value) -> Result<()> {
    files::write_bytes(&plan.output_dir.join("all_results.json"), &serde_json::to_vec_pretty(results)?)?;
    report::draw_losses(&plan.output_dir, &format!("{}, {}", task.name, plan.optimizer))
}

/// What to say where a run is stopped because it has diverged: since when, what is left of before, and what to try.
fn diverged(plan: &Plan, log: &Log, limit: Limit, losses: &[f64], best: u64) -> Diverged {
    let (step, folder) = (losses.len() + 1, plan.output_dir.display());
    let good = limit.last_good(losses);
    let kept = match best {
        0 => "the weights from before training".into(),
        best => format!("the weights of step {best}, which had the least loss on dev"),
    };
    let before = match checkpoint::newest(&plan.output_dir, good) {
        Some(step) => format!(", checkpoint-{step} those of step {step}, the last ones kept from before"),
        None if log.trajectory().header.replays && good > 0 => {
            format!(
                "; zotune replay {} --to-step {good} --output-dir FOLDER makes the last ones from before",
                quoted(&plan.output_dir.to_string_lossy())
            )
        }
        None => String::new(),
    };
    Diverged(format!(
        "the run has diverged by step {step}: {}, which is far above guessing and the {:.4} on dev before training\n  {folder} has \
         {kept}{before}\n  try --learning-rate {:.0e}, a tenth; --stop-if-diverged=false goes on all the same",
        limit.describe(),
        log.trajectory().dev.get(&0).map_or(f64::NAN, |scored| scored.loss),
        plan.learning_rate.unwrap_or_default() / 10.0
    ))
}

/// The command that goes on with a run.
pub fn go_on(plan: &Plan) -> String {
    format!("go on with: zotune train --resume {}", quoted(&plan.output_dir.to_string_lossy()))
}

/// What to say when a model gives no numbers before anything was changed.
const DAMAGED: &str = "before training: the model's weights are damaged, or config.json is not theirs";
