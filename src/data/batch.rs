//! Examples packed into one batch without padding, as a prefix tree of their sequences.
//!
//! A prefix shared by several sequences is stored once, be it the prompt of an example's candidates, the begin token of
//! all, or a task's long instruction: with causal attention its activations do not depend on what follows. The rows of
//! a batch are the tree's branches in depth-first order; a token attends to the branches on its path and to its own
//! branch up to itself. Each row's activations are bit-identical to those of its sequence alone.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::example::{Candidate, Example};
use crate::device::QueryBlock;

/// A token whose log-probability is requested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the example in the batch.
    pub example: usize,
    /// Index of the candidate among the packed ones of the example.
    pub candidate: usize,
    /// The hidden state that predicts it: an index into [`Batch::states`].
    pub state: usize,
    /// Token id.
    pub token: u32,
}

/// An example packed in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedExample {
    /// The number of its packed candidates.
    pub num_candidates: usize,
    /// Index of the right one among them.
    pub right: usize,
}

/// Which candidates of each example are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// All, each for its log-probability.
    All,
    /// All, for a softmax over candidates: normalisers shared by all candidates of an example are not computed, as they
    /// cancel.
    Compared,
    /// The right one only, for teacher forcing.
    Right,
}

/// Packed examples. The last token of a candidate is never an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids [rows], one per row of every activation.
    pub tokens: Vec<u32>,
    /// Each token's position in its own sequence, from 0 [rows].
    pub positions: Vec<u32>,
    /// The rows that each token attends to; each token is a query of exactly one block.
    pub(crate) blocks: Arc<Vec<QueryBlock>>,
    /// The rows whose hidden states predict a token; only these reach the final norm and the head.
    pub states: Vec<u32>,
    /// Whether the softmax normaliser of each state is needed [states].
    pub is_normalised: Vec<bool>,
    /// The answer tokens of all packed candidates.
    pub predictions: Vec<Prediction>,
    /// The packed examples.
    pub examples: Vec<PackedExample>,
}

impl Batch {
    /// Packs the candidates that `pick` selects.
    pub fn pack<'a>(examples: impl IntoIterator<Item = &'a Example>, pick: Pick) -> Self {
        let picked = |example: &'a Example| match pick {
            Pick::All | Pick::Compared => (example.candidates.as_slice(), example.label),
            Pick::Right => (&example.candidates[example.label..=example.label], 0),
        };
        let examples: Vec<(&[Candidate], usize)> = examples.into_iter().map(picked).collect();
        let candidates = examples.iter().flat_map(|(candidates, _)| candidates.iter());
        let mut batch = Batch::default();
        let rows = batch.add_tree(candidates.map(|c| &c.tokens[..c.tokens.len() - 1]).collect());
        batch.predict(&examples, &rows, pick == Pick::Compared);
        batch
    }

    /// One sequence with all states, for inspecting logits.
    pub fn sequence(tokens: &[u32]) -> Self {
        let mut batch = Batch::default();
        batch.add_tree(vec![tokens]);
        batch.states = batch.positions.clone();
        batch.is_normalised = vec![true; tokens.len()];
        batch
    }

    /// The rows that each token attends to, in blocks of queries.
    pub fn blocks(&self) -> &Arc<Vec<QueryBlock>> {
        &self.blocks
    }

    /// The number of tokens fed to the model.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The batch `times` over; each token attends to its own copy only.
    pub fn repeated(&self, times: usize) -> Batch {
        let (tokens, states) = (self.tokens.len(), self.states.len());
        let blocks = (0..times).flat_map(|n| self.blocks.iter().map(move |block| block.shifted(n * tokens))).collect();
        let rows = (0..times).flat_map(|n| self.states.iter().map(move |row| row + (n * tokens) as u32)).collect();
        let predictions = (0..times).flat_map(|n| {
            let shifted = move |p: &Prediction| Prediction {
                example: p.example + n * self.examples.len(),
                state: p.state + n * states,
                ..*p
            };
            self.predictions.iter().map(shifted)
        });
        Batch {
            tokens: self.tokens.repeat(times),
            positions: self.positions.repeat(times),
            blocks: Arc::new(blocks),
            states: rows,
            is_normalised: self.is_normalised.repeat(times),
            predictions: predictions.collect(),
            examples: self.examples.repeat(times),
        }
    }

    /// Adds the prefix tree of `sequences`; returns the rows of each one's tokens.
    fn add_tree(&mut self, sequences: Vec<&[u32]>) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); sequences.len()];
        let all = (0..sequences.len()).filter(|&s| !sequences[s].is_empty()).collect();
        self.add_branches(&sequences, all, &[], &mut rows);
        rows
    }

    /// Adds the branches of the sequences in `group`, which are longer than their `rows` so far and agree up to there;
    /// they attend to the rows `seen`.
    fn add_branches(&mut self, sequences: &[&[u32]], group: Vec<usize>, seen: &[Range<usize>], rows: &mut [Vec<u32>]) {
        let Some(&first) = group.first() else { return };
        let depth = rows[first].len();
        let mut branches: Vec<(u32, Vec<usize>)> = Vec::new();
        for s in group {
            let token = sequences[s][depth];
            match branches.iter_mut().find(|(first, _)| *first == token) {
                Some((_, branch)) => branch.push(s),
                None => branches.push((token, vec![s])),
            }
        }
        for (_, mut branch) in branches {
            let common = common_prefix(branch.iter().map(|&s| &sequences[s][depth..]));
            let (here, path) = self.append(&sequences[branch[0]][depth..depth + common], depth, seen);
            branch.iter().for_each(|&s| rows[s].extend(here.clone().map(|row| row as u32)));
            branch.retain(|&s| sequences[s].len() > depth + common);
            self.add_branches(sequences, branch, &path, rows);
        }
    }

    /// Adds a run of tokens, which attend to the rows `seen` and causally to each other; returns its rows, and the rows
    /// that tokens after it attend to.
    fn append(&mut self, run: &[u32], depth: usize, seen: &[Range<usize>]) -> (Range<usize>, Vec<Range<usize>>) {
        let here = self.tokens.len()..self.tokens.len() + run.len();
        self.tokens.extend_from_slice(run);
        self.positions.extend((depth..depth + run.len()).map(|p| p as u32));
        // Rows directly before the run merge with its own range.
        let (own_start, before) = match seen {
            [before @ .., last] if last.end == here.start => (last.start, before),
            _ => (here.start, seen),
        };
        let blocks = here.clone().step_by(QueryBlock::LEN).map(|start| QueryBlock {
            queries: start..here.end.min(start + QueryBlock::LEN),
            seen: before.to_vec(),
            own_start,
        });
        Arc::make_mut(&mut self.blocks).extend(blocks);
        let path = before.iter().cloned().chain(std::iter::once(own_start..here.end)).collect();
        (here, path)
    }

    /// Adds the predictions of the examples' candidates, whose tokens are at `rows`.
    fn predict(&mut self, examples: &[(&[Candidate], usize)], rows: &[Vec<u32>], are_compared: bool) {
        let mut states: HashMap<u32, usize> = HashMap::new();
        let mut rows = rows.iter();
        for (candidates, right) in examples {
            let first = self.predictions.len();
            for ((candidate, Candidate { tokens, option_len }), rows) in candidates.iter().enumerate().zip(&mut rows) {
                for place in tokens.len() - option_len..tokens.len() {
                    // Each token is predicted from the one before it.
                    let row = rows[place - 1];
                    let state = *states.entry(row).or_insert_with(|| {
                        self.states.push(row);
                        self.is_normalised.push(false);
                        self.states.len() - 1
                    });
                    self.predictions.push(Prediction {
                        example: self.examples.len(),
                        candidate,
                        state,
                        token: tokens[place],
                    });
                }
            }
            let own = &self.predictions[first..];
            let is_common = own.len() == candidates.len() && own.iter().all(|p| p.state == own[0].state);
            if !(are_compared && is_common) {
                own.iter().for_each(|p| self.is_normalised[p.state] = true);
            }
            self.examples.push(PackedExample { num_candidates: candidates.len(), right: *right });
        }
    }
}

/// The length of the longest common prefix.
fn common_prefix<'a>(sequences: impl Iterator<Item = &'a [u32]> + Clone) -> usize {
    let Some(first) = sequences.clone().next() else { return 0 };
    let common = |other: &[u32]| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    sequences.map(common).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    fn example(label: usize, candidates: &[(&[u32], usize)]) -> Example {
        let candidates = candidates.iter().map(|(t, n)| Candidate { tokens: t.to_vec(), option_len: *n }).collect();
        Example { index: 0, label, candidates, cut: false, shortened: false, row: Digest(0) }
    }

    #[test]
    fn one_token_answers_feed_the_prompt_once_and_predict_from_one_state() {
        let examples = [example(1, &[(&[2, 7, 8, 30], 1), (&[2, 7, 8, 31], 1)])];
        let batch = Batch::pack(&examples, Pick::Compared);
        assert_eq!(batch.tokens, [2, 7, 8]);
        assert_eq!(batch.states, [2]);
        let expected = [(0, 30), (1, 31)].map(|(candidate, token)| Prediction { example: 0, candidate, state: 0, token });
        assert_eq!(batch.predictions, expected);
        // All answers share one normaliser.
        assert_eq!(batch.is_normalised, [false]);
        assert_eq!(Batch::pack(&examples, Pick::All).is_normalised, [true]);
        assert_eq!(Batch::pack(&examples, Pick::Right).is_normalised, [true]);
    }

    #[test]
    fn longer_answers_share_their_prefix_and_keep_their_positions() {
        let a = example(0, &[(&[2, 7, 30, 40, 41], 3), (&[2, 7, 30, 50], 2)]);
        let batch = Batch::pack([&a, &a], Pick::Compared);
        // The inputs 2 7 30 40 and 2 7 30, twice each, are stored once.
        assert_eq!(batch.tokens, [2, 7, 30, 40]);
        assert_eq!(batch.positions, [0, 1, 2, 3]);
        assert_eq!(batch.states, [1, 2, 3]);
        assert_eq!(batch.is_normalised, [true; 3]);
        let of_second: Vec<_> =
            batch.predictions[5..].iter().map(|p| (p.candidate, batch.states[p.state], p.token)).collect();
        assert_eq!(of_second, [(0, 1, 30), (0, 2, 40), (0, 3, 41), (1, 1, 30), (1, 2, 50)]);
        assert_eq!(batch.blocks[1], QueryBlock { queries: 3..4, seen: vec![], own_start: 0 });
        assert_eq!(batch.blocks.len(), 2);
        assert_eq!(Batch::pack([&a], Pick::Right).tokens, [2, 7, 30, 40]);
    }

    #[test]
    fn what_sequences_begin_with_is_there_once_and_seen_from_every_branch() {
        let sequences: [&[u32]; 5] = [&[2, 7, 8, 9], &[2, 5], &[2, 7, 8, 4], &[3, 7], &[2, 7]];
        let mut batch = Batch::default();
        let rows = batch.add_tree(sequences.to_vec());
        assert_eq!(batch.tokens, [2, 7, 8, 9, 4, 5, 3, 7]);
        for (sequence, rows) in sequences.iter().zip(&rows) {
            let of_rows = |of: &[u32]| rows.iter().map(|&row| of[row as usize]).collect::<Vec<u32>>();
            assert_eq!(of_rows(&batch.tokens), *sequence);
            assert_eq!(of_rows(&batch.positions), (0..sequence.len() as u32).collect::<Vec<_>>());
            for (place, &row) in rows.iter().enumerate() {
                let block = batch.blocks.iter().find(|block| block.queries.contains(&(row as usize))).unwrap();
                let seen = block.seen.iter().cloned().flatten().chain(block.own_start..row as usize + 1);
                assert_eq!(seen.map(|row| row as u32).collect::<Vec<_>>(), rows[..=place], "{sequence:?}, token {place}");
                assert_eq!(block.before() + row as usize - block.queries.start, place);
            }
        }
    }

    #[test]
    fn a_state_that_one_example_wants_normalised_is() {
        let (one, more) =
            (example(0, &[(&[2, 7, 30], 1), (&[2, 7, 31], 1)]), example(0, &[(&[2, 7, 30], 1), (&[2, 7, 31, 32], 2)]));
        assert_eq!(Batch::pack([&one, &more], Pick::Compared).is_normalised, [true, true]);
        let other = example(0, &[(&[2, 8, 30], 1), (&[2, 8, 31], 1)]);
        assert_eq!(Batch::pack([&other, &more], Pick::Compared).is_normalised, [false, true, true]);
        // Answers after different prompts share nothing.
        let prompts = example(0, &[(&[2, 7, 30], 1), (&[2, 8, 30], 1)]);
        assert_eq!(Batch::pack([&prompts], Pick::Compared).is_normalised, [true, true]);
    }

    #[test]
    fn a_repeated_batch_is_each_token_with_its_own_copy() {
        let a = example(0, &[(&[2, 7, 30, 40, 41], 3), (&[2, 7, 30, 50], 2)]);
        let b = example(1, &[(&[2, 9, 8, 30], 1), (&[2, 9, 8, 31], 1)]);
        let batch = Batch::pack([&a, &b], Pick::Compared);
        let (twice, tokens) = (batch.repeated(2), batch.num_tokens());
        assert_eq!(batch.repeated(1), batch);
        assert_eq!(twice.tokens, [batch.tokens.clone(), batch.tokens.clone()].concat());
        for (first, second) in batch.blocks.iter().zip(&twice.blocks[batch.blocks.len()..]) {
            assert_eq!(first.shifted(tokens), *second);
        }
        for (first, second) in batch.predictions.iter().zip(&twice.predictions[batch.predictions.len()..]) {
            assert_eq!(twice.states[second.state], batch.states[first.state] + tokens as u32);
            assert_eq!((second.example, second.token), (first.example + 2, first.token));
        }
    }
}
