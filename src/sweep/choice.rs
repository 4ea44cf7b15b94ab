//! What a sweep found: in each row the setting with the lowest dev loss, and its scores on the evaluation split.

use serde::Serialize;
use serde_json::Value;

use super::conduct::{CellEnd, settings_by_row};
use super::plan::PlannedCell;

/// A row of the table: settings whose dev losses are compared.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The group and what else tells it from other rows; empty if there is one row.
    pub name: String,
    /// The index of the chosen setting: all its cells are finished, and no other such one has a lower mean dev loss.
    pub chosen: Option<usize>,
    /// Whether the chosen learning rate is the lowest or the highest of several that were tried.
    pub edge: Option<Edge>,
    /// All settings, in the file's order.
    pub settings: Vec<Tried>,
}

/// The end of a list of learning rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The lowest rate.
    Lowest,
    /// The highest rate.
    Highest,
}

/// A setting that was tried, over its seeds. Losses are the task's.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// The options that tell it from the row's other settings.
    pub setting: String,
    /// Its cells.
    pub cells: Vec<String>,
    /// Their seeds.
    pub seeds: Vec<String>,
    /// The learning rate, given or by default.
    pub learning_rate: f64,
    /// The steps that all its cells have made.
    pub steps: u64,
    /// Whether halving left it before its last step.
    pub left: bool,
    /// How many of its cells have failed.
    pub failed: usize,
    /// Over the seeds, of the weights that each run keeps; None if a cell has none.
    pub dev_loss: Option<Spread>,
    /// The scores of finished cells on the evaluation split; None unless all are finished.
    pub eval_loss: Option<Spread>,
    /// The accuracy there; None for a task without a choice of answers.
    pub eval_accuracy: Option<Spread>,
    /// The accuracy before training.
    pub untrained_eval_accuracy: Option<f64>,
    /// The loss before training.
    pub untrained_eval_loss: Option<f64>,
}

/// A number over several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The lowest value.
    pub lowest: f64,
    /// The highest value.
    pub highest: f64,
}

impl Spread {
    /// Of these values; None if there are none, or one is missing.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values = values.into_iter().collect::<Option<Vec<f64>>>().filter(|values| !values.is_empty())?;
        let fold = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(f64::NAN);
        Some(Spread {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            lowest: fold(f64::min),
            highest: fold(f64::max),
        })
    }
}

/// The rows of a sweep.
pub fn rows(cells: &[PlannedCell], ends: &[CellEnd]) -> Vec<Row> {
    let row = |settings: Vec<Vec<usize>>| {
        let name = cells[settings[0][0]].cell.row.clone();
        let settings: Vec<Tried> = settings.iter().map(|of| tried(cells, ends, of)).collect();
        let finished = settings.iter().enumerate().filter(|(_, tried)| tried.eval_loss.is_some());
        let losses = finished.filter_map(|(i, tried)| Some((i, tried.dev_loss?.mean)));
        let chosen = losses.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(i, _)| i);
        let edge = chosen.and_then(|chosen| edge(&settings, chosen));
        Row { name, chosen, edge, settings }
    };
    settings_by_row(cells).into_iter().map(row).collect()
}

fn tried(cells: &[PlannedCell], ends: &[CellEnd], of: &[usize]) -> Tried {
    let (first, max_steps) = (&cells[of[0]], cells[of[0]].config.max_steps);
    let standings = || of.iter().map(|i| ends[*i].standing.as_ref());
    let steps = standings().map(|standing| standing.map_or(0, |standing| standing.steps)).min().unwrap_or(0);
    let finished = || standings().map(|standing| standing.filter(|standing| standing.is_finished(max_steps)));
    // Cells that have stopped early have ended after as many steps as each needed; others are compared after as many.
    let compared = if finished().all(|standing| standing.is_some()) { max_steps } else { steps };
    let results = |key: &str| -> Vec<Option<f64>> {
        finished().map(|standing| standing?.results.as_ref().map(|results| &results[key]).and_then(Value::as_f64)).collect()
    };
    let all = |key: &str| Spread::of(results(key));
    Tried {
        setting: first.cell.setting.clone(),
        cells: of.iter().map(|i| cells[*i].cell.name.clone()).collect(),
        seeds: of.iter().map(|i| cells[*i].cell.seed.clone()).collect(),
        learning_rate: first.config.learning_rate.unwrap_or(f64::NAN),
        steps,
        left: of.iter().any(|i| ends[*i].left_after.is_some()),
        failed: of.iter().filter(|i| ends[**i].failure.is_some()).count(),
        dev_loss: Spread::of(standings().map(|standing| Some(standing?.dev_losses(compared)?.0))),
        eval_loss: all("eval_loss"),
        eval_accuracy: all("eval_accuracy"),
        untrained_eval_accuracy: all("untrained_eval_accuracy").map(|spread| spread.mean),
        untrained_eval_loss: all("untrained_eval_loss").map(|spread| spread.mean),
    }
}

/// Whether the chosen learning rate is at an end of those that were tried.
fn edge(settings: &[Tried], chosen: usize) -> Option<Edge> {
    let rate = settings[chosen].learning_rate;
    let is_lowest = settings.iter().all(|tried| tried.learning_rate >= rate);
    let is_highest = settings.iter().all(|tried| tried.learning_rate <= rate);
    match (is_lowest, is_highest) {
        (true, false) => Some(Edge::Lowest),
        (false, true) => Some(Edge::Highest),
        _ => None,
    }
}
