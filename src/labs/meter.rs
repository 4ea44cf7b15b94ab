//! What the evaluations of a step cost, in mini-batches, however a lab cuts them into passes.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use crate::base::Mark;
use crate::zo::Cost;

/// Counts the cost since a step began.
pub(super) struct Meter {
    cost: RefCell<Cost>,
    /// The memory in use when the step began.
    mark: Cell<Mark>,
}

impl Meter {
    /// At the beginning of a step.
    pub(super) fn new() -> Self {
        Meter { cost: RefCell::default(), mark: Cell::new(Mark::now()) }
    }

    /// Begins a step.
    pub(super) fn reset(&self) {
        self.cost.replace(Cost::default());
        self.mark.set(Mark::now());
    }

    /// The cost so far.
    pub(super) fn cost(&self) -> Cost {
        *self.cost.borrow()
    }

    /// Runs `work`, and adds its time and memory.
    pub(super) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let (result, peaks) = self.mark.get().peaks_of(work);
        let mut cost = self.cost.borrow_mut();
        cost.peaks = cost.peaks.max(peaks);
        cost.time += start.elapsed();
        result
    }

    /// Counts evaluations of a mini-batch.
    pub(super) fn count_evaluations(&self, count: usize) {
        let mut cost = self.cost.borrow_mut();
        cost.evaluations += count as u64;
        cost.forwards += count as u64;
    }

    /// Counts evaluations of all examples, at so many points, as the mini-batches that they are worth.
    pub(super) fn count_full_evaluations(&self, points: usize, num_examples: usize, batch_size: usize) {
        let mut cost = self.cost.borrow_mut();
        cost.example_evaluations += (points * num_examples) as u64;
        cost.forwards += (points * num_examples.div_ceil(batch_size)) as u64;
    }

    /// Counts backward passes over a mini-batch.
    pub(super) fn count_backwards(&self, count: usize) {
        self.cost.borrow_mut().backwards += count as u64;
    }
}
