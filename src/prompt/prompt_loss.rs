//! The prompt loss as a function of the weights, at one or several points, and the finite sum it is a mini-batch of.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use super::loss::{example_loss, gathered, slope};
use crate::base::Mark;
use crate::data::task::Loss;
use crate::data::{Batch, Example, Pick, Prediction};
use crate::device::Activations;
use crate::model::{Backward, Model};
use crate::params::{Gradient, ParamId, Params, Points, Weights};
use crate::zo::{Batches, Cost, Gradients, LossSum, Objective, Problem};

/// The prompt loss over a training set; each step evaluates a mini-batch in micro-batches.
pub struct PromptLoss<'a> {
    model: &'a Model,
    loss: Loss,
    examples: &'a [Example],
    batches: Batches,
    /// Mini-batches per step: one per direction, or 1 if they share one.
    batches_per_step: u64,
    micro_batch_size: usize,
    step: u64,
    batch: Vec<usize>,
    micro_batches: Vec<Batch>,
    /// The cached output of the blocks below the first trained weight, for each micro-batch.
    kept: Vec<Option<Activations>>,
    cost: RefCell<Cost>,
    /// The memory in use when the step began; peaks are measured above it.
    mark: Mark,
}

impl<'a> PromptLoss<'a> {
    /// Over `examples`, with the mini-batches `batches`, at the first step.
    pub fn new(model: &'a Model, loss: Loss, examples: &'a [Example], batches: Batches, micro_batch_size: usize) -> Self {
        let mut this = PromptLoss {
            model,
            loss,
            examples,
            batches,
            batches_per_step: 1,
            micro_batch_size,
            step: 1,
            batch: Vec::new(),
            micro_batches: Vec::new(),
            kept: Vec::new(),
            cost: RefCell::default(),
            mark: Mark::now(),
        };
        this.begin(1);
        this
    }

    /// Sets `n` mini-batches per step, one per direction.
    pub fn with_batches_per_step(mut self, n: usize) -> Self {
        self.batches_per_step = n as u64;
        self
    }

    /// With all `examples` as the mini-batch.
    pub fn of_all(model: &'a Model, loss: Loss, examples: &'a [Example], micro_batch_size: usize) -> Self {
        Self::new(model, loss, examples, Batches::new(examples.len(), examples.len(), 0), micro_batch_size)
    }

    /// The candidates that a loss needs.
    pub fn pick(loss: Loss) -> Pick {
        match loss {
            Loss::Classification => Pick::Compared,
            Loss::TeacherForcing => Pick::Right,
        }
    }

    /// The tokens that one evaluation feeds.
    pub fn num_tokens(&self) -> usize {
        self.micro_batches.iter().map(Batch::num_tokens).sum()
    }

    fn pack(&self, places: &[usize]) -> Vec<Batch> {
        let pick = Self::pick(self.loss);
        let part = |places: &[usize]| Batch::pack(places.iter().map(|&i| &self.examples[i]), pick);
        places.chunks(self.micro_batch_size).map(part).collect()
    }

    /// Runs `work`, which feeds `tokens` tokens in `forwards` forward passes, and adds its cost.
    fn counted<T>(&self, forwards: usize, tokens: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let (result, peaks) = self.mark.peaks_of(work);
        let mut cost = self.cost.borrow_mut();
        cost.forwards += forwards as u64;
        cost.tokens += tokens as u64;
        cost.peaks = cost.peaks.max(peaks);
        cost.time += start.elapsed();
        result
    }

    /// The mini-batch's loss at the present weights.
    pub fn loss(&mut self, weights: Weights) -> Result<f32> {
        Ok(self.batch_losses(weights)?.pop().context("a loss at no point")?.loss())
    }

    /// The mini-batch's loss at each point that the weights are read at.
    fn batch_losses(&mut self, weights: Weights) -> Result<Vec<LossSum>> {
        let points = weights.points();
        self.cost.get_mut().evaluations += points as u64;
        let mut totals = vec![LossSum::default(); points];
        let mut kept = std::mem::take(&mut self.kept);
        for (batch, kept) in self.micro_batches.iter().zip(&mut kept) {
            let evaluate = || self.model.log_probs_cached(weights, batch, kept);
            let log_probs = self.counted(points, points * batch.num_tokens(), evaluate)?;
            for (total, log_probs) in totals.iter_mut().zip(log_probs.chunks(batch.predictions.len())) {
                self.parts_of(batch, log_probs).into_iter().for_each(|part| *total += part);
            }
        }
        self.kept = kept;
        Ok(totals)
    }

    /// The contribution of each example of `batch` to a [`LossSum`], from the log-probabilities at one point.
    fn parts_of(&self, batch: &Batch, log_probs: &[f32]) -> Vec<LossSum> {
        let scores = gathered(batch, log_probs);
        let examples = batch.examples.iter().zip(&scores);
        examples.map(|(example, scores)| example_loss(self.loss, scores, example.right)).collect()
    }

    /// The mean loss of `batches` and a backward pass from it. `total` is the weight that gradients are divided by;
    /// None: that of the batches, Some if they are part of a larger set.
    fn begin_backward<'b>(
        &'b self,
        weights: Weights,
        batches: &'b [Batch],
        total: Option<usize>,
    ) -> Result<(f32, CountedBackward<'b>)> {
        let tokens = batches.iter().map(Batch::num_tokens).sum();
        let begun = self.counted(batches.len(), tokens, || Backward::begin(self.model, weights, batches))?;
        let (mut backward, log_probs) = begun;
        let scores: Vec<_> = batches.iter().zip(&log_probs).map(|(batch, found)| gathered(batch, found)).collect();
        let mut sum = LossSum::default();
        for (batch, scores) in batches.iter().zip(&scores) {
            let examples = batch.examples.iter().zip(scores);
            examples.for_each(|(e, scores)| sum += example_loss(self.loss, scores, e.right));
        }
        let weight = total.unwrap_or(sum.weight) as f64;
        let slopes = batches.iter().zip(&scores).map(|(batch, scores)| {
            let of_prediction = |p: &Prediction| {
                let right = batch.examples[p.example].right;
                (slope(self.loss, &scores[p.example], right, p.candidate) / weight) as f32
            };
            batch.predictions.iter().map(of_prediction).collect()
        });
        backward.seed(slopes.collect())?;
        self.cost.borrow_mut().backwards += batches.len() as u64;
        Ok((sum.mean() as f32, CountedBackward { problem: self, backward }))
    }
}

impl Objective for PromptLoss<'_> {
    /// Evaluates all points in one pass over the weights per micro-batch.
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        self.batch_losses(params.settle()?.at(&Arc::new(points)))
    }

    fn turn_to(&mut self, k: usize) {
        self.batch = self.batches.at((self.step - 1) * self.batches_per_step + k as u64 % self.batches_per_step);
        self.micro_batches = self.pack(&self.batch);
        self.kept = vec![None; self.micro_batches.len()];
    }
}

impl Problem for PromptLoss<'_> {
    fn begin(&mut self, step: u64) {
        self.step = step;
        self.turn_to(0);
        self.cost = RefCell::default();
        self.mark = Mark::now();
    }

    fn cost(&self) -> Cost {
        *self.cost.borrow()
    }

    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.examples.len()
    }

    fn batch(&self) -> &[usize] {
        &self.batch
    }

    fn count_replayed(&mut self) {
        let cost = self.cost.get_mut();
        cost.evaluations += 1;
        cost.forwards += self.micro_batches.len() as u64;
        cost.tokens += self.micro_batches.iter().map(|b| b.num_tokens() as u64).sum::<u64>();
    }

    fn count_replayed_full(&mut self) {
        let places: Vec<usize> = (0..self.examples.len()).collect();
        let batches = self.pack(&places);
        let cost = self.cost.get_mut();
        cost.example_evaluations += places.len() as u64;
        cost.forwards += batches.len() as u64;
        cost.tokens += batches.iter().map(|b| b.num_tokens() as u64).sum::<u64>();
    }

    /// Evaluates all points in one pass over the weights per micro-batch.
    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        let (places, points): (Vec<usize>, _) = ((0..self.examples.len()).collect(), weights.points());
        let mut parts = vec![Vec::new(); points];
        for batch in places.chunks(self.micro_batch_size).flat_map(|places| self.pack(places)) {
            let evaluate = || self.model.log_probs(weights, &batch);
            let log_probs = self.counted(points, points * batch.num_tokens(), evaluate)?;
            for (parts, log_probs) in parts.iter_mut().zip(log_probs.chunks(batch.predictions.len())) {
                parts.extend(self.parts_of(&batch, log_probs));
            }
        }
        self.cost.borrow_mut().example_evaluations += (points * places.len()) as u64;
        // Examples with different weights contribute sum / mean weight, so that the mean over all examples is the full
        // loss, and the mini-batch mean is unbiased.
        let mean_weight = parts[0].iter().map(|part| part.weight as f64).sum::<f64>() / places.len() as f64;
        let at_point = |parts: Vec<LossSum>| parts.into_iter().map(|part| part.sum / mean_weight).collect();
        Ok(parts.into_iter().map(at_point).collect())
    }

    fn backward<'b>(&'b self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'b>)> {
        self.cost.borrow_mut().evaluations += 1;
        let (loss, gradients) = self.begin_backward(weights, &self.micro_batches, None)?;
        Ok((loss, Box::new(gradients)))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        let total = match self.loss {
            Loss::Classification => self.examples.len(),
            Loss::TeacherForcing => self.examples.iter().map(|e| e.candidates[e.label].option_len).sum(),
        };
        let places: Vec<usize> = (0..self.examples.len()).collect();
        for places in places.chunks(self.micro_batch_size) {
            let batches = self.pack(places);
            let (_, mut gradients) = self.begin_backward(weights, &batches, Some(total))?;
            while let Some(block) = gradients.next(weights)? {
                block.iter().for_each(|(id, gradient)| add(*id, gradient));
            }
        }
        self.cost.borrow_mut().example_evaluations += places.len() as u64;
        Ok(places.len() as u64)
    }
}

/// A backward pass whose cost is counted.
struct CountedBackward<'a> {
    problem: &'a PromptLoss<'a>,
    backward: Backward<'a>,
}

impl Gradients for CountedBackward<'_> {
    fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        self.problem.counted(0, 0, || self.backward.next(weights))
    }
}
