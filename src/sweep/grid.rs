//! The cells of a sweep: every combination of the values that a file and its groups give.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;

use super::file::SweepFile;
use super::names::{cell_name, short, shown};
use super::options::{Choice, Setting, as_config, as_raw, set_in_toml};
use crate::config::RawArgs;

/// More cells than any sweep has; a list too many is seen before they are made.
const MOST_CELLS: usize = 10_000;

/// Options that are chosen by the dev loss. Every other option that varies, such as the method, the task or the number of steps, gives
/// a row of its own in the table, because losses under its values are not compared to choose one.
const CHOSEN: [&str; 22] = [
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "batch_size",
    "lora_alpha",
    "preset",
    "perturbation_mode",
    "num_directions",
    "fresh_batch_per_direction",
    "distribution",
    "zo_eps",
    "weight_decay",
    "momentum",
    "beta1",
    "beta2",
    "zeta",
    "amsgrad",
    "second_moment_warmup",
    "alpha",
    "snapshot_steps",
    "max_directions",
    "direction_tolerance",
];

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its name, unique in the sweep.
    pub name: String,
    /// What its losses are compared within: the group, and the options that vary and are not chosen by the dev loss.
    pub row: String,
    /// The options that vary and are chosen by the dev loss, as the table shows them.
    pub setting: String,
    /// Its seed, as the table shows it.
    pub seed: String,
    /// All its options.
    pub settings: Vec<Setting>,
    /// The name of the sweep file.
    pub place: String,
}

impl Cell {
    /// Its options as a run's.
    pub fn raw(&self) -> Result<RawArgs> {
        as_raw(&self.settings)
    }

    /// An error that begins with an option, as one that names the line of the sweep file.
    pub fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        let typed: Vec<Setting> = self.settings.iter().filter(|setting| setting.line.is_none()).cloned().collect();
        match (as_raw(&typed), as_config(&self.settings)) {
            (Ok(typed), Ok(text)) => typed.blame_file(error, &text, &self.place),
            _ => error,
        }
    }

    /// Its config file. `pinned` options go over its own.
    pub fn config_file(&self, pinned: &[(&str, Value)]) -> Result<String> {
        let mut text = format!("# The cell {} of {}, written by zotune sweep.\n", self.name, self.place.escape_debug());
        let own = self.settings.iter().map(|setting| (setting.option.as_str(), &setting.value));
        let own = own.filter(|(option, _)| !pinned.iter().any(|(other, _)| other == option));
        for (option, value) in own.chain(pinned.iter().map(|(option, value)| (*option, value))) {
            text += &set_in_toml(option, &toml::Value::try_from(value)?)?;
        }
        Ok(text)
    }
}

/// The cells of a file, groups in its order, the seed varying fastest. `typed` options go over the file's. Errors are usage errors:
/// cells of the same name, too many cells.
pub fn cells(file: &SweepFile, typed: &[Choice]) -> Result<Vec<Cell>> {
    if !file.groups.is_empty() && typed.iter().any(|choice| choice.option == RUN_NAME) {
        return Err(usage!("`{RUN_NAME}`: the runs of {} have the names of their groups in reports", file.place));
    }
    let mut all: Vec<Cell> = Vec::new();
    let groups: Vec<(Option<&str>, &[Choice])> = match file.groups.is_empty() {
        true => vec![(None, &[])],
        false => file.groups.iter().map(|group| (Some(group.name.as_str()), &group.options[..])).collect(),
    };
    for (group, own) in groups {
        let choices = overlaid(&overlaid(&file.common, own), typed);
        let count = choices.iter().try_fold(1usize, |count, choice| count.checked_mul(choice.values.len()));
        if count.is_none_or(|count| count.saturating_add(all.len()) > MOST_CELLS) {
            return Err(usage!("{}: there would be more than {MOST_CELLS} cells; shorten the lists", file.place));
        }
        for settings in combinations(&choices) {
            all.push(cell(file, group, &choices, named(settings, group)));
        }
    }
    // Some file systems do not tell capitals from small letters.
    let mut names: HashMap<String, &Cell> = HashMap::new();
    for cell in &all {
        if let Some(other) = names.insert(cell.name.to_lowercase(), cell) {
            let differs = cell.settings.iter().find(|setting| !other.settings.iter().any(|s| s.value == setting.value));
            let line = differs.and_then(|setting| setting.line).map_or(String::new(), |line| format!(", line {line}"));
            return Err(usage!(
                "{}{line}: two cells would be called {}, so they would overwrite each other; give one another name",
                file.place,
                cell.name
            ));
        }
    }
    Ok(all)
}

/// Options, those of `over` in the place of others of the same name.
fn overlaid(under: &[Choice], over: &[Choice]) -> Vec<Choice> {
    let kept = under.iter().filter(|choice| !over.iter().any(|other| other.option == choice.option));
    kept.chain(over).cloned().collect()
}

/// Every combination of values, the last choice varying fastest, but the seed fastest of all.
fn combinations(choices: &[Choice]) -> Vec<Vec<Setting>> {
    let mut ordered: Vec<&Choice> = choices.iter().collect();
    ordered.sort_by_key(|choice| choice.option == "seed");
    let mut all: Vec<Vec<Setting>> = vec![Vec::new()];
    for choice in ordered {
        let with = |begun: &Vec<Setting>| {
            let begun = begun.clone();
            choice.values.iter().map(move |(value, line)| {
                let next = Setting { option: choice.option.clone(), value: value.clone(), line: *line };
                begun.iter().cloned().chain([next]).collect::<Vec<_>>()
            })
        };
        all = all.iter().flat_map(|begun| with(begun).collect::<Vec<_>>()).collect();
    }
    all
}

/// The option that names a run in reports.
const RUN_NAME: &str = "run_name";

/// The settings of a cell, whose run has the name of its group in reports, unless they name it.
fn named(mut settings: Vec<Setting>, group: Option<&str>) -> Vec<Setting> {
    let has_name = settings.iter().any(|setting| setting.option == RUN_NAME);
    if let Some(group) = group.filter(|_| !has_name) {
        settings.push(Setting { option: RUN_NAME.into(), value: group.into(), line: None });
    }
    settings
}

fn cell(file: &SweepFile, group: Option<&str>, choices: &[Choice], settings: Vec<Setting>) -> Cell {
    let is_list = |option: &str| choices.iter().any(|choice| choice.option == option && choice.is_list);
    let value = |option: &str| settings.iter().find(|setting| setting.option == option).map(|setting| &setting.value);
    let varied: Vec<(String, Value)> = settings
        .iter()
        .filter(|setting| setting.option != "seed" && is_list(&setting.option))
        .map(|setting| (setting.option.clone(), setting.value.clone()))
        .collect();
    let said = |chosen: bool| -> Vec<String> {
        let of_kind = varied.iter().filter(|(option, _)| CHOSEN.contains(&option.as_str()) == chosen);
        of_kind.map(|(option, value)| format!("{} {}", short(option), shown(value)).trim().to_string()).collect()
    };
    Cell {
        name: cell_name(group, &varied, value("seed").filter(|_| is_list("seed"))),
        row: group.map(String::from).into_iter().chain(said(false)).collect::<Vec<_>>().join(", "),
        setting: said(true).join(", "),
        seed: value("seed").map_or("0".into(), shown),
        settings,
        place: file.place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::zo::Settings;

    #[test]
    fn every_option_of_a_method_is_chosen_by_the_dev_loss_or_is_known_not_to_be() {
        // The precision of the state, and which weights get which gradient, are what people compare.
        const COMPARED: [&str; 2] = ["state_dtype", "fo_params"];
        let known = Settings::augment_args(Command::new(""));
        for option in known.get_arguments().map(|argument| argument.get_id().as_str()) {
            assert_ne!(CHOSEN.contains(&option), COMPARED.contains(&option), "{option}");
        }
    }
}
