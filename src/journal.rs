//! What a run writes while it goes: its folder, its log, its progress bar.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::Plan;
use crate::estimator::{Estimate, SnapshotReport};
use crate::eval::Evaluation;
use crate::files::{self, Source};
use crate::memory::{self, Peaks};
use crate::model::Model;
use crate::objective::Cost;
use crate::report::LogLine;
use crate::tokenizer::Tokenizer;

/// What a run leaves in its folder beside the tokenizer; an overwritten folder loses these and nothing else.
/// The weights stay until the first of the new ones take their place.
const LEFT_BY_A_RUN: [&str; 6] =
    ["run.json", "trainer_log.jsonl", "all_results.json", "loss.svg", "config.json", "generation_config.json"];

/// Whether a run may write into its folder; touches nothing.
///
/// One that is not empty is refused unless it is to be overwritten, and always if the run reads its model or data there.
pub fn check_folder(plan: &Plan) -> Result<()> {
    let folder = &plan.output_dir;
    let place = folder.display();
    let occupied = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(usage!("--output-dir {place}: {e}")),
    };
    if occupied && !plan.overwrite_output_dir {
        return Err(usage!("--output-dir {place} is not empty; name another, or add --overwrite-output-dir"));
    }
    let same = |other: &Path| matches!((folder.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(Path::new(&plan.inputs.model)) || plan.inputs.data.as_deref().is_some_and(same) {
        return Err(usage!("--output-dir {place} is where the model or the data are read from; name another"));
    }
    Ok(())
}

/// Makes the run folder, once [`check_folder`] has allowed it, and removes the files of an older run.
pub fn prepare_folder(folder: &Path) -> Result<()> {
    let place = folder.display();
    std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make the run folder {place}: {e}"))?;
    for name in LEFT_BY_A_RUN.into_iter().chain(Tokenizer::FILES) {
        match std::fs::remove_file(folder.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {place}/{name}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes run.json: what was asked for, with what program, on what model, data and machine.
pub fn write_run_json(plan: &Plan, definition: &str, model: &Model, data: Value, command: &[String]) -> Result<()> {
    let hashes: serde_json::Map<String, Value> = model
        .weight_files()
        .iter()
        .map(|name| Ok((name.clone(), sha256(model.source(), name)?.into())))
        .collect::<Result<_>>()?;
    let variables = ["RAYON_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RUST_LOG", "NO_COLOR"];
    let environment: serde_json::Map<String, Value> =
        variables.iter().filter_map(|v| Some((v.to_string(), std::env::var(v).ok()?.into()))).collect();
    let run = json!({
        "config": plan,
        "method": definition,
        "data": data,
        "model": { "source": plan.inputs.model, "sha256": hashes },
        "command": command,
        "versions": { "zotune": env!("CARGO_PKG_VERSION"), "commit": env!("ZOTUNE_COMMIT"), "rustc": env!("ZOTUNE_RUSTC") },
        "machine": {
            "os": std::env::consts::OS,
            "cpu": cpu_name(),
            "instruction_set": crate::noise::instruction_set(),
            "threads": rayon::current_num_threads(),
        },
        "environment": environment,
    });
    files::write_bytes(&plan.output_dir.join("run.json"), &serde_json::to_vec_pretty(&run)?)
}

fn sha256(source: &Source, name: &str) -> Result<String> {
    let (mut reader, _) = source.open(name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_string()));
    name.unwrap_or(std::env::consts::ARCH.into())
}

/// The log of a run under way. Totals count training, not evaluation.
pub struct Journal {
    path: PathBuf,
    log: File,
    bar: ProgressBar,
    start: Instant,
    max_steps: u64,
    logging_steps: u64,
    batch_size: u64,
    /// The last snapshot's report, until it is logged.
    snapshot: Option<SnapshotReport>,
    /// Since the line before.
    window: Vec<Estimate>,
    totals: Cost,
    function_evaluations: u64,
    /// One entry a step, in seconds.
    step_times: Vec<f64>,
    forward_times: Vec<f64>,
    walk_times: Vec<f64>,
    /// The mean loss of every step.
    losses: Vec<f64>,
    last_dev: Option<(f64, f64)>,
}

/// What one step was.
pub struct Step<'a> {
    /// Counted from 1.
    pub number: u64,
    /// What was estimated.
    pub estimate: &'a Estimate,
    /// The length of the first-order gradient, where there was one.
    pub gradient_norm: Option<f64>,
    /// The rate it was applied with.
    pub learning_rate: f64,
    /// What the objective's evaluations took.
    pub cost: Cost,
    /// The whole step without evaluation.
    pub time: Duration,
    /// The passes over the weights in it.
    pub walk_time: Duration,
}

/// What a run's steps amounted to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Mean over the last tenth of the steps.
    pub train_loss: f64,
    /// Median wall time of a step without evaluation.
    pub seconds_per_step: f64,
    /// Median wall time of a step's forward and backward passes.
    pub forward_seconds_per_step: f64,
    /// Median wall time of a step's passes over the weights.
    pub walk_seconds_per_step: f64,
    /// Tokens fed in all of a step's forwards, mean.
    pub tokens_per_step: f64,
    /// Wall time of the whole training, evaluations on dev with it.
    pub train_seconds: f64,
    /// Evaluations of the loss on a mini-batch, those at the bottom of backward passes among them; a look at the whole
    /// training set counts as the mini-batches that it is worth.
    pub function_evaluations: u64,
    /// Forward passes: more than evaluations where there are micro-batches.
    pub forwards: u64,
    /// Backward passes.
    pub backwards: u64,
    /// The most that steps held beside what was there before them.
    #[serde(skip)]
    pub peaks: Peaks,
}

impl Journal {
    /// Begins trainer_log.jsonl in the run folder.
    pub fn begin(plan: &Plan, bar: ProgressBar) -> Result<Self> {
        let path = plan.output_dir.join("trainer_log.jsonl");
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        bar.set_message("scoring the untrained model");
        Ok(Journal {
            path,
            log,
            bar,
            start: Instant::now(),
            max_steps: plan.max_steps,
            logging_steps: plan.logging_steps,
            batch_size: plan.batch_size as u64,
            snapshot: None,
            window: Vec::new(),
            totals: Cost::default(),
            function_evaluations: 0,
            step_times: Vec::new(),
            forward_times: Vec::new(),
            walk_times: Vec::new(),
            losses: Vec::new(),
            last_dev: None,
        })
    }

    /// The dev loss and accuracy before the first step.
    pub fn untrained(&mut self, dev: &Evaluation) -> Result<()> {
        self.say(0, dev);
        let line = LogLine { eval_loss: Some(dev.loss), eval_accuracy: Some(dev.accuracy), ..self.line(0) };
        self.write(&line)?;
        // The clock of training starts here, the bar's with it.
        self.start = Instant::now();
        self.bar.reset();
        Ok(())
    }

    /// One step and, where it was due, the evaluation behind it.
    pub fn step(&mut self, step: Step, dev: Option<&Evaluation>) -> Result<()> {
        self.count(&step);
        if let Some(dev) = dev {
            self.say(step.number, dev);
        }
        if dev.is_some() || step.number == 1 || step.number.is_multiple_of(self.logging_steps) {
            let line = LogLine {
                loss: self.mean(|e| Some(e.loss())),
                loss_plus: self.mean(Estimate::loss_plus),
                loss_minus: self.mean(Estimate::loss_minus),
                projected_grad: step.estimate.projected_grad(),
                first_order_norm: step.gradient_norm,
                correction_norm: step.estimate.correction_norm,
                correction_ratio: step.gradient_norm.and_then(|norm| Some(step.estimate.correction_norm? / norm)),
                snapshot: self.snapshot.take(),
                learning_rate: Some(step.learning_rate),
                eval_loss: dev.map(|d| d.loss),
                eval_accuracy: dev.map(|d| d.accuracy),
                ..self.line(step.number)
            };
            self.write(&line)?;
            self.window.clear();
        }
        self.show(step.number);
        Ok(())
    }

    /// Over the steps since the line before, of what they have.
    fn mean(&self, f: impl Fn(&Estimate) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.window.iter().filter_map(f).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    fn count(&mut self, step: &Step) {
        self.window.push(step.estimate.clone());
        self.losses.push(step.estimate.loss());
        let Cost { evaluations, example_evaluations, .. } = step.cost;
        self.function_evaluations += evaluations + example_evaluations.div_ceil(self.batch_size);
        self.snapshot = step.estimate.snapshot.or(self.snapshot.take());
        self.totals.forwards += step.cost.forwards;
        self.totals.tokens += step.cost.tokens;
        self.totals.backwards += step.cost.backwards;
        self.totals.peaks = self.totals.peaks.max(step.cost.peaks);
        self.step_times.push(step.time.as_secs_f64());
        self.forward_times.push(step.cost.time.as_secs_f64());
        self.walk_times.push(step.walk_time.as_secs_f64());
    }

    fn line(&self, step: u64) -> LogLine {
        LogLine {
            step,
            function_evaluations: self.function_evaluations,
            forwards: self.totals.forwards,
            backwards: self.totals.backwards,
            tokens: self.totals.tokens,
            seconds: if step == 0 { 0.0 } else { self.start.elapsed().as_secs_f64() },
            rss_peak_bytes: memory::peak_rss_bytes(),
            ..LogLine::default()
        }
    }

    fn write(&mut self, line: &LogLine) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.log.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The mean loss of the last tenth of the steps.
    fn recent_loss(&self) -> f64 {
        let recent = &self.losses[self.losses.len() - self.losses.len().div_ceil(10)..];
        recent.iter().sum::<f64>() / recent.len() as f64
    }

    fn say(&mut self, step: u64, dev: &Evaluation) {
        self.last_dev = Some((dev.loss, dev.accuracy));
        let loss = if step == 0 { "           ".into() } else { format!("loss {:.4}", self.recent_loss()) };
        let line = format!(
            "  {step:>6}/{}  {loss}  dev {:.4}  {:.1} %  peak {}",
            self.max_steps,
            dev.loss,
            100.0 * dev.accuracy,
            memory::human(memory::peak_rss_bytes())
        );
        if self.bar.is_hidden() {
            tracing::info!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    fn show(&self, step: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let seconds = median(&self.step_times[self.step_times.len().saturating_sub(50)..]);
        let tokens = self.totals.tokens as f64 / step as f64;
        let dev =
            self.last_dev.map_or(String::new(), |(loss, accuracy)| format!("  dev {loss:.3} {:.1} %", 100.0 * accuracy));
        self.bar.set_message(format!(
            "loss {:.3}{dev}  {:.1} it/s  {:.0} tok/s  peak {}",
            self.recent_loss(),
            1.0 / seconds,
            tokens / seconds,
            memory::human(memory::peak_rss_bytes())
        ));
        self.bar.set_position(step);
    }

    /// Ends the bar and sums up.
    pub fn end(self) -> Totals {
        self.bar.finish_and_clear();
        let steps = self.losses.len() as f64;
        Totals {
            train_loss: self.recent_loss(),
            seconds_per_step: median(&self.step_times),
            forward_seconds_per_step: median(&self.forward_times),
            walk_seconds_per_step: median(&self.walk_times),
            tokens_per_step: self.totals.tokens as f64 / steps,
            train_seconds: self.start.elapsed().as_secs_f64(),
            function_evaluations: self.function_evaluations,
            forwards: self.totals.forwards,
            backwards: self.totals.backwards,
            peaks: self.totals.peaks,
        }
    }
}

/// The middle value (of an even number, the upper of the two); NaN of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
