//! Halving: all settings get a few steps, and the better half goes on with twice as many.
//!
//! A run is extended exactly: under a constant rate no step depends on how many follow. The rounds end at steps that are scored
//! anyway, so a cell that comes to the end has the bits, and keeps the weights, of one that was never interrupted.

use anyhow::Result;

use super::plan::PlannedCell;
use crate::config::Schedule;

/// The number of steps after each round, for `settings` to choose from; the last is `max_steps`. Each other one is a multiple of
/// `eval_steps`. `rounds`: how many at most, else as many as leave one setting.
pub fn budgets(max_steps: u64, eval_steps: u64, settings: usize, rounds: Option<u32>) -> Vec<u64> {
    let halvings = settings.max(1).next_power_of_two().ilog2();
    let last = rounds.map_or(halvings, |rounds| (rounds.max(1) - 1).min(halvings));
    let steps = (0..=last).rev().map(|halved| max_steps.div_ceil(1 << halved));
    let mut steps: Vec<u64> = steps.map(|steps| steps.next_multiple_of(eval_steps).min(max_steps)).collect();
    steps.dedup();
    steps
}

/// The better half of settings by their losses, the first of equals: their places, in order. A setting without losses has failed and
/// is never among them. A loss is the lowest up to the end of the round; the one at its end decides among equal ones, such as those
/// of settings that have not come below the loss before training yet.
pub fn better_half(losses: &[Option<(f64, f64)>]) -> Vec<usize> {
    let mut ranked: Vec<(usize, (f64, f64))> =
        losses.iter().enumerate().filter_map(|(i, losses)| Some((i, (*losses)?))).collect();
    ranked.sort_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut kept: Vec<usize> = ranked.into_iter().take(losses.len().div_ceil(2)).map(|(i, _)| i).collect();
    kept.sort_unstable();
    kept
}

/// Refuses cells that halving would not extend exactly. Errors name the line of the sweep file.
pub fn check(cells: &[PlannedCell], rounds: Option<u32>) -> Result<()> {
    if rounds == Some(0) {
        return Err(usage!("`halving` 0: it must be at least 1 round"));
    }
    for planned in cells {
        let Some(why) = planned.config.not_extended_exactly() else { continue };
        let option = match planned.config.lr_scheduler_type {
            Schedule::Constant => "`early_stopping_patience`".into(),
            falling => format!("`lr_scheduler_type` {}", falling.name()),
        };
        let error = usage!(
            "{option}: {why}, so `halving` would compare other runs than those of the file; leave out one of the two"
        );
        return Err(planned.cell.blame(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_double_up_to_all_steps_and_end_where_dev_is_scored() {
        assert_eq!(budgets(200, 10, 4, None), [50, 100, 200]);
        assert_eq!(budgets(200, 10, 5, None), [30, 50, 100, 200]);
        assert_eq!(budgets(600, 150, 4, None), [150, 300, 600]);
        // Too short for all rounds.
        assert_eq!(budgets(600, 150, 64, None), [150, 300, 600]);
        assert_eq!(budgets(7, 3, 2, None), [6, 7]);
        assert_eq!(budgets(200, 10, 1, None), [200]);
        assert_eq!(budgets(200, 10, 8, Some(2)), [100, 200]);
        assert_eq!(budgets(200, 10, 8, Some(1)), [200]);
        assert_eq!(budgets(200, 500, 8, None), [200]);
    }

    #[test]
    fn the_better_half_goes_on_and_what_failed_does_not() {
        let losses =
            |all: &[f64]| all.iter().map(|loss| Some((*loss, *loss)).filter(|_| loss.is_finite())).collect::<Vec<_>>();
        assert_eq!(better_half(&losses(&[0.9, 0.5, 0.7, 0.6])), [1, 3]);
        assert_eq!(better_half(&losses(&[0.9, 0.5, 0.7])), [1, 2]);
        assert_eq!(better_half(&losses(&[f64::NAN, f64::NAN, 0.7])), [2]);
        assert_eq!(better_half(&losses(&[f64::NAN])), [] as [usize; 0]);
        assert_eq!(better_half(&[Some((0.8, 0.9)), Some((0.8, 0.81)), Some((0.8, 0.85)), Some((0.8, 2.0))]), [1, 2]);
        assert_eq!(better_half(&losses(&[0.5, 0.5])), [0]);
    }
}
