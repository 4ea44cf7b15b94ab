//! The final output of the commands, and numbers for people.

use std::path::Path;

use crate::base::memory::human;
use crate::base::numbers::short;
use crate::base::text::shell_quoted;
use crate::config::{Inputs, Precision, RunConfig, TrainableArgs};
use crate::data::task::{Loss, Metric, Repeats, Task};
use crate::model::save::kept_file;
use crate::run::pace::duration;
use crate::run::trajectory::Trajectory;
use crate::run::{Comparison, Forecast, Memory, Results, TriedRate, Verdict};
use crate::zo::{Answers, Selection};

/// The results, the files written, and a useful next command.
pub fn summary(
    config: &RunConfig,
    task: &Task,
    results: &Results,
    comparison: &Comparison,
    num_eval: usize,
    repeats: Repeats,
) -> String {
    let totals = &results.totals;
    let Results { untrained_eval_loss, eval_loss, .. } = results;
    let (what, before, after, loss) = match (results.untrained_eval_accuracy, results.eval_accuracy) {
        (Some(before), Some(after)) => {
            let percent = |x: f64| format!("{:.1} %", 100.0 * x);
            ("accuracy", percent(before), percent(after), format!("loss {untrained_eval_loss:.4} -> {eval_loss:.4}"))
        }
        _ => {
            let perplexity = |loss: &f64| format!("{:.2}", loss.exp());
            let both = format!("perplexity {} -> {}", perplexity(untrained_eval_loss), perplexity(eval_loss));
            ("loss", format!("{untrained_eval_loss:.4}"), format!("{eval_loss:.4}"), both)
        }
    };
    let kept = match results.best_step {
        0 => "no step lowered the dev loss, so the weights before training were kept; try another --learning-rate".into(),
        step => format!("best step {step}, by dev loss"),
    };
    let (advice, search) = (advice(results), tried(&results.learning_rate_search));
    let passes = if totals.backwards > 0 { "forward and backward passes" } else { "forward passes" };
    // A process that only finished another's run has no step times.
    let own = totals.seconds_per_step.is_finite();
    let times = match own {
        true => format!(
            " ({:.1} ms per step: {passes} {:.1}, weight updates {:.1})",
            1e3 * totals.seconds_per_step,
            1e3 * totals.forward_seconds_per_step,
            1e3 * totals.walk_seconds_per_step
        ),
        false => String::new(),
    };
    let deviation = match own {
        true => format!(" ({})", off(comparison.seconds_per_step_deviation, 0)),
        false => String::new(),
    };
    let replays = match results.replays {
        true => ": zotune replay rebuilds the weights of any step from it and the base model",
        false => "",
    };
    let new = match repeats.eval_in_train + repeats.eval_in_dev {
        0 => format!("{num_eval} unseen examples"),
        n => format!("{num_eval} examples, {n} of which are also in train or dev"),
    };
    let worth = results.eval_answers.map_or(String::new(), |answers| format!("         {}\n", worth(task, &answers)));
    let file = kept_file(config.inputs.is_adapted());
    let checkpoint = if config.save_steps > 0 { format!(", checkpoint-{}", results.steps) } else { String::new() };
    format!(
        "{what} on {new}: {before} -> {after}   ({loss}; {kept})\n{advice}{worth}\
         time     {} in {}{times}\n         {} loss evaluations, {:.0} tokens per step\n\
         memory   {}\n\
         forecast was {} ({}), {} per step{deviation}\n\
         {search}\
         run      {}: {file}{checkpoint}, loss.svg, trainer_log.jsonl, all_results.json, run.json\n\
         log      trajectory.bin ({}){replays}\n\
         next     {}",
        steps(results.steps),
        duration(totals.train_seconds),
        totals.function_evaluations,
        totals.tokens_per_step,
        parts(&results.memory),
        human(comparison.forecast.memory.peak_rss_bytes),
        off(comparison.peak_rss_deviation, 1),
        duration(comparison.forecast.seconds_per_step),
        config.output_dir.display(),
        human(results.trajectory_bytes),
        next_command(config),
    )
}

/// What to try if the learning rate was probably too small or too large; empty if not.
fn advice(results: &Results) -> String {
    let Some(change) = results.totals.change else { return String::new() };
    let (change_of, rate) = (format!("from {:.4} to {:.4}", change.first, change.last), results.learning_rate);
    match change.verdict(results.untrained_dev_loss, results.dev_loss) {
        Verdict::TooSmall => format!(
            "         the training loss changed less than its noise ({change_of}, first and last quarter of the steps; standard \
             error {:.4}):\n         --learning-rate {} is probably too small for {}; try {}, or train longer\n",
            change.error,
            short(rate),
            steps(results.steps),
            short(10.0 * rate)
        ),
        Verdict::TooLarge => format!(
            "         the training loss rose ({change_of}, first and last quarter of the steps):\n         \
             --learning-rate {} is probably too large; try {}\n",
            short(rate),
            short(rate / 10.0)
        ),
        Verdict::Learned => String::new(),
    }
}

/// The learning rates that a search tried; empty without one.
fn tried(search: &[TriedRate]) -> String {
    let said = |trial: &TriedRate| {
        let loss = trial.dev_loss.map_or("diverged".into(), |loss| format!("{loss:.4}"));
        let chosen = if trial.chosen { ", chosen" } else { "" };
        format!("{} ({loss}{chosen})", short(trial.learning_rate))
    };
    let Some(chosen) = search.iter().find(|trial| trial.chosen) else { return String::new() };
    format!(
        "rates    {}: the dev loss after {}, from {:.4}\n",
        search.iter().map(said).collect::<Vec<_>>().join(", "),
        steps(chosen.step),
        chosen.untrained_dev_loss
    )
}

/// How far a forecast was off, as a share of what came.
fn off(deviation: f64, digits: usize) -> String {
    let side = if deviation < 0.0 { "low" } else { "high" };
    format!("{:.digits$} % too {side}", 100.0 * deviation.abs())
}

/// A number of steps, for people.
pub fn steps(count: u64) -> String {
    format!("{count} step{}", if count == 1 { "" } else { "s" })
}

/// A number of parameters, for people.
pub fn human_count(count: usize) -> String {
    let count = count as f64;
    if count < 1e6 { format!("{:.1} k parameters", count / 1e3) } else { format!("{:.1} M parameters", count / 1e6) }
}

/// Peak memory and its parts.
pub fn parts(memory: &Memory) -> String {
    let parts = memory.parts().into_iter().filter(|(.., bytes)| *bytes > 0);
    let said = parts.map(|(name, _, bytes)| format!("{name} {}", human(bytes as u64)));
    format!("peak {} = {}", human(memory.peak_rss_bytes), said.collect::<Vec<_>>().join(" + "))
}

/// A useful next command: SST-2 after the built-in sentences, else the evaluation of the result.
pub fn next_command(config: &RunConfig) -> String {
    let inputs = &config.inputs;
    if inputs.task.as_deref() == Some("reviews") && !inputs.is_adapted() {
        let model = shell_quoted(&inputs.model);
        return format!("zotune train --model {model} --task sst2    (downloads SST-2; for a local copy: --data FOLDER)");
    }
    format!("zotune eval {} {}", model_flags(inputs, &config.output_dir), eval_flags(inputs)).trim_end().into()
}

/// The flags that evaluate a model on the rows of a run.
pub fn eval_flags(inputs: &Inputs) -> String {
    let mut flags = vec![task_flags(inputs)];
    let mut add = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            flags.push(format!("--{flag} {}", shell_quoted(&value)));
        }
    };
    if inputs.task.is_some() {
        add("data", inputs.data.as_ref().map(|d| d.to_string_lossy().into_owned()));
    }
    add("dtype", (inputs.dtype != Precision::F32).then(|| inputs.dtype.dtype().as_str().into()));
    add("bos-id", inputs.bos_id.map(|id| id.to_string()));
    add("max-length", inputs.max_length.map(|n| n.to_string()));
    add("num-eval", inputs.num_eval.map(|n| n.to_string()));
    add("train-set-seed", (inputs.train_set_seed != 0).then(|| inputs.train_set_seed.to_string()));
    flags.join(" ")
}

/// Confidence interval and majority baseline of an accuracy, in one line.
pub fn worth(task: &Task, answers: &Answers) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let Answers { accuracy_low, accuracy_high, majority_share, majority_answer, only_answer, .. } = *answers;
    let only = only_answer.map_or(String::new(), |only| format!("; the model chose {} for every row", task.answer(only)));
    format!(
        "95 % interval (Wilson) {:.1} to {}; always choosing {} gives {}{only}",
        100.0 * accuracy_low,
        percent(accuracy_high),
        task.answer(majority_answer),
        percent(majority_share)
    )
}

/// The forecast, in one line.
pub fn outlook(forecast: &Forecast, config: &RunConfig) -> String {
    let Forecast { memory, seconds_per_step, seconds, disk_bytes, .. } = forecast;
    format!(
        "{} per step, {} for {} with evaluation; peak memory {}; {} on disk",
        duration(*seconds_per_step),
        duration(*seconds),
        steps(config.max_steps),
        human(memory.peak_rss_bytes),
        human(*disk_bytes)
    )
}

/// The flags for a run's output in `folder`: a model, or an adapter with its base model.
pub fn model_flags(inputs: &Inputs, folder: &Path) -> String {
    let folder = shell_quoted(&folder.to_string_lossy());
    match inputs.is_adapted() {
        true => {
            let to_base = Trajectory::to_base(inputs).map(|place| shell_quoted(&place.to_string_lossy()));
            let to_base = to_base.map_or(String::new(), |place| format!(" --trajectory {place}"));
            format!("--model {}{to_base} --adapter {folder}", shell_quoted(&inputs.model))
        }
        false => format!("--model {folder}"),
    }
}

/// Which weights are trained; None: the whole model.
pub fn trained(inputs: &Inputs) -> Option<String> {
    let TrainableArgs { tune, lora_r, lora_alpha, lora_target_modules, num_prefix, .. } = &inputs.tuned;
    match (tune, lora_r, num_prefix, &inputs.adapter) {
        (Some(Selection::Last(1)), ..) => Some("the last block".into()),
        (Some(Selection::Last(n)), ..) => Some(format!("the last {n} blocks")),
        (Some(Selection::Patterns(patterns)), ..) => Some(format!("the weights that match {}", patterns.join(" or "))),
        (Some(selection), ..) => Some(selection.to_string()),
        (_, Some(r), ..) => {
            let targets = lora_target_modules.clone().map_or(String::new(), String::from);
            Some(format!("LoRA adapter of rank {r}, alpha {}, on {targets}", lora_alpha.unwrap_or_default()))
        }
        (_, _, Some(tokens), _) => Some(format!("a prefix of {tokens} tokens")),
        (.., Some(folder)) => Some(format!("the adapter in {}", folder.display())),
        _ => None,
    }
}

/// The flags for the task and data of a run.
pub fn task_flags(inputs: &Inputs) -> String {
    match (&inputs.task, &inputs.data) {
        (Some(task), _) => format!("--task {}", shell_quoted(task)),
        (None, Some(data)) => format!("--data {}", shell_quoted(&data.to_string_lossy())),
        (None, None) => "--data FILE".into(),
    }
}

/// The task's loss, for people.
pub fn loss_name(task: &Task) -> &'static str {
    match (task.loss, task.metric) {
        (Loss::Classification, _) => "classification over the answers",
        (Loss::TeacherForcing, Metric::Accuracy) => "language-modelling loss on the right answer",
        (Loss::TeacherForcing, Metric::Loss) => "language-modelling loss on the tokens after the prompt",
    }
}
