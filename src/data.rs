//! Examples to packed batches: shared prefixes once, no padding, and which examples a step sees.

use std::ops::Range;

use anyhow::{Context, Result, bail};

use crate::task::{PromptedRow, permutation};
use crate::tokenizer::Tokenizer;

/// One candidate of an example, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Prompt and answer, begin token included.
    pub tokens: Vec<u32>,
    /// How many of the last tokens are the answer's: len(tokens(prompt + answer)) - len(tokens(prompt)).
    pub option_len: usize,
}

/// An example, ready to be packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row's place in its data file, from 0.
    pub index: usize,
    pub label: usize,
    pub candidates: Vec<Candidate>,
}

impl Example {
    /// Tokenises a row. Longer than `max_length` is cut on the left, keeping the first token.
    pub fn encode(row: &PromptedRow, tokenizer: &Tokenizer, max_length: usize) -> Result<Self> {
        let prompt_len = tokenizer.encode(&row.prompt)?.len();
        let candidates = row.answered.iter().map(|text| {
            let tokens = tokenizer.encode(text)?;
            let option_len = tokens.len().saturating_sub(prompt_len);
            if option_len == 0 {
                bail!("the answer adds no token to the prompt: {text:?}");
            }
            let tokens = cut_left(tokens, max_length);
            if option_len >= tokens.len() {
                bail!("an answer of {option_len} tokens leaves no room for a prompt in max_length {max_length}: {text:?}");
            }
            Ok(Candidate { tokens, option_len })
        });
        Ok(Example { index: row.index, label: row.label, candidates: candidates.collect::<Result<_>>()? })
    }

    /// Tokenises rows, in order.
    pub fn encode_all(rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        rows.iter()
            .map(|row| Self::encode(row, tokenizer, max_length).with_context(|| format!("data row {}", row.index)))
            .collect()
    }
}

fn cut_left(mut tokens: Vec<u32>, max_length: usize) -> Vec<u32> {
    if tokens.len() > max_length {
        let surplus = tokens.len() - max_length;
        tokens.drain(1..1 + surplus);
    }
    tokens
}

/// Queries that share what they see: all of `shared`, and from `own_start` up to themselves. Rows of the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryBlock {
    pub queries: Range<usize>,
    pub shared: Range<usize>,
    pub own_start: usize,
}

impl QueryBlock {
    /// Queries in one block at most: bounds the scores that are held at a time.
    const LEN: usize = 64;

    /// Causal attention of `rows` over themselves, after all of `shared`.
    fn push(blocks: &mut Vec<Self>, rows: Range<usize>, shared: Range<usize>) {
        for start in rows.clone().step_by(Self::LEN) {
            let queries = start..rows.end.min(start + Self::LEN);
            blocks.push(QueryBlock { queries, shared: shared.clone(), own_start: rows.start });
        }
    }
}

/// A token whose log-probability is wanted: for `candidate` of `example`, at the hidden state `state`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    pub example: usize,
    pub candidate: usize,
    /// Index into [`Batch::states`].
    pub state: usize,
    pub token: u32,
}

/// Examples packed one behind the other. Candidates of an example share their longest common prefix: it is there once,
/// each candidate's further tokens attend to it and to themselves. A candidate's last token is never an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub tokens: Vec<u32>,
    /// Each token's place in its own candidate, from 0.
    pub positions: Vec<u32>,
    pub blocks: Vec<QueryBlock>,
    /// Rows whose hidden states predict a token: only these reach the final norm and the vocabulary.
    pub states: Vec<u32>,
    pub predictions: Vec<Prediction>,
    /// For each example, which of its candidates are here, by number.
    pub candidates: Vec<Vec<usize>>,
    /// For each example, the candidate that is right.
    pub labels: Vec<usize>,
}

/// Which candidates of each example are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    All,
    /// The right one only: all that teacher forcing needs.
    Right,
}

impl Batch {
    /// Packs examples.
    pub fn pack<'a>(examples: impl IntoIterator<Item = &'a Example>, pick: Pick) -> Self {
        let mut batch = Batch::default();
        for example in examples {
            let picked = match pick {
                Pick::All => (0..example.candidates.len()).collect(),
                Pick::Right => vec![example.label],
            };
            batch.push(example, picked);
        }
        batch
    }

    /// One sequence with every state wanted: for looking at logits.
    pub fn sequence(tokens: &[u32]) -> Self {
        let mut batch = Batch::default();
        batch.append(tokens, 0);
        QueryBlock::push(&mut batch.blocks, 0..tokens.len(), 0..0);
        batch.states = batch.positions.clone();
        batch
    }

    /// How many tokens are fed to the model.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    fn push(&mut self, example: &Example, picked: Vec<usize>) {
        let inputs: Vec<&[u32]> = picked
            .iter()
            .map(|&c| &example.candidates[c].tokens)
            .map(|tokens| &tokens[..tokens.len() - 1])
            .collect();
        let prefix = common_prefix(&inputs);
        let base = self.tokens.len();
        self.append(&inputs[0][..prefix], 0);
        QueryBlock::push(&mut self.blocks, base..base + prefix, base..base);
        for (&candidate, input) in picked.iter().zip(&inputs) {
            let start = self.tokens.len();
            self.append(&input[prefix..], prefix);
            QueryBlock::push(&mut self.blocks, start..self.tokens.len(), base..base + prefix);
            let Candidate { tokens, option_len } = &example.candidates[candidate];
            for place in tokens.len() - option_len..tokens.len() {
                // The token at `place` is predicted by the one before it.
                let row = if place <= prefix { base + place - 1 } else { start + place - 1 - prefix };
                let state = self.state(row as u32, base as u32);
                self.predictions.push(Prediction { example: self.labels.len(), candidate, state, token: tokens[place] });
            }
        }
        self.candidates.push(picked);
        self.labels.push(example.label);
    }

    fn append(&mut self, tokens: &[u32], first_position: usize) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first_position..first_position + tokens.len()).map(|p| p as u32));
    }

    /// The index of `row` among the states, added if it is new; only this example's states (from `base` on) can match.
    fn state(&mut self, row: u32, base: u32) -> usize {
        let known = self.states.iter().rposition(|s| *s == row || *s < base).filter(|i| self.states[*i] == row);
        known.unwrap_or_else(|| {
            self.states.push(row);
            self.states.len() - 1
        })
    }
}

fn common_prefix(inputs: &[&[u32]]) -> usize {
    let shortest = inputs.iter().map(|i| i.len()).min().unwrap_or(0);
    (0..shortest).take_while(|&i| inputs.iter().all(|x| x[i] == inputs[0][i])).count()
}

/// Which examples each step sees: a pure function of the seed and the step. Every epoch is a permutation of its own.
pub struct Batches {
    num_examples: usize,
    batch_size: usize,
    seed: u64,
    /// The permutation of the epoch last asked for.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Batches of `batch_size` out of `num_examples`, wrapping from one epoch into the next.
    pub fn new(num_examples: usize, batch_size: usize, seed: u64) -> Self {
        Batches { num_examples, batch_size, seed, epoch: None }
    }

    /// The examples of `step`, counted from 0.
    pub fn at(&mut self, step: u64) -> Vec<usize> {
        let first = step * self.batch_size as u64;
        (first..first + self.batch_size as u64).map(|k| self.example(k)).collect()
    }

    fn example(&mut self, k: u64) -> usize {
        let (epoch, place) = (k / self.num_examples as u64, (k % self.num_examples as u64) as usize);
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let seed = crate::noise::mix(crate::noise::mix(self.seed) ^ epoch) as u32;
            self.epoch = Some((epoch, permutation(seed, self.num_examples)));
        }
        self.epoch.as_ref().map_or(0, |(_, order)| order[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(label: usize, candidates: &[(&[u32], usize)]) -> Example {
        let candidates = candidates.iter().map(|(t, n)| Candidate { tokens: t.to_vec(), option_len: *n }).collect();
        Example { index: 0, label, candidates }
    }

    #[test]
    fn one_token_answers_feed_the_prompt_once_and_predict_from_one_state() {
        let batch = Batch::pack(&[example(1, &[(&[2, 7, 8, 30], 1), (&[2, 7, 8, 31], 1)])], Pick::All);
        assert_eq!(batch.tokens, [2, 7, 8]);
        assert_eq!(batch.states, [2]);
        let expected = [(0, 30), (1, 31)].map(|(candidate, token)| Prediction { example: 0, candidate, state: 0, token });
        assert_eq!(batch.predictions, expected);
    }

    #[test]
    fn longer_answers_share_their_prefix_and_keep_their_positions() {
        let a = example(0, &[(&[2, 7, 30, 40, 41], 3), (&[2, 7, 30, 50], 2)]);
        let batch = Batch::pack([&a, &a], Pick::All);
        // Inputs are 2 7 30 40 and 2 7 30; the prefix is 2 7 30.
        assert_eq!(batch.tokens, [2, 7, 30, 40, 2, 7, 30, 40]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(batch.states, [1, 2, 3, 5, 6, 7]);
        let of_second: Vec<_> = batch.predictions[5..].iter().map(|p| (p.candidate, batch.states[p.state], p.token)).collect();
        assert_eq!(of_second, [(0, 5, 30), (0, 6, 40), (0, 7, 41), (1, 5, 30), (1, 6, 50)]);
        assert_eq!(batch.blocks[1], QueryBlock { queries: 3..4, shared: 0..3, own_start: 3 });
        assert_eq!(batch.blocks.len(), 4);
        assert_eq!(Batch::pack([&a], Pick::Right).tokens, [2, 7, 30, 40]);
    }

    #[test]
    fn an_over_long_prompt_is_cut_on_the_left_keeping_the_first_token() {
        assert_eq!(cut_left(vec![2, 5, 6, 7, 8], 3), [2, 7, 8]);
        assert_eq!(cut_left(vec![2, 5], 3), [2, 5]);
    }

    #[test]
    fn batches_are_a_pure_function_of_the_step_and_every_epoch_sees_every_example_once() {
        let mut batches = Batches::new(10, 4, 0);
        let first: Vec<_> = (0..5).flat_map(|s| batches.at(s)).collect();
        let again = Batches::new(10, 4, 0).at(3);
        assert_eq!(first[12..16], again);
        for epoch in first.chunks(10) {
            let mut seen = epoch.to_vec();
            seen.sort();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first[..10], first[10..]);
        assert_ne!(Batches::new(10, 4, 1).at(0), first[..4]);
    }
}
