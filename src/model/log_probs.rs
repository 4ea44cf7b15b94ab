//! From hidden states to the log-probabilities of the tokens they predict.
//!
//! A log-probability is a logit minus the state's normaliser, ln sum e^logit over the vocabulary. In a batch packed for
//! comparison ([`Pick::Compared`](crate::data::Pick)), if all answers of an example are one token predicted from the
//! same state, the normaliser cancels in the loss and its gradient; only the logits of the answers are computed. For
//! all other states the whole vocabulary is, one chunk of states at a time.

use anyhow::Result;

use super::lm::Model;
use crate::data::Batch;
use crate::device::Activations;
use crate::ops;
use crate::params::Weights;

/// The most bytes of logits held at a time; bounds the chunk size.
const LOGITS_BYTES: usize = 32 << 20;

/// Predicting states that go through the head together.
pub(super) struct HeadChunk {
    /// Their rows among the batch's states, for each point.
    states: Vec<u32>,
    /// Whether their normalisers are needed.
    is_normalised: bool,
    /// The indices of their predictions, and for each its row in the chunk and its token.
    pub(super) wanted: Vec<usize>,
    picks: Vec<(usize, u32)>,
}

impl HeadChunk {
    /// The chunk's rows of `all` hidden states.
    pub(super) fn of(&self, all: &Activations) -> Result<Activations> {
        all.select(&self.states)
    }

    /// Adds `rows`, the chunk's, to the matching rows of `onto` [states, hidden].
    pub(super) fn add(&self, onto: &Activations, rows: &Activations) -> Result<Activations> {
        onto.with_rows_added(&self.states, rows)
    }
}

impl Model {
    /// ln p of the batch's predictions, or their logits, from the hidden states of the predicting rows.
    pub(super) fn log_probs_of(&self, weights: Weights, states: &Activations, batch: &Batch) -> Result<Vec<f32>> {
        let mut log_probs = vec![0f32; batch.predictions.len()];
        for chunk in self.head_chunks(batch, weights.points()) {
            let found = self.chunk_log_probs(weights, &chunk.of(states)?, &chunk)?.to_vec()?;
            chunk.wanted.into_iter().zip(found).for_each(|(i, log_prob): (usize, f32)| log_probs[i] = log_prob);
        }
        Ok(log_probs)
    }

    /// The predicting states in chunks: all without normalisers in one, the others limited by [`LOGITS_BYTES`].
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

    /// ln p of the predictions from a chunk's hidden `states`, or their logits: [wanted].
    pub(super) fn chunk_log_probs(&self, weights: Weights, states: &Activations, chunk: &HeadChunk) -> Result<Activations> {
        let (x, head) = (self.architecture.to_head(weights, states)?, self.architecture.head());
        if chunk.is_normalised {
            ops::log_probs(&head.logits(weights, &x)?, &chunk.picks)
        } else {
            head.logits_of(weights, &x, &chunk.picks)
        }
    }
}
