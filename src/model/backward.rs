//! The first-order gradient, computed block by block from the loss down.
//!
//! A forward pass without a graph keeps the input of each block. Then, from the top: one block is recomputed with a
//! graph and differentiated from the gradient of its output, the gradients of its weights are handed out, and
//! everything is dropped before the next. So one block's gradients and activations and the inputs of all blocks are
//! alive. The head's share of a tied embedding's gradient stays in the recorder until the stem's is added.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::lm::Model;
use super::packed::Packed;
use super::segment::Segment;
use crate::data::Batch;
use crate::device::Activations;
use crate::params::{Gradient, ParamId, Recorder, Role, Weights};

/// A backward pass in progress, over the micro-batches of one batch.
pub struct Backward<'a> {
    model: &'a Model,
    parts: Vec<MicroBatch<'a>>,
    recorder: Arc<Recorder>,
    /// The remaining segments, the next one last.
    remaining: Vec<Segment>,
}

struct MicroBatch<'a> {
    packed: Packed<'a>,
    /// The inputs of the remaining blocks, the next one's last.
    inputs: Vec<Activations>,
    /// The hidden states of the predicting rows.
    states: Activations,
    /// The gradient of the loss with respect to the log-probabilities, then to the output of the next segment.
    upstream: Option<Activations>,
}

impl<'a> Backward<'a> {
    /// The forward pass. Returns the log-probabilities of each micro-batch's predictions with it; [`Backward::seed`]
    /// takes the loss's gradient with respect to them. Fails if no weight is differentiated.
    pub fn begin(model: &'a Model, weights: Weights, batches: &'a [Batch]) -> Result<(Self, Vec<Vec<f32>>)> {
        let wanted = |id: ParamId| weights.role(id) == Role::Differentiated;
        let lowest = model.places.iter().filter(|place| wanted(place.id)).map(|place| place.segment).min();
        let lowest = lowest.context("a backward pass was started, but no weight needs a gradient")?;
        let (mut parts, mut log_probs) = (Vec::new(), Vec::new());
        for batch in batches {
            let packed = model.prepare(batch)?;
            let mut inputs = Vec::new();
            let states = model.forward(weights, &packed, |block, input| {
                if Segment::Block(block) >= lowest {
                    inputs.push(input.clone());
                }
            })?;
            log_probs.push(model.log_probs_of(weights, &states, batch)?);
            parts.push(MicroBatch { packed, inputs, states, upstream: None });
        }
        let blocks = (0..model.num_blocks()).map(Segment::Block);
        let all = std::iter::once(Segment::Stem).chain(blocks).chain([Segment::Head]);
        let remaining = all.filter(|segment| *segment >= lowest).collect();
        Ok((Backward { model, parts, recorder: weights.recorder()?, remaining }, log_probs))
    }

    /// Sets the gradient of the loss with respect to each log-probability.
    pub fn seed(&mut self, gradients: Vec<Vec<f32>>) -> Result<()> {
        for (part, gradient) in self.parts.iter_mut().zip(gradients) {
            let len = gradient.len();
            part.upstream = Some(Activations::new(gradient, &[len])?);
        }
        Ok(())
    }

    /// The gradients of the next segment's weights, summed over the micro-batches; None at the end. The weights of the
    /// segments below must be as they were at the beginning.
    pub fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        let Some(segment) = self.remaining.pop() else { return Ok(None) };
        let recorder = self.recorder.clone();
        let (read, last) = (weights.recorded(&recorder), self.remaining.is_empty());
        for part in &mut self.parts {
            let upstream = part.upstream.take().context("a backward pass without a gradient to begin from")?;
            part.upstream = match segment {
                Segment::Stem => {
                    self.model.architecture.embed(read, &part.packed)?.walk_back(&upstream)?;
                    None
                }
                Segment::Head => Some(self.model.head_backward(read, part, &upstream)?),
                Segment::Block(block) => {
                    let input = part.inputs.pop().context("a block's input was not kept")?.variable()?;
                    let output = self.model.architecture.block(read, block, input.activations(), &part.packed)?;
                    Some(input.gradient(&output, &upstream)?)
                }
            };
            if last {
                part.upstream = None;
            }
        }
        let wanted = |id: ParamId| weights.role(id) == Role::Differentiated;
        let here = self.model.places.iter().filter(|place| place.segment == segment && wanted(place.id));
        let taken = here.map(|place| Ok((place.id, recorder.take(place.id).ok_or_else(|| missing(weights, place.id))?)));
        Ok(Some(taken.collect::<Result<_>>()?))
    }
}

fn missing(weights: Weights, id: ParamId) -> anyhow::Error {
    let name = weights.ids().find(|(i, _)| *i == id).map_or("?", |(_, name)| name);
    anyhow!("weight {name} got no gradient: an operation that reads it does not record")
}

impl Model {
    /// The gradient with respect to the last block's output, through the head, one chunk of states at a time.
    fn head_backward(&self, weights: Weights, part: &MicroBatch, upstream: &Activations) -> Result<Activations> {
        let mut gradient = part.states.zeros_like()?;
        for chunk in self.head_chunks(part.packed.batch, 1) {
            let states = chunk.of(&part.states)?.variable()?;
            let log_probs = self.chunk_log_probs(weights, &states.activations(), &chunk)?;
            let picked: Vec<u32> = chunk.wanted.iter().map(|&i| i as u32).collect();
            let upstream = upstream.select(&picked)?;
            gradient = chunk.add(&gradient, &states.gradient(&log_probs, &upstream)?)?;
        }
        Ok(gradient)
    }
}
