//! From the hidden states that predict something to the log-probabilities of what they are to predict, a chunk of states at a time.

use anyhow::Result;
use candle_core::Tensor;

use super::{Model, ops};
use crate::data::Batch;
use crate::params::Weights;

/// Logits held at a time at most, in bytes: the vocabulary projection runs over the predicting states in chunks of this.
const LOGITS_BYTES: usize = 32 << 20;

/// Predicting states whose logits are held at a time.
#[derive(Default)]
pub(super) struct HeadChunk {
    /// The first of them, for each point.
    starts: Vec<usize>,
    /// How many there are for each point.
    len: usize,
    /// The predictions that they make, and for each its row among them and its token.
    pub(super) wanted: Vec<usize>,
    picks: Vec<(usize, u32)>,
}

impl HeadChunk {
    /// The chunk's rows.
    pub(super) fn of(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        let of_point = |start: &usize| states.narrow(0, *start, self.len);
        Tensor::cat(&self.starts.iter().map(of_point).collect::<candle_core::Result<Vec<_>>>()?, 0)
    }
}

impl Model {
    /// ln p of the batch's predictions from the hidden states of its predicting rows.
    pub(super) fn log_probs_of(&self, weights: Weights, states: &Tensor, batch: &Batch) -> Result<Vec<f32>> {
        let mut log_probs = vec![0f32; batch.predictions.len()];
        for chunk in self.head_chunks(batch, weights.points()) {
            let found = self.chunk_log_probs(weights, &chunk.of(states)?, &chunk)?.to_vec1()?;
            chunk.wanted.into_iter().zip(found).for_each(|(i, log_prob): (usize, f32)| log_probs[i] = log_prob);
        }
        Ok(log_probs)
    }

    /// The predicting states in chunks whose logits may be held at a time: as many of each point.
    pub(super) fn head_chunks(&self, batch: &Batch, points: usize) -> Vec<HeadChunk> {
        let (rows, all) = ((LOGITS_BYTES / (4 * self.shape().vocab_size * points)).max(1), batch.states.len() / points);
        let starts = (0..all).step_by(rows);
        let chunk = |start: usize| {
            let len = rows.min(all - start);
            let mut chunk =
                HeadChunk { starts: (0..points).map(|n| n * all + start).collect(), len, ..HeadChunk::default() };
            for (i, prediction) in batch.predictions.iter().enumerate() {
                let (point, place) = (prediction.state / all, prediction.state % all);
                if (start..start + len).contains(&place) {
                    chunk.wanted.push(i);
                    chunk.picks.push((point * len + place - start, prediction.token));
                }
            }
            chunk
        };
        starts.map(chunk).collect()
    }

    /// ln p of the predictions that a chunk's `states` make: [wanted].
    pub(super) fn chunk_log_probs(&self, weights: Weights, states: &Tensor, chunk: &HeadChunk) -> Result<Tensor> {
        ops::log_probs(&self.architecture.logits(weights, states)?, chunk.picks.clone())
    }
}
