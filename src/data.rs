//! Rows to tokenised examples, and which of them a step sees.

use std::fmt;

use anyhow::{Context, Result, bail};
use serde::Serialize;

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
    /// Whether what was cut is the end of its completion.
    pub shortened: bool,
}

impl Example {
    /// Tokenises a row. Longer than `max_length` is cut on the left, keeping the first token.
    ///
    /// A completion ends in the tokenizer's end token. One without a prompt is a whole text: all its tokens but the first are
    /// predicted, and it is cut on the right; so is a completion that would leave no room for a prompt, of which the last half of
    /// `max_length` stays at most.
    pub fn encode(row: &PromptedRow, tokenizer: &Tokenizer, max_length: usize) -> Result<Self> {
        let prompt_len = tokenizer.encode(&row.prompt)?.len();
        let is_completion = row.answered.len() == 1;
        let is_whole = is_completion && row.prompt.is_empty();
        let (mut cut, mut shortened) = (false, false);
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
            if is_completion && !is_whole && option_len >= max_length && max_length > 1 {
                let kept = (tokens.len() - option_len).min((max_length / 2).max(1));
                tokens.truncate(tokens.len() - (option_len + kept - max_length));
                option_len = max_length - kept;
                shortened = true;
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
        Ok(Example { index: row.index, label: row.label, candidates, cut, shortened })
    }

    /// Tokenises rows, in order, and says how many of them were cut.
    pub fn encode_all(rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        let encode = |row: &PromptedRow| Self::encode(row, tokenizer, max_length).with_context(|| row.place.clone());
        let examples: Vec<Self> = rows.iter().map(encode).collect::<Result<_>>()?;
        let cut = examples.iter().filter(|e| e.cut).count();
        let shortened = examples.iter().filter(|e| e.shortened).count();
        if shortened > 0 {
            tracing::warn!(
                "{shortened} of {} completions leave no room for a prompt in {max_length} tokens and were cut on the right: their ends \
                 are not seen",
                rows.len()
            );
        }
        if cut > 0 {
            let side = if rows.iter().all(|row| row.prompt.is_empty()) { "right" } else { "left" };
            tracing::warn!("{cut} of {} prompts are longer than {max_length} tokens and were cut on the {side}", rows.len());
        }
        Ok(examples)
    }
}

/// An example as a person reads it: what is fed, what is scored of it, and which answer is right. Run.json keeps the first that a run sees.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The row's file and line.
    pub row: String,
    /// What stands in front of the answer.
    pub prompt: String,
    /// Whether it was too long, and tokens were left out.
    pub cut: bool,
    /// Which of the candidates is right, from 0.
    pub right: usize,
    /// Every answer.
    pub candidates: Vec<ShownCandidate>,
}

/// One answer of a [`Shown`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownCandidate {
    /// What the answer adds to the prompt.
    pub answer: String,
    /// All tokens that are fed, the answer's last one too, which is only scored.
    pub tokens: Vec<u32>,
    /// The last few pieces in front of what is scored, as the tokenizer writes them.
    pub before: Vec<String>,
    /// The pieces that are scored: the last tokens.
    pub scored: Vec<String>,
}

impl Shown {
    /// Of a row and the example that was made of it.
    pub fn of(row: &PromptedRow, example: &Example, tokenizer: &Tokenizer) -> Self {
        const FEW: usize = 8;
        let candidate = |(text, candidate): (&String, &Candidate)| {
            let Candidate { tokens, option_len } = candidate;
            let (before, scored) = tokens.split_at(tokens.len() - option_len);
            ShownCandidate {
                answer: clipped(text.strip_prefix(&row.prompt).unwrap_or(text)),
                tokens: tokens.clone(),
                before: tokenizer.pieces(&before[before.len().saturating_sub(FEW)..]),
                scored: tokenizer.pieces(scored),
            }
        };
        Shown {
            row: row.place.clone(),
            prompt: clipped(&row.prompt),
            cut: example.cut,
            right: example.label,
            candidates: row.answered.iter().zip(&example.candidates).map(candidate).collect(),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let cut = if self.cut { ", too long and cut" } else { "" };
        write!(f, "example {}{cut}: behind {:?}", self.row, self.prompt)?;
        for (i, ShownCandidate { answer, tokens, before, scored }) in self.candidates.iter().enumerate() {
            let mark = if i == self.right { "->" } else { "  " };
            let ids = &tokens[tokens.len() - scored.len()..];
            let pieces: Vec<String> = scored.iter().zip(ids).take(40).map(|(piece, id)| format!("{piece} ({id})")).collect();
            let more = if scored.len() > 40 { " ..." } else { "" };
            let (before, pieces) = (before.join(" "), pieces.join(" "));
            write!(f, "\n     {mark} {answer:?}; of {} tokens scored behind ... {before}: {pieces}{more}", tokens.len())?;
        }
        Ok(())
    }
}

/// A long text's beginning and end.
fn clipped(text: &str) -> String {
    const SIDE: usize = 1000;
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= 2 * SIDE + 20 {
        return text.into();
    }
    let (start, end) = (chars[..SIDE].iter().collect::<String>(), chars[chars.len() - SIDE..].iter().collect::<String>());
    format!("{start} [... {} characters ...] {end}", chars.len() - 2 * SIDE)
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

    /// The first example that a run sees.
    pub fn first(num_examples: usize, seed: u64) -> usize {
        Batches::new(num_examples, 1, seed).example(0)
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
