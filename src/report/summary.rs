//! The numbers of a report: of each group what it reached and what it took.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;

use super::curves::{Point, common_loss, reaches, settled};
use super::goal::Goal;
use super::groups::{Group, Groups};
use super::runs::{RunRecord, Scores, Selection};
use crate::base::numbers::significant;
use crate::run::Memory;

/// A mean over seeds with the standard deviation (n - 1); None for one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "said above")]
pub struct Spread {
    pub mean: f64,
    pub sd: Option<f64>,
}

impl Spread {
    /// Of these values; None if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        (!values.is_empty()).then(|| Spread { mean, sd: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

/// How the runs of a group come to the target loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Target {
    /// The runs that reach it.
    pub reached_by: usize,
    /// The median of the updates that it takes; None if half of the runs or fewer reach it.
    pub median_steps: Option<f64>,
    /// What it takes on average; None if not every run reaches it, so that there is no mean.
    pub cost: Option<TargetCost>,
}

/// What the target loss costs the runs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TargetCost {
    /// Updates.
    pub steps: Spread,
    /// Function evaluations.
    pub evaluations: Spread,
    /// Tokens.
    pub tokens: Spread,
    /// Wall time.
    pub seconds: Spread,
    /// How many times fewer function evaluations than the baseline, if there is one and it reaches the target.
    pub speed_up_evaluations: Option<f64>,
    /// How many times less wall time.
    pub speed_up_seconds: Option<f64>,
}

/// The numbers of a group. Scores and costs are those of its finished runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The group's label.
    pub group: String,
    /// The method.
    pub optimizer: String,
    /// The peak learning rate.
    pub learning_rate: Option<f64>,
    /// The seeds of its runs.
    pub seeds: Vec<u64>,
    /// How many of them are finished.
    pub finished: usize,
    /// Updates that a run makes; if early stopping ends some, the mean of the finished ones, rounded.
    pub steps: u64,
    /// Function evaluations, mean; a backward pass counts as two.
    pub evaluations: Option<f64>,
    /// Tokens fed in forward passes, mean.
    pub tokens: Option<f64>,
    /// Wall time of training with its evaluations on dev, mean.
    pub seconds: Option<f64>,
    /// The mean training loss of the last tenth of the steps.
    pub train_loss: Option<Spread>,
    /// The loss of the kept weights on the evaluation split.
    pub eval_loss: Option<Spread>,
    /// Their accuracy there, as a share.
    pub eval_accuracy: Option<Spread>,
    /// The norm of the gradient after the last step, where it was logged.
    pub gradient_norm: Option<Spread>,
    /// The norm of VAMO's correction divided by that of the mini-batch gradient, median over the logged steps: near a minimum single
    /// gradients vanish.
    pub correction_ratio: Option<Spread>,
    /// How it comes to each target loss of the report.
    pub targets: Vec<Target>,
    /// Memory by part, of the finished run with the largest peak.
    pub memory: Option<Memory>,
}

/// A report's content.
pub struct Report {
    /// The groups of runs.
    pub groups: Groups,
    /// A row for each group.
    pub rows: Vec<Row>,
    /// The target losses; none if none was given and no run has logged enough.
    pub targets: Vec<Goal>,
    /// Whether they were given.
    pub targets_given: bool,
    /// The baseline's group.
    pub baseline: Option<usize>,
    /// What a reader must know, in sentences.
    pub notes: Vec<String>,
}

impl Report {
    /// Of the runs at these places. The errors of [`Selection::read`] and [`Groups::of`].
    pub fn of(places: &[String], to_loss: &[Goal], baseline: Option<&str>) -> Result<Self> {
        let Selection { runs, mut notes } = Selection::read(places)?;
        let groups = Groups::of(runs)?;
        let baseline = baseline.map(|name| groups.named(name)).transpose()?;
        let all = || groups.groups.iter().flat_map(|group| &group.runs);
        let common = || common_loss(all()).map(Goal::Loss);
        let targets: Vec<Goal> = if to_loss.is_empty() { common().into_iter().collect() } else { to_loss.to_vec() };
        let mut rows: Vec<Row> = groups.groups.iter().map(|group| row(group, &targets)).collect();
        if let Some(at) = baseline {
            compare_with(&mut rows, at);
        }
        if let Some(run) = all().find(|run| targets.is_empty() && settled(run).next().is_none()) {
            notes.push(format!(
                "no loss at which costs compare: {} has logged less than a tenth of its steps, or no finite loss; name one (`to_loss`)",
                run.folder.display()
            ));
        }
        notes.extend(groups.groups.iter().filter_map(short_curves));
        notes.extend(others(all(), "machines or numbers of threads, so seconds do not compare", machine));
        notes.extend(others(all(), "versions of zotune", version));
        if let ([Goal::Loss(loss)], []) = (&targets[..], to_loss) {
            notes.extend(no_gain(all(), *loss));
        }
        Ok(Report { groups, rows, targets, targets_given: !to_loss.is_empty(), baseline, notes })
    }

    /// Whether its runs feed tokens; those of labs do not.
    pub fn has_tokens(&self) -> bool {
        self.groups.groups.iter().flat_map(|group| &group.runs).any(|run| run.config.lab.lab.is_none())
    }

    /// Whether all runs minimise a function that is scored exactly.
    pub fn is_exact(&self) -> bool {
        self.groups.groups.iter().flat_map(|group| &group.runs).all(RunRecord::is_exact)
    }

    /// How a loss is printed: a function's values are of any size, losses of language models are near 1.
    pub fn loss_format(&self) -> fn(f64) -> String {
        if self.is_exact() { significant } else { |x| format!("{x:.3}") }
    }

    /// How a target is defined, for people.
    pub fn target_text(&self, target: Goal) -> String {
        let why = if self.targets_given { "as given" } else { "the lowest that every run reaches" };
        match self.is_exact() {
            true => format!("Loss {target} ({why}): the first evaluation of a run at which its loss is at or below it."),
            false => format!(
                "Training loss {target} ({why}): the first line of a run's log at which the mean over the last tenth of its \
                 steps is at or below it."
            ),
        }
    }

    /// The scores before training, for people, as means over the runs; None if no run is finished.
    pub fn untrained_text(&self) -> Option<String> {
        let runs = || self.groups.groups.iter().flat_map(|group| &group.runs).filter_map(|run| run.scores.as_ref());
        let mean = |of: fn(&Scores) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs().map(of).collect();
            Spread::of(&values?).map(|spread| spread.mean)
        };
        let number = self.loss_format();
        let loss = mean(|scores| scores.untrained_eval_loss).map(|loss| format!("loss {}", number(loss)));
        let accuracy = mean(|scores| scores.untrained_eval_accuracy).map(|share| format!("accuracy {:.1} %", 100.0 * share));
        let said: Vec<String> = loss.into_iter().chain(accuracy).collect();
        (!said.is_empty()).then(|| format!("Before training, on the evaluation split: {}.", said.join(", ")))
    }
}

fn row(group: &Group, targets: &[Goal]) -> Row {
    let config = &group.runs[0].config;
    let finished: Vec<(&RunRecord, &Scores)> =
        group.runs.iter().filter_map(|run| Some((run, run.scores.as_ref()?))).collect();
    let mean = |of: &dyn Fn(&RunRecord, &Scores) -> f64| {
        Spread::of(&finished.iter().map(|(run, scores)| of(run, scores)).collect::<Vec<_>>()).map(|spread| spread.mean)
    };
    // One loss that was not finite leaves no mean.
    let spread = |of: fn(&Scores) -> Option<f64>| {
        let values: Option<Vec<f64>> = finished.iter().map(|(_, scores)| of(scores)).collect();
        Spread::of(&values?)
    };
    let largest = finished.iter().map(|(_, scores)| scores.memory).max_by_key(|memory| memory.peak_rss_bytes);
    Row {
        group: group.label.clone(),
        optimizer: config.optimizer.clone(),
        learning_rate: config.learning_rate,
        seeds: group.runs.iter().map(|run| run.config.seed).collect(),
        finished: finished.len(),
        steps: mean(&|_, scores| scores.steps as f64).map_or(config.max_steps, |steps| steps.round() as u64),
        evaluations: mean(&|run, scores| run.evaluations(scores.function_evaluations, scores.backwards)),
        tokens: mean(&|_, scores| scores.tokens_per_step * scores.steps as f64),
        seconds: mean(&|_, scores| scores.train_seconds),
        train_loss: spread(|scores| scores.train_loss),
        eval_loss: spread(|scores| scores.eval_loss),
        eval_accuracy: spread(|scores| scores.eval_accuracy),
        gradient_norm: last_norms(&finished).and_then(|norms| Spread::of(&norms)),
        correction_ratio: typical_corrections(&finished).and_then(|medians| Spread::of(&medians)),
        targets: targets.iter().map(|target| reached(group, *target)).collect(),
        memory: largest,
    }
}

/// The last gradient norms that runs have logged, if all of them have.
fn last_norms(runs: &[(&RunRecord, &Scores)]) -> Option<Vec<f64>> {
    runs.iter().map(|(run, _)| run.log.last()?.gradient_norm).collect()
}

/// The median of each run's correction ratios, if all of them have logged some.
fn typical_corrections(runs: &[(&RunRecord, &Scores)]) -> Option<Vec<f64>> {
    let typical = |run: &RunRecord| {
        let ratios: Vec<f64> = run.log.iter().filter_map(|line| line.correction_ratio).collect();
        let count = ratios.len();
        median(ratios, count)
    };
    runs.iter().map(|(run, _)| typical(run)).collect()
}

fn reached(group: &Group, target: Goal) -> Target {
    let points: Vec<_> = group.runs.iter().filter_map(|run| reaches(run, target.loss(run)?)).collect();
    let of = |axis: usize| Spread::of(&points.iter().map(|point| point.spent[axis]).collect::<Vec<_>>());
    let cost = || {
        let [steps, evaluations, tokens, seconds] = [of(0)?, of(1)?, of(2)?, of(3)?];
        Some(TargetCost { steps, evaluations, tokens, seconds, speed_up_evaluations: None, speed_up_seconds: None })
    };
    let (reached_by, all) = (points.len(), group.runs.len());
    let median_steps = median(points.iter().map(|point| point.spent[0]).collect(), all);
    Target { reached_by, median_steps, cost: if reached_by == all { cost() } else { None } }
}

/// The median of `count` numbers, of which those that are not known are larger than all others; None if it is not known.
fn median(mut known: Vec<f64>, count: usize) -> Option<f64> {
    known.sort_by(f64::total_cmp);
    let [low, high] = [count.checked_sub(1)? / 2, count / 2].map(|at| known.get(at).copied());
    Some((low? + high?) / 2.0)
}

/// Fills in the speed-up over the group at `baseline`, whose own is 1.
fn compare_with(rows: &mut [Row], baseline: usize) {
    for at in 0..rows[baseline].targets.len() {
        let Some(base) = rows[baseline].targets[at].cost else { continue };
        for cost in rows.iter_mut().filter_map(|row| row.targets[at].cost.as_mut()) {
            // What is reached before the first step, or by a clock that stands still, gives no ratio.
            let ratio = |base: Spread, own: Spread| Some(base.mean / own.mean).filter(|ratio| ratio.is_finite());
            cost.speed_up_evaluations = ratio(base.evaluations, cost.evaluations);
            cost.speed_up_seconds = ratio(base.seconds, cost.seconds);
        }
    }
}

/// Says where a group's curves end before those of some of its runs.
fn short_curves(group: &Group) -> Option<String> {
    let shortest = group.runs.iter().min_by_key(|run| run.steps())?;
    let longest = group.runs.iter().map(RunRecord::steps).max()?;
    (shortest.steps() < longest).then(|| {
        format!(
            "{}: its curves end at step {}, where its shortest run ends ({})",
            group.label,
            shortest.steps(),
            shortest.folder.display()
        )
    })
}

/// Says if a property of the runs differs between them.
fn others<'a>(
    runs: impl Iterator<Item = &'a RunRecord>,
    what: &str,
    of: fn(&RunRecord) -> Option<String>,
) -> Option<String> {
    let all: BTreeSet<String> = runs.filter_map(of).collect();
    let listed: Vec<String> = all.iter().cloned().collect();
    (all.len() > 1).then(|| format!("the runs are of different {what}: {}", listed.join("; ")))
}

fn machine(run: &RunRecord) -> Option<String> {
    let machine = &run.record["machine"];
    Some(format!("{}, {} threads", machine["cpu"].as_str()?, machine["threads"].as_u64()?))
}

fn version(run: &RunRecord) -> Option<String> {
    let versions = &run.record["versions"];
    Some(format!("{} {}", versions["zotune"].as_str()?, versions["commit"].as_str()?))
}

/// Says if the target is no lower than the loss before training of a run that kept it from being so.
fn no_gain<'a>(runs: impl Iterator<Item = &'a RunRecord>, loss: f64) -> Option<String> {
    let untrained = |run: &'a RunRecord| Some((run, run.log.first().filter(|line| line.step == 0)?.dev_loss?));
    let (run, untrained) = runs.filter_map(untrained).find(|(run, untrained)| {
        let is_lower = |point: &Point| point.value < *untrained;
        loss >= *untrained && !settled(run).any(|point| is_lower(&point))
    })?;
    Some(format!(
        "the target loss {} is no lower than the dev loss before training ({}), because {} does not come below it; name a lower one",
        Goal::Loss(loss),
        significant(untrained),
        run.folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_what_is_not_reached() {
        assert_eq!(median(vec![3.0, 1.0, 2.0], 3), Some(2.0));
        assert_eq!(median(vec![3.0, 1.0], 3), Some(3.0));
        assert_eq!(median(vec![3.0, 1.0, 2.0], 4), Some(2.5));
        assert_eq!((median(vec![3.0, 1.0], 4), median(Vec::new(), 0), median(vec![1.0], 3)), (None, None, None));
    }

    #[test]
    fn the_spread_is_the_standard_deviation_of_a_sample() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { mean: 2.0, sd: None }));
        // 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 over 3.
        let spread = Spread::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        assert_eq!((spread.mean, spread.sd), (3.0, Some((14.0f64 / 3.0).sqrt())));
    }
}
