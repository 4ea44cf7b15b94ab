//! What the evaluations of a step cost.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use crate::base::Mark;
use crate::zo::Cost;

/// Counts the cost since a step began.
#[derive(Clone)]
pub struct Meter {
    cost: RefCell<Cost>,
    /// The memory in use when the step began.
    mark: Cell<Mark>,
}

impl Meter {
    /// At the beginning of a step.
    pub fn new() -> Self {
        Meter { cost: RefCell::default(), mark: Cell::new(Mark::now()) }
    }

    /// Begins a step.
    pub fn reset(&self) {
        self.cost.replace(Cost::default());
        self.mark.set(Mark::now());
    }

    /// The cost so far.
    pub fn cost(&self) -> Cost {
        *self.cost.borrow()
    }

    /// Runs `work`, and adds its time and memory, and what `add` says.
    pub fn counted<T>(&self, add: impl FnOnce(&mut Cost), work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let (result, peaks) = self.mark.get().peaks_of(work);
        self.add(|cost| {
            add(cost);
            cost.peaks = cost.peaks.max(peaks);
            cost.time += start.elapsed();
        });
        result
    }

    /// Counts a backward pass over a mini-batch, with its forward pass.
    pub fn count_backward(&self) {
        self.add(|cost| {
            cost.evaluations += 1;
            cost.forwards += 1;
            cost.backwards += 1;
        });
    }

    /// Counts a backward pass over all `num_examples`, as the mini-batches of `batch_size` that it is worth.
    pub fn count_full_backward(&self, num_examples: u64, batch_size: usize) {
        self.add(|cost| {
            cost.example_evaluations += num_examples;
            cost.backwards += num_examples.div_ceil(batch_size.max(1) as u64);
        });
    }

    /// Adds a cost without time.
    pub fn add(&self, add: impl FnOnce(&mut Cost)) {
        add(&mut self.cost.borrow_mut());
    }
}

impl Default for Meter {
    fn default() -> Self {
        Meter::new()
    }
}
