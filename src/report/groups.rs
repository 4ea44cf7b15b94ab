//! Runs that differ in their seed alone are a group. Groups answer the same question, or there is no report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use super::escape::shortened;
use super::runs::RunRecord;
use crate::base::text::nearest;
use crate::config::{OF_THE_RECORD, Schedule};

/// Settings that change no result, or that repeat a run: the seed, and the image of an attack.
const FREE: [&str; 5] = ["seed", "image", "target", "output_dir", "overwrite_output_dir"];

/// Settings that say what is trained on what. [`check_question`] compares what they led to.
const QUESTION: [&str; 15] = [
    "lab",
    "dimension",
    "start",
    "model",
    "revision",
    "trajectory",
    "adapter",
    "task",
    "data",
    "num_train",
    "num_dev",
    "num_eval",
    "train_set_seed",
    "max_length",
    "bos_id",
];

/// The settings that a label names first, and their short names. Others follow by name.
const SHORT: [(&str, &str); 16] = [
    ("learning_rate", "lr"),
    ("lora_r", "lora r"),
    ("prefix_tuning", "prefix"),
    ("num_prefix", "prefix tokens"),
    ("tune", "tune"),
    ("fo_params", "fo"),
    ("dtype", ""),
    ("state_dtype", "state"),
    ("distribution", ""),
    ("perturbation_mode", ""),
    ("lr_scheduler_type", ""),
    ("num_directions", "q"),
    ("zo_eps", "eps"),
    ("batch_size", "batch"),
    ("micro_batch_size", "micro-batch"),
    ("max_steps", "steps"),
];

/// The longest value in a label, in characters.
const LONGEST_VALUE: usize = 28;

/// The lab whose runs are repeated over images.
const ATTACK: &str = "attack";

/// Runs with the same settings and different seeds.
pub struct Group {
    /// What sets it apart from the others, as short as possible; no two are the same.
    pub label: String,
    /// Its runs; never empty.
    pub runs: Vec<RunRecord>,
}

impl Group {
    /// Its method.
    pub fn optimizer(&self) -> &str {
        &self.runs[0].config.optimizer
    }
}

/// Groups and what sets them apart.
pub struct Groups {
    /// In the order in which their first runs were named.
    pub groups: Vec<Group>,
    /// The settings that differ, each with its value in every group.
    pub differences: Vec<(String, Vec<String>)>,
}

impl Groups {
    /// Sorts runs into groups. Fails with a usage error if two runs answer different questions, or are the same run.
    pub fn of(runs: Vec<RunRecord>) -> Result<Self> {
        if let Some((first, others)) = runs.split_first() {
            others.iter().try_for_each(|run| check_question(first, run))?;
        }
        let mut all: Vec<(Map<String, Value>, Vec<RunRecord>)> = Vec::new();
        for run in runs {
            let settings = settings(&run)?;
            match all.iter_mut().find(|(others, _)| *others == settings) {
                Some((_, group)) => group.push(run),
                None => all.push((settings, vec![run])),
            }
        }
        let mut all = by_name_if_repeated(all);
        if let Some((run, twin)) = all.iter().find_map(|(_, group)| twins(group)) {
            return Err(usage!(
                "{} and {} have the same settings and the same seed ({}), so they are one run; leave one out",
                run.folder.display(),
                twin.folder.display(),
                run.config.seed
            ));
        }
        for (_, runs) in &mut all {
            runs.sort_by_key(|run| (run.config.lab.image, run.config.seed));
        }
        let (settings, runs): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let differing = differing(&settings);
        let labels = labels(&settings, &names(&runs), &differing);
        let differences = differing.iter().map(|key| (key.clone(), values(&settings, key))).collect();
        let groups = labels.into_iter().zip(runs).map(|(label, runs)| Group { label, runs }).collect();
        Ok(Groups { groups, differences })
    }

    /// The group called `name`: its label, or its method if no other group has it. The error is a usage error.
    pub fn named(&self, name: &str) -> Result<usize> {
        if let Some(at) = self.groups.iter().position(|group| group.label == name) {
            return Ok(at);
        }
        let of_method: Vec<usize> = (0..self.groups.len()).filter(|at| self.groups[*at].optimizer() == name).collect();
        match of_method[..] {
            [at] => Ok(at),
            [] => {
                let known = nearest(name, self.groups.iter().map(|group| group.label.as_str()));
                Err(usage!("`baseline` {name}: no group of runs has this name: {known}"))
            }
            [..] => {
                let labels: Vec<&str> = of_method.iter().map(|at| self.groups[*at].label.as_str()).collect();
                Err(usage!("`baseline` {name}: several groups have this method; name one of: {}", labels.join("; ")))
            }
        }
    }
}

/// Two runs of a group with the same seed, on the same data.
fn twins(group: &[RunRecord]) -> Option<(&RunRecord, &RunRecord)> {
    let repeats = |a: &RunRecord, b: &RunRecord| a.config.seed == b.config.seed && digest(a) == digest(b);
    let pairs = group.iter().enumerate().flat_map(|(i, run)| group[i + 1..].iter().map(move |other| (run, other)));
    pairs.into_iter().find(|(run, other)| repeats(run, other))
}

/// Splits groups in which a run occurs twice by the names of the runs: two names for the same settings are two groups.
fn by_name_if_repeated(groups: Vec<(Map<String, Value>, Vec<RunRecord>)>) -> Vec<(Map<String, Value>, Vec<RunRecord>)> {
    let mut split: Vec<(Map<String, Value>, Vec<RunRecord>)> = Vec::new();
    for (settings, runs) in groups {
        if twins(&runs).is_none() {
            split.push((settings, runs));
            continue;
        }
        let first = split.len();
        for run in runs {
            let has_name = |(_, group): &&mut (_, Vec<RunRecord>)| group[0].config.run_name == run.config.run_name;
            match split[first..].iter_mut().find(has_name) {
                Some((_, group)) => group.push(run),
                None => split.push((settings.clone(), vec![run])),
            }
        }
    }
    split
}

/// The digest of a run's data.
fn digest(run: &RunRecord) -> &Value {
    &run.record["data"]["digest"]
}

/// Fails if two runs differ in model, starting point or data.
fn check_question(a: &RunRecord, b: &RunRecord) -> Result<()> {
    let mut differ: Vec<String> = Vec::new();
    let mut compare = |what: &str, a: String, b: String| {
        if a != b {
            differ.push(format!("{what} ({a}; {b})"));
        }
    };
    let place = |path: &Option<PathBuf>| path.as_ref().map_or("none".into(), |path| whole(path));
    let (x, y) = (&a.config.inputs, &b.config.inputs);
    compare("the trajectory that they start from", place(&x.trajectory), place(&y.trajectory));
    compare("the adapter that they start from", place(&x.adapter), place(&y.adapter));
    let task = |task: &Option<String>| task.as_ref().map_or("by the data".into(), |task| whole(Path::new(task)));
    compare("the task", task(&x.task), task(&y.task));
    // Attacks differ in their images; that they are on one network is enough.
    let are_attacks = [a, b].iter().all(|run| run.config.lab.lab.as_deref() == Some(ATTACK));
    let digests = |run: &RunRecord| run.record["model"]["sha256"].clone();
    // Attacks by earlier versions have not recorded it.
    let is_recorded = |digests: &Value| digests.as_object().is_some_and(|files| !files.is_empty());
    let are_recorded = !are_attacks || is_recorded(&digests(a)) && is_recorded(&digests(b));
    if are_recorded && digests(a) != digests(b) {
        let names = (x.model.clone(), y.model.clone());
        let hint = if names.0 == names.1 { "the model, whose files have changed in between" } else { "the model" };
        differ.push(format!("{hint} ({}; {})", names.0, names.1));
    }
    if digest(a) != digest(b) && !are_attacks {
        differ.extend(rows_differ(a, b, differ.is_empty()));
    }
    match differ.is_empty() {
        true => Ok(()),
        false => Err(usage!(
            "{} and {} cannot be compared: they differ in {}",
            a.folder.display(),
            b.folder.display(),
            differ.join(", in ")
        )),
    }
}

/// Why two runs have other rows, as far as their settings say. If they say nothing, the rows themselves, where no other reason
/// is known (`unexplained`).
fn rows_differ(a: &RunRecord, b: &RunRecord, unexplained: bool) -> Vec<String> {
    let settings = |run: &RunRecord| serde_json::to_value(&run.config).unwrap_or_default();
    let (of_a, of_b) = (settings(a), settings(b));
    let is_of_rows = |key: &&&str| !["model", "revision", "trajectory", "adapter", "task"].contains(*key);
    let other = QUESTION.iter().filter(is_of_rows).filter(|key| of_a[**key] != of_b[**key]);
    let mut differ: Vec<String> =
        other.map(|key| format!("`{key}` ({}; {})", value(&of_a[*key]), value(&of_b[*key]))).collect();
    let lengths = [a, b].map(|run| run.record["data"]["max_length"].clone());
    if differ.is_empty() && lengths[0] != lengths[1] {
        differ.push(format!("the length that rows are cut to ({}; {})", lengths[0], lengths[1]));
    }
    if differ.is_empty() && unexplained {
        differ.push("the rows that they are trained and scored on".into());
    }
    differ
}

/// A path that is the same however it was typed; other names stay.
fn whole(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// The settings that make a run's group.
fn settings(run: &RunRecord) -> Result<Map<String, Value>> {
    let Value::Object(mut settings) = serde_json::to_value(&run.config)? else { unreachable!("a struct is an object") };
    let is_free = |key: &str| FREE.iter().chain(&OF_THE_RECORD).chain(&QUESTION).any(|free| *free == key);
    settings.retain(|key, value| !is_free(key) && !value.is_null());
    // With a constant rate an extended run is one that was started with as many steps.
    if run.config.lr_scheduler_type == Schedule::Constant {
        settings.remove("stages");
    }
    Ok(settings)
}

/// The settings in which groups differ: the method first, then as [`SHORT`] lists them, then by name.
fn differing(all: &[Map<String, Value>]) -> Vec<String> {
    let keys: BTreeSet<&String> = all.iter().flat_map(|settings| settings.keys()).collect();
    let differs = |key: &&String| all.iter().any(|settings| settings.get(*key) != all[0].get(*key));
    let rank = |key: &str| match key {
        "optimizer" => 0,
        key => 1 + SHORT.iter().position(|(name, _)| *name == key).unwrap_or(SHORT.len()),
    };
    let mut keys: Vec<String> = keys.into_iter().filter(differs).cloned().collect();
    keys.sort_by_key(|key| rank(key));
    keys
}

/// The value of a setting in every group. Numbers have three digits where that tells them apart.
fn values(all: &[Map<String, Value>], key: &str) -> Vec<String> {
    let exact: Vec<String> = all.iter().map(|settings| settings.get(key).map_or("-".into(), value)).collect();
    let round = |settings: &Map<String, Value>| match settings.get(key) {
        Some(Value::Number(x)) if x.is_f64() => number(&format!("{:.2e}", x.as_f64().unwrap_or_default())),
        other => other.map_or("-".into(), value),
    };
    let rounded: Vec<String> = all.iter().map(round).collect();
    let count = |values: &[String]| values.iter().collect::<BTreeSet<_>>().len();
    if count(&rounded) == count(&exact) { rounded } else { exact }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        Value::String(text) => text.clone(),
        Value::Number(x) if x.is_f64() => number(&format!("{:e}", x.as_f64().unwrap_or_default())),
        other => other.to_string(),
    }
}

/// A number in scientific notation as people write it: 1e-4, 0.5, 25.
fn number(scientific: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    match (scientific.parse::<f64>(), exponent.parse::<i32>()) {
        (Ok(x), Ok(-2..=5)) => x.to_string(),
        _ if digits.contains('.') => format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.')),
        _ => scientific.into(),
    }
}

/// The name that all runs of a group have; None: they have none, or several.
fn names(groups: &[Vec<RunRecord>]) -> Vec<Option<String>> {
    let name = |runs: &Vec<RunRecord>| {
        let name = runs[0].config.run_name.clone()?;
        runs.iter().all(|run| run.config.run_name.as_deref() == Some(&name)).then_some(name)
    };
    groups.iter().map(name).collect()
}

/// A label for each group: its name, or else its method where methods differ, and what else tells it from those of the same name.
fn labels(all: &[Map<String, Value>], names: &[Option<String>], differing: &[String]) -> Vec<String> {
    let mut parts: Vec<Vec<String>> = names.iter().map(|name| name.iter().cloned().collect()).collect();
    // Groups that are not told apart yet.
    let mut by_name: BTreeMap<&Option<String>, Vec<usize>> = BTreeMap::new();
    names.iter().enumerate().for_each(|(at, name)| by_name.entry(name).or_default().push(at));
    let mut same: Vec<Vec<usize>> = by_name.into_values().collect();
    for key in differing {
        let values = values(all, key);
        let mut next = Vec::new();
        for group in same {
            let mut by_value: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            group.iter().for_each(|at| by_value.entry(&values[*at]).or_default().push(*at));
            if by_value.len() > 1 {
                group.iter().for_each(|at| parts[*at].extend(part(key, all[*at].get(key), &values[*at])));
            }
            next.extend(by_value.into_values());
        }
        same = next;
    }
    let method = |at: usize| all[at].get("optimizer").map_or(String::new(), value);
    let mut labels: Vec<String> = Vec::new();
    for (at, parts) in parts.into_iter().enumerate() {
        let label = if parts.is_empty() { method(at) } else { parts.join(" ") };
        // Only values that were shortened can be the same.
        let numbered = |n: usize| if n == 1 { label.clone() } else { format!("{label} ({n})") };
        let free = (1..).map(numbered).find(|label| !labels.contains(label));
        labels.push(free.unwrap_or(label));
    }
    labels
}

/// What a label says of a setting; None where it is not set.
fn part(key: &str, set: Option<&Value>, value: &str) -> Option<String> {
    let name = SHORT.iter().find(|(name, _)| *name == key).map_or(key.replace('_', " "), |(_, short)| short.to_string());
    let value = shortened(value, LONGEST_VALUE);
    match set? {
        Value::Bool(true) => Some(name),
        Value::Bool(false) => Some(format!("no {name}")),
        _ if key == "optimizer" || name.is_empty() => Some(value),
        _ => Some(format!("{name} {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labelled(all: &[Value]) -> Vec<String> {
        let all: Vec<Map<String, Value>> = all.iter().map(|settings| settings.as_object().unwrap().clone()).collect();
        labels(&all, &vec![None; all.len()], &differing(&all))
    }

    #[test]
    fn a_name_comes_first_and_what_tells_its_groups_apart_after_it() {
        let rate = |x: f64| json!({"optimizer": "zo-sgd", "learning_rate": x}).as_object().unwrap().clone();
        let all = [rate(0.1), rate(0.2), rate(0.3), rate(0.4), rate(0.5)];
        let names = ["a", "a", "b", "", ""].map(|name| Some(name.to_string()).filter(|name| !name.is_empty()));
        let expected = ["a lr 0.1", "a lr 0.2", "b", "lr 0.4", "lr 0.5"];
        assert_eq!(labels(&all, &names, &differing(&all)), expected);
    }

    #[test]
    fn labels_say_what_differs_and_no_more() {
        let a = json!({"optimizer": "zo-sgd", "learning_rate": 1e-5, "batch_size": 8});
        assert_eq!(labelled(std::slice::from_ref(&a)), ["zo-sgd"]);
        // The method tells them apart, though their rates differ too.
        assert_eq!(labelled(&[a.clone(), json!({"optimizer": "adamw", "learning_rate": 1e-3})]), ["zo-sgd", "adamw"]);
        let b = json!({"optimizer": "zo-sgd", "learning_rate": 0.000025, "batch_size": 8});
        let c = json!({"optimizer": "r-adazo", "learning_rate": 1.0, "batch_size": 8});
        assert_eq!(labelled(&[a.clone(), b, c]), ["zo-sgd lr 1e-5", "zo-sgd lr 2.5e-5", "r-adazo"]);
        // What is not set is not said, and what follows from another setting neither.
        let lora = json!({"optimizer": "zo-sgd", "learning_rate": 1e-5, "batch_size": 8, "lora_r": 8, "lora_alpha": 16.0});
        assert_eq!(labelled(&[a, lora]), ["zo-sgd", "lora r 8"]);
    }

    #[test]
    fn numbers_are_rounded_where_they_stay_different() {
        let rate = |x: f64| json!({"learning_rate": x}).as_object().unwrap().clone();
        assert_eq!(values(&[rate(9.93491e-6), rate(0.5)], "learning_rate"), ["9.93e-6", "0.5"]);
        assert_eq!(values(&[rate(9.93491e-6), rate(9.93e-6)], "learning_rate"), ["9.93491e-6", "9.93e-6"]);
    }
}
