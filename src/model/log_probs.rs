//! From the hidden states that predict something to the log-probabilities of what they are to predict.
//!
//! A log-probability is a logit less the state's normaliser, ln sum e^logit over the vocabulary. Where a batch is only compared
//! ([`Pick::Compared`](crate::batch::Pick)) and all answers of an example are one token behind one state, the normaliser is the same for
//! each, and neither the loss nor its gradient knows it: of such states only the logits of the answers are computed. The others' go
//! through the whole vocabulary, a chunk of states at a time.

use anyhow::Result;

use super::lm::Model;
use crate::data::Batch;
use crate::device::Activations;
use crate::ops;
use crate::params::Weights;

/// Logits held at a time at most, in bytes: the vocabulary projection runs over the predicting states in chunks of this.
const LOGITS_BYTES: usize = 32 << 20;

/// Predicting states that go through the head together.
pub(super) struct HeadChunk {
    /// Which of the batch's, for each point the same.
    states: Vec<u32>,
    /// Whether their normalisers are wanted.
    is_normalised: bool,
    /// The predictions that they make, and for each its row among them and its token.
    pub(super) wanted: Vec<usize>,
    picks: Vec<(usize, u32)>,
}

impl HeadChunk {
    /// The chunk's rows of `all` hidden states.
    pub(super) fn of(&self, all: &Activations) -> Result<Activations> {
        all.select(&self.states)
    }

    /// `onto` [states, hidden] with `rows`, the chunk's, added to where they belong.
    pub(super) fn add(&self, onto: &Activations, rows: &Activations) -> Result<Activations> {
        onto.with_rows_added(&self.states, rows)
    }
}

impl Model {
    /// ln p of the batch's predictions, or their logits, from the hidden states of its predicting rows.
    pub(super) fn log_probs_of(&self, weights: Weights, states: &Activations, batch: &Batch) -> Result<Vec<f32>> {
        let mut log_probs = vec![0f32; batch.predictions.len()];
        for chunk in self.head_chunks(batch, weights.points()) {
            let found = self.chunk_log_probs(weights, &chunk.of(states)?, &chunk)?.to_vec()?;
            chunk.wanted.into_iter().zip(found).for_each(|(i, log_prob): (usize, f32)| log_probs[i] = log_prob);
        }
        Ok(log_probs)
    }

    /// The predicting states in chunks: those without normalisers all together, the others as many as may hold their logits at a
    /// time.
    pub(super) fn head_chunks(&self, batch: &Batch, points: usize) -> Vec<HeadChunk> {
        let (rows, all) = ((LOGITS_BYTES / (4 * self.shape().vocab_size * points)).max(1), batch.states.len() / points);
        let (normalised, free): (Vec<usize>, Vec<usize>) = (0..all).partition(|&state| batch.is_normalised[state]);
        let chunk = |states: &[usize], is_normalised| {
            let mut place = vec![None; all];
            states.iter().enumerate().for_each(|(i, &state)| place[state] = Some(i));
            let predictions = batch.predictions.iter().enumerate();
            let here = predictions.filter_map(|(i, p)| {
                let row = p.state / all * states.len() + place[p.state % all]?;
                Some((i, (row, p.token)))
            });
            let (wanted, picks) = here.unzip();
            let states = (0..points).flat_map(|point| states.iter().map(move |state| (point * all + state) as u32));
            HeadChunk { states: states.collect(), is_normalised, wanted, picks }
        };
        let free = free.chunks(free.len().max(1)).map(|states| chunk(states, false));
        free.chain(normalised.chunks(rows).map(|states| chunk(states, true))).collect()
    }

    /// ln p of the predictions that a chunk's hidden `states` make, or their logits: [wanted].
    pub(super) fn chunk_log_probs(&self, weights: Weights, states: &Activations, chunk: &HeadChunk) -> Result<Activations> {
        let (x, head) = (self.architecture.to_head(weights, states)?, self.architecture.head());
        if chunk.is_normalised {
            ops::log_probs(&head.logits(weights, &x)?, &chunk.picks)
        } else {
            head.logits_of(weights, &x, &chunk.picks)
        }
    }
}
