//! Examples to packed batches: shared prefixes once, no padding, and which examples a step sees.

use std::ops::Range;
use std::sync::Arc;

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
    /// The candidate that is right.
    pub label: usize,
    /// The possible answers.
    pub candidates: Vec<Candidate>,
    /// Whether it was too long.
    pub cut: bool,
}

impl Example {
    /// Tokenises a row. Longer than `max_length` is cut on the left, keeping the first token.
    ///
    /// A completion ends in the tokenizer's end token. One without a prompt is a whole text: all its tokens but the first are
    /// predicted, and it is cut on the right.
    pub fn encode(row: &PromptedRow, tokenizer: &Tokenizer, max_length: usize) -> Result<Self> {
        let prompt_len = tokenizer.encode(&row.prompt)?.len();
        let is_completion = row.answered.len() == 1;
        let is_whole = is_completion && row.prompt.is_empty();
        let mut cut = false;
        let candidates = row.answered.iter().map(|text| {
            let mut tokens = tokenizer.encode(text)?;
            let mut option_len = tokens.len().saturating_sub(prompt_len);
            if option_len == 0 && !is_whole {
                bail!("the answer adds no token to the prompt, so it cannot be scored: {}", end_of(text));
            }
            if let Some(end) = tokenizer.end().filter(|end| is_completion && tokens.last() != Some(end)) {
                tokens.push(end);
                option_len += 1;
            }
            cut |= tokens.len() > max_length;
            if is_whole {
                tokens.truncate(max_length);
                option_len = tokens.len().saturating_sub(1);
            }
            let tokens = cut_left(tokens, max_length);
            if option_len == 0 || option_len >= tokens.len() {
                bail!(
                    "an answer of {option_len} tokens leaves no room for a prompt in max_length {max_length}: {}",
                    end_of(text)
                );
            }
            Ok(Candidate { tokens, option_len })
        });
        let candidates = candidates.collect::<Result<_>>()?;
        Ok(Example { index: row.index, label: row.label, candidates, cut })
    }

    /// Tokenises rows, in order, and says how many of them were cut.
    pub fn encode_all(rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        let encode = |row: &PromptedRow| Self::encode(row, tokenizer, max_length).with_context(|| row.place.clone());
        let examples: Vec<Self> = rows.iter().map(encode).collect::<Result<_>>()?;
        let cut = examples.iter().filter(|e| e.cut).count();
        if cut > 0 {
            let side = if rows.iter().all(|row| row.prompt.is_empty()) { "right" } else { "left" };
            tracing::warn!("{cut} of {} prompts are longer than {max_length} tokens and were cut on the {side}", rows.len());
        }
        Ok(examples)
    }
}

/// The last of a text, for an error.
fn end_of(text: &str) -> String {
    let start = text.char_indices().rev().nth(60).map_or(0, |(i, _)| i);
    format!("{}{:?}", if start > 0 { "..." } else { "" }, &text[start..])
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
    pub(crate) queries: Range<usize>,
    pub(crate) shared: Range<usize>,
    pub(crate) own_start: usize,
}

impl QueryBlock {
    /// Queries in one block at most: bounds the scores that are held at a time.
    const LEN: usize = 64;

    /// Whether all rows it names are among `tokens`, and every query sees itself.
    pub(crate) fn is_within(&self, tokens: usize) -> bool {
        let (queries, shared) = (&self.queries, &self.shared);
        self.own_start <= queries.start
            && queries.start < queries.end
            && queries.end <= tokens
            && shared.start <= shared.end
            && shared.end <= tokens
    }

    /// Causal attention of `rows` over themselves, after all of `shared`.
    fn push(blocks: &mut Vec<Self>, rows: Range<usize>, shared: Range<usize>) {
        for start in rows.clone().step_by(Self::LEN) {
            let queries = start..rows.end.min(start + Self::LEN);
            blocks.push(QueryBlock { queries, shared: shared.clone(), own_start: rows.start });
        }
    }
}

/// A token whose log-probability is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Which of the batch's examples.
    pub example: usize,
    /// Which of the example's packed candidates.
    pub candidate: usize,
    /// The hidden state that predicts it: an index into [`Batch::states`].
    pub state: usize,
    /// The token's id.
    pub token: u32,
}

/// Examples packed one behind the other. Candidates of an example share their longest common prefix: it is there once,
/// each candidate's further tokens attend to it and to themselves. A candidate's last token is never an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids, one row of every activation each.
    pub tokens: Vec<u32>,
    /// Each token's place in its own candidate, from 0.
    pub positions: Vec<u32>,
    /// What every token attends to; each token is a query of one block.
    pub(crate) blocks: Arc<Vec<QueryBlock>>,
    /// Rows whose hidden states predict a token: only these reach the final norm and the vocabulary.
    pub states: Vec<u32>,
    /// The tokens whose log-probabilities are wanted: all answer tokens of all packed candidates.
    pub predictions: Vec<Prediction>,
    /// The packed examples.
    pub examples: Vec<PackedExample>,
}

/// An example as it stands in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedExample {
    /// How many of its candidates are there.
    pub num_candidates: usize,
    /// Which of those is the right one.
    pub right: usize,
}

/// Which candidates of each example are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Every one: what comparing them needs.
    All,
    /// The right one only: all that teacher forcing needs.
    Right,
}

impl Batch {
    /// Packs examples.
    pub fn pack<'a>(examples: impl IntoIterator<Item = &'a Example>, pick: Pick) -> Self {
        let mut batch = Batch::default();
        for example in examples {
            let (candidates, right) = match pick {
                Pick::All => (example.candidates.as_slice(), example.label),
                Pick::Right => (&example.candidates[example.label..=example.label], 0),
            };
            batch.push(candidates, right);
        }
        batch
    }

    /// One sequence with every state wanted: for looking at logits.
    pub fn sequence(tokens: &[u32]) -> Self {
        let mut batch = Batch::default();
        batch.append(tokens, 0);
        QueryBlock::push(Arc::make_mut(&mut batch.blocks), 0..tokens.len(), 0..0);
        batch.states = batch.positions.clone();
        batch
    }

    /// What every token attends to.
    pub fn blocks(&self) -> &Arc<Vec<QueryBlock>> {
        &self.blocks
    }

    /// How many tokens are fed to the model.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The same batch so many times, one after the other: each token sees its own copy's.
    pub fn repeated(&self, times: usize) -> Batch {
        let (tokens, states) = (self.tokens.len(), self.states.len());
        let shifted = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
        let block = |block: &QueryBlock, by: usize| QueryBlock {
            queries: shifted(&block.queries, by),
            shared: shifted(&block.shared, by),
            own_start: block.own_start + by,
        };
        let blocks = (0..times).flat_map(|n| self.blocks.iter().map(move |b| block(b, n * tokens))).collect();
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
            predictions: predictions.collect(),
            examples: self.examples.repeat(times),
        }
    }

    fn push(&mut self, candidates: &[Candidate], right: usize) {
        let inputs: Vec<&[u32]> = candidates.iter().map(|c| &c.tokens[..c.tokens.len() - 1]).collect();
        let prefix = common_prefix(&inputs);
        let base = self.tokens.len();
        self.append(&inputs[0][..prefix], 0);
        QueryBlock::push(Arc::make_mut(&mut self.blocks), base..base + prefix, base..base);
        for (candidate, input) in inputs.iter().enumerate() {
            let start = self.tokens.len();
            self.append(&input[prefix..], prefix);
            QueryBlock::push(Arc::make_mut(&mut self.blocks), start..self.tokens.len(), base..base + prefix);
            let Candidate { tokens, option_len } = &candidates[candidate];
            for (place, &token) in tokens.iter().enumerate().skip(tokens.len() - option_len) {
                // The token at `place` is predicted by the one before it.
                let row = if place <= prefix { base + place - 1 } else { start + place - 1 - prefix };
                let state = self.state(row as u32, base as u32);
                self.predictions.push(Prediction { example: self.examples.len(), candidate, state, token });
            }
        }
        self.examples.push(PackedExample { num_candidates: candidates.len(), right });
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
        Example { index: 0, label, candidates, cut: false }
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
        let of_second: Vec<_> =
            batch.predictions[5..].iter().map(|p| (p.candidate, batch.states[p.state], p.token)).collect();
        assert_eq!(of_second, [(0, 5, 30), (0, 6, 40), (0, 7, 41), (1, 5, 30), (1, 6, 50)]);
        assert_eq!(batch.blocks[1], QueryBlock { queries: 3..4, shared: 0..3, own_start: 3 });
        assert_eq!(batch.blocks.len(), 4);
        assert_eq!(Batch::pack([&a], Pick::Right).tokens, [2, 7, 30, 40]);
    }

    #[test]
    fn a_repeated_batch_is_that_of_the_examples_again() {
        let a = example(0, &[(&[2, 7, 30, 40, 41], 3), (&[2, 7, 30, 50], 2)]);
        let b = example(1, &[(&[2, 9, 8, 30], 1), (&[2, 9, 8, 31], 1)]);
        for pick in [Pick::All, Pick::Right] {
            assert_eq!(Batch::pack([&a, &b], pick).repeated(3), Batch::pack([&a, &b, &a, &b, &a, &b], pick));
        }
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
