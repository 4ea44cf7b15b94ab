//! Rows to tokenised examples, and which of them a step sees.

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
