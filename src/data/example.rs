//! Tokenised examples.

use anyhow::{Context, Result, bail};

use crate::base::Digest;
use crate::data::task::PromptedRow;
use crate::data::tokenizer::Tokenizer;

/// One tokenised candidate of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Prompt and answer, with the begin token.
    pub tokens: Vec<u32>,
    /// The number of answer tokens, the last ones: len(tokens(prompt + answer)) - len(tokens(prompt)).
    pub option_len: usize,
}

/// A tokenised example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row's index in its data file, from 0.
    pub index: usize,
    /// Index of the right candidate.
    pub label: usize,
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// Whether it was truncated.
    pub cut: bool,
    /// Whether the end of its completion was truncated.
    pub shortened: bool,
    /// The digest of its row ([`PromptedRow::digest`]).
    pub row: Digest,
}

impl Example {
    /// Tokenises a row. Sequences longer than `max_length` are truncated on the left after the first token. Fails if an
    /// answer adds no token or leaves no room for a prompt.
    ///
    /// A completion is followed by the tokenizer's end token. Without a prompt, all tokens but the first are predicted,
    /// and it is truncated on the right. So is a completion that leaves no room for its prompt, of which at most
    /// `max_length` / 2 tokens are kept.
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

    /// Tokenises rows in order, and warns of truncated ones.
    pub fn encode_all(rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        Self::encode_split("", rows, tokenizer, max_length)
    }

    /// The same for a split, whose name appears in the warnings.
    pub fn encode_split(called: &str, rows: &[PromptedRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Self>> {
        let of = if called.is_empty() { String::new() } else { format!("{called}: ") };
        let encode = |row: &PromptedRow| Self::encode(row, tokenizer, max_length).with_context(|| row.place.clone());
        let examples: Vec<Self> = rows.iter().map(encode).collect::<Result<_>>()?;
        let cut = examples.iter().filter(|e| e.cut).count();
        let shortened = examples.iter().filter(|e| e.shortened).count();
        if shortened > 0 {
            tracing::warn!(
                "{of}{shortened} of {} completions do not fit into {max_length} tokens with their prompts; their end was cut and is \
                 not used",
                rows.len()
            );
        }
        if cut > 0 {
            let (what, side) = match rows.iter().all(|row| row.prompt.is_empty()) {
                true => ("texts", "end"),
                false => ("prompts", "beginning"),
            };
            tracing::warn!("{of}{cut} of {} {what} do not fit into {max_length} tokens; their {side} was cut", rows.len());
        }
        Ok(examples)
    }
}

/// The end of a text, for an error.
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
