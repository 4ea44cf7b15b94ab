//! The output of a run while it trains: its log and its progress bar.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;

use super::learning::Change;
use super::log_line::{self, LogLine};
use super::pace::{Pace, roughly};
use super::progress::{OnLine, Progress};
use crate::base::{Peaks, memory};
use crate::config::RunConfig;
use crate::params::{Slot, Visit};
use crate::run::trajectory::Scored;
use crate::zo::{Cost, Estimate, SnapshotReport};

/// The log and progress bar of a run. Totals count training without evaluations.
pub struct Journal {
    path: PathBuf,
    log: File,
    bar: ProgressBar,
    on_line: Option<OnLine>,
    start: Instant,
    /// The last step of this process.
    last: u64,
    is_trial: bool,
    logging_steps: u64,
    batch_size: u64,
    /// The step of the last line of an earlier process, and the seconds in it.
    written: Option<u64>,
    seconds_before: f64,
    /// The last snapshot's report, until it is logged.
    snapshot: Option<SnapshotReport>,
    /// Sums and counts of loss, loss_plus and loss_minus since the last line.
    window: Window,
    totals: Cost,
    function_evaluations: u64,
    /// One entry per step that this process computed, in seconds.
    step_times: Vec<f64>,
    forward_times: Vec<f64>,
    walk_times: Vec<f64>,
    /// The mean loss of every step.
    losses: Vec<f64>,
    last_dev: Option<Scored>,
    /// The pace of the steps computed by this process; set at its first one.
    pace: Option<Pace>,
}

/// Sum and count of each running mean.
type Window = [[f64; 2]; 3];

/// What is known of the weights at an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    /// The score on dev.
    pub scored: Scored,
    /// The norm of the gradient of the function that is minimised, where the workload knows it.
    pub gradient_norm: Option<f64>,
}

/// One step, as the journal records it.
pub struct Step<'a> {
    /// The step, counted from 1.
    pub number: u64,
    /// The estimate.
    pub estimate: &'a Estimate,
    /// The norm of the first-order gradient, if there was one.
    pub gradient_norm: Option<f64>,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// The cost of the objective's evaluations.
    pub cost: Cost,
    /// Wall time of the step without evaluation on dev.
    pub time: Duration,
    /// Wall time of its passes over the weights.
    pub pass_time: Duration,
    /// Whether it was replayed from the trajectory; its times are then not recorded.
    pub replayed: bool,
}

/// Totals over a run's steps.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// The mean loss over the last tenth of the steps.
    pub train_loss: f64,
    /// Median wall time of a step without evaluation on dev, in seconds.
    pub seconds_per_step: f64,
    /// Median wall time of a step's forward and backward passes, in seconds.
    pub forward_seconds_per_step: f64,
    /// Median wall time of a step's passes over the weights, in seconds.
    pub walk_seconds_per_step: f64,
    /// Mean number of tokens over all forward passes of a step.
    pub tokens_per_step: f64,
    /// Wall time of training, evaluations on dev included, in seconds.
    pub train_seconds: f64,
    /// Loss evaluations on a mini-batch, including those of backward passes; a pass over the whole training set counts
    /// as ceil(examples / batch size).
    pub function_evaluations: u64,
    /// Forward passes; more than the evaluations if there are micro-batches.
    pub forwards: u64,
    /// Backward passes.
    pub backwards: u64,
    /// How the training loss changed; None if there are fewer than eight steps.
    #[serde(flatten)]
    pub change: Option<Change>,
    /// The largest memory of a step, beside what was allocated before it.
    #[serde(skip)]
    pub peaks: Peaks,
}

impl Journal {
    /// Opens trainer_log.jsonl in the run folder; of an existing one keeps the complete lines up to step `last`.
    pub fn open(config: &RunConfig, last: u64, progress: Progress) -> Result<Self> {
        let Progress { bar, on_line, trial } = progress;
        let path = config.output_dir.join(log_line::FILE);
        let (len, lines) = log_line::whole_log(&config.output_dir, last);
        let line = lines.last();
        let open = || -> std::io::Result<File> {
            let log = File::options().append(true).create(true).open(&path)?;
            log.set_len(len)?;
            Ok(log)
        };
        let log = open().with_context(|| format!("cannot write {}", path.display()))?;
        bar.set_message("evaluating the untrained model");
        Ok(Journal {
            path,
            log,
            bar,
            on_line,
            start: Instant::now(),
            last: trial.unwrap_or(config.max_steps),
            is_trial: trial.is_some(),
            logging_steps: config.logging_steps,
            batch_size: config.batch_size as u64,
            written: line.map(|line| line.step),
            seconds_before: line.map_or(0.0, |line| line.seconds),
            snapshot: None,
            window: Window::default(),
            totals: Cost::default(),
            function_evaluations: 0,
            step_times: Vec::new(),
            forward_times: Vec::new(),
            walk_times: Vec::new(),
            losses: Vec::new(),
            last_dev: None,
            pace: None,
        })
    }

    /// Logs the dev score before the first step.
    pub fn untrained(&mut self, dev: &Evaluation) -> Result<()> {
        if self.written.is_none() {
            self.say(0, &dev.scored);
        }
        self.last_dev = Some(dev.scored);
        let Evaluation { scored, gradient_norm } = *dev;
        self.write(LogLine { dev_loss: Some(scored.loss), dev_accuracy: scored.accuracy, gradient_norm, ..self.line(0) })?;
        // The clocks of training and of the bar start here.
        self.start = Instant::now();
        self.bar.reset();
        Ok(())
    }

    /// Logs one step and, where it was due, the dev score after it.
    pub fn step(&mut self, step: Step, dev: Option<&Evaluation>) -> Result<()> {
        self.count(&step);
        if !step.replayed && self.pace.is_none() {
            self.pace = Some(Pace::new(step.number, self.last));
        }
        if let Some(dev) = dev {
            self.last_dev = Some(dev.scored);
            if self.written.is_none_or(|written| written < step.number) {
                self.say(step.number, &dev.scored);
            }
        }
        if dev.is_some() || step.number == 1 || step.number.is_multiple_of(self.logging_steps) {
            let [loss, loss_plus, loss_minus] =
                std::mem::take(&mut self.window).map(|[sum, count]| (count > 0.0).then(|| sum / count));
            let line = LogLine {
                loss,
                loss_plus,
                loss_minus,
                projected_grad: step.estimate.projected_grad(),
                first_order_norm: step.gradient_norm,
                correction_norm: step.estimate.correction_norm,
                gradient_norm: dev.and_then(|dev| dev.gradient_norm),
                correction_ratio: step.gradient_norm.and_then(|norm| Some(step.estimate.correction_norm? / norm)),
                snapshot: self.snapshot.take(),
                learning_rate: Some(step.learning_rate),
                dev_loss: dev.map(|d| d.scored.loss),
                dev_accuracy: dev.and_then(|d| d.scored.accuracy),
                ..self.line(step.number)
            };
            self.write(line)?;
        }
        self.show(step.number, step.replayed);
        Ok(())
    }

    fn count(&mut self, step: &Step) {
        let estimate = step.estimate;
        let found = [Some(estimate.loss()), estimate.loss_plus(), estimate.loss_minus()];
        for ([sum, count], found) in self.window.iter_mut().zip(found) {
            *sum += found.unwrap_or(0.0);
            *count += if found.is_some() { 1.0 } else { 0.0 };
        }
        self.losses.push(estimate.loss());
        let Cost { evaluations, example_evaluations, .. } = step.cost;
        self.function_evaluations += evaluations + example_evaluations.div_ceil(self.batch_size);
        self.snapshot = step.estimate.snapshot.or(self.snapshot.take());
        self.totals.forwards += step.cost.forwards;
        self.totals.tokens += step.cost.tokens;
        self.totals.backwards += step.cost.backwards;
        self.totals.peaks = self.totals.peaks.max(step.cost.peaks);
        if step.replayed {
            return;
        }
        self.step_times.push(step.time.as_secs_f64());
        self.forward_times.push(step.cost.time.as_secs_f64());
        self.walk_times.push(step.pass_time.as_secs_f64());
    }

    fn line(&self, step: u64) -> LogLine {
        LogLine {
            step,
            function_evaluations: self.function_evaluations,
            forwards: self.totals.forwards,
            backwards: self.totals.backwards,
            tokens: self.totals.tokens,
            seconds: if step == 0 { 0.0 } else { self.seconds() },
            rss_peak_bytes: memory::peak_rss_bytes(),
            ..LogLine::default()
        }
    }

    /// Wall time of training so far, including earlier processes up to their last line.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.start.elapsed().as_secs_f64()
    }

    /// Lines of an earlier process are kept.
    fn write(&mut self, line: LogLine) -> Result<()> {
        if self.written.is_some_and(|written| line.step <= written) {
            return Ok(());
        }
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.log.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.on_line.as_mut().map_or(Ok(()), |on_line| on_line(&line))
    }

    /// Syncs the log to disk.
    pub fn sync(&self) -> Result<()> {
        self.log.sync_data().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Visits the state that a resumed process needs.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        let Cost { forwards, backwards, tokens, peaks, .. } = &mut self.totals;
        let mut counts = vec![self.function_evaluations, *forwards, *backwards, *tokens];
        counts.extend([peaks.held, peaks.aside, peaks.both].map(|bytes| bytes as u64));
        let mut window = self.window.as_flattened().to_vec();
        let mut snapshot: Vec<f64> = self.snapshot.map_or(Vec::new(), |s| {
            vec![s.num_directions as f64, s.example_evaluations as f64, s.standard_error.unwrap_or(f64::NAN)]
        });
        visit("counts", Slot::U64(&mut counts))?;
        visit("losses", Slot::F64(&mut self.losses))?;
        visit("window", Slot::F64(&mut window))?;
        visit("snapshot", Slot::F64(&mut snapshot))?;
        if let [evaluations, f, b, t, held, aside, both] = counts[..] {
            (self.function_evaluations, *forwards, *backwards, *tokens) = (evaluations, f, b, t);
            *peaks = Peaks { held: held as usize, aside: aside as usize, both: both as usize };
        }
        self.window.as_flattened_mut().copy_from_slice(&window);
        self.snapshot = match snapshot[..] {
            [directions, evaluations, error] => Some(SnapshotReport {
                num_directions: directions as usize,
                example_evaluations: evaluations as u64,
                standard_error: Some(error).filter(|error| !error.is_nan()),
            }),
            _ => None,
        };
        Ok(())
    }

    /// The mean loss of every step so far.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// The mean loss of the last tenth of the steps.
    fn recent_loss(&self) -> f64 {
        let recent = &self.losses[self.losses.len() - self.losses.len().div_ceil(10)..];
        recent.iter().sum::<f64>() / recent.len() as f64
    }

    fn say(&mut self, step: u64, dev: &Scored) {
        if self.is_trial {
            return;
        }
        let loss = if step == 0 { "before training".into() } else { format!("train loss {:.4}", self.recent_loss()) };
        let line = format!(
            "  {step:>6}/{}  {loss:<17}  dev loss {:.4}{}  peak {}",
            self.last,
            dev.loss,
            dev.accuracy.map_or(String::new(), |share| format!("  accuracy {:.1} %", 100.0 * share)),
            memory::human(memory::peak_rss_bytes())
        );
        if self.bar.is_hidden() {
            let left = self.left(step).map_or(String::new(), |left| format!("  {left}"));
            tracing::info!("{line}{left}");
        } else {
            self.bar.println(line);
        }
    }

    /// The forecast of the remaining steps' time with their evaluations, if any remain.
    fn left(&self, step: u64) -> Option<String> {
        let left = self.pace.as_ref().filter(|_| step < self.last)?.left(step)?;
        Some(format!("{} left", roughly(left)))
    }

    fn show(&mut self, step: u64, replayed: bool) {
        if self.bar.is_hidden() {
            if let Some(left) = self.pace.as_mut().filter(|_| !self.is_trial).and_then(|pace| pace.due(step)) {
                let (loss, left) = (self.recent_loss(), roughly(left));
                tracing::info!("  {step:>6}/{}  train loss {loss:.4}  {left} left", self.last);
            }
            return;
        }
        self.bar.set_position(step);
        if replayed {
            return self.bar.set_message("replaying the log");
        }
        let seconds = median(&self.step_times[self.step_times.len().saturating_sub(50)..]);
        let tokens = self.totals.tokens as f64 / step as f64;
        let share = |dev: &Scored| dev.accuracy.map_or(String::new(), |share| format!(" {:.1} %", 100.0 * share));
        let dev = self.last_dev.map_or(String::new(), |dev| format!("  dev {:.3}{}", dev.loss, share(&dev)));
        // A narrow terminal cuts the end off.
        self.bar.set_message(format!(
            "loss {:.3}{dev}{}  {:.1} it/s  {:.0} tok/s  peak {}",
            self.recent_loss(),
            self.left(step).map_or(String::new(), |left| format!("  {left}")),
            1.0 / seconds,
            tokens / seconds,
            memory::human(memory::peak_rss_bytes()),
        ));
    }

    /// Ends the bar and returns the totals.
    pub fn end(self) -> Totals {
        self.bar.finish_and_clear();
        let steps = self.losses.len() as f64;
        Totals {
            train_loss: self.recent_loss(),
            change: Change::over(&self.losses),
            seconds_per_step: median(&self.step_times),
            forward_seconds_per_step: median(&self.forward_times),
            walk_seconds_per_step: median(&self.walk_times),
            tokens_per_step: self.totals.tokens as f64 / steps,
            train_seconds: self.seconds(),
            function_evaluations: self.function_evaluations,
            forwards: self.totals.forwards,
            backwards: self.totals.backwards,
            peaks: self.totals.peaks,
        }
    }
}

/// The median (the upper one of an even count); NaN if empty.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
