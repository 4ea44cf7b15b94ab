//! Rows to tokenised examples, and which of them a step sees.

use anyhow::{Context, Result, bail};

use crate::base::Digest;
use crate::data::task::PromptedRow;
use crate::data::tokenizer::Tokenizer;

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
    /// Of the row that it was made of ([`PromptedRow::digest`]).
    pub row: Digest,
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
                    "an answer of {option_len} tokens leaves no room for a prompt (`max_length` {max_length}): {}",
                    end_of(text)
                );
            }
            Ok(Candidate { tokens, option_len })
        });
        let candidates = candidates.collect::<Result<_>>()?;
        Ok(Example { index: row.index, label: row.label, candidates, cut, shortened, row: row.digest() })
    }

    /// Tokenises rows, in order, and says how many of them were cut.
    pub fn encode_all(rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        Self::encode_split("", rows, tokenizer, max_length)
    }

    /// The same of the split that is `called` so.
    pub fn encode_split(called: &str, rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        let of = if called.is_empty() { String::new() } else { format!("{called}: ") };
        let encode = |row: &PromptedRow| Self::encode(row, tokenizer, max_length).with_context(|| row.place.clone());
        let examples: Vec<Self> = rows.iter().map(encode).collect::<Result<_>>()?;
        let cut = examples.iter().filter(|e| e.cut).count();
        let shortened = examples.iter().filter(|e| e.shortened).count();
        if shortened > 0 {
            tracing::warn!(
                "{of}{shortened} of {} completions leave no room for a prompt in {max_length} tokens and were cut on the \
                 right: their ends are not used",
                rows.len()
            );
        }
        if cut > 0 {
            let side = if rows.iter().all(|row| row.prompt.is_empty()) { "right" } else { "left" };
            tracing::warn!(
                "{of}{cut} of {} prompts are longer than {max_length} tokens and were cut on the {side}",
                rows.len()
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_over_long_prompt_is_cut_on_the_left_keeping_the_first_token() {
        assert_eq!(cut_left(vec![2, 5, 6, 7, 8], 3), [2, 7, 8]);
        assert_eq!(cut_left(vec![2, 5], 3), [2, 5]);
    }
}
