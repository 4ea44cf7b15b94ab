//! A readable form of an example.

use std::fmt;

use serde::Serialize;

use super::example::{Candidate, Example};
use crate::data::task::PromptedRow;
use crate::data::tokenizer::Tokenizer;

/// A readable form of an example: its input, the tokens scored, the right answer. run.json holds the first training
/// example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// File and line of the row.
    pub row: String,
    /// The text before the answer.
    pub prompt: String,
    /// Whether tokens were truncated.
    pub cut: bool,
    /// Index of the right candidate, from 0.
    pub right: usize,
    /// All candidates.
    pub candidates: Vec<ShownCandidate>,
}

/// One answer of a [`Shown`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownCandidate {
    /// The text that follows the prompt.
    pub answer: String,
    /// All tokens, including the last one, which is predicted but not fed.
    pub tokens: Vec<u32>,
    /// The last few token pieces before the scored ones, as in the vocabulary.
    pub before: Vec<String>,
    /// The scored token pieces.
    pub scored: Vec<String>,
}

impl Shown {
    /// Of a row and the example made from it.
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
        let cut = if self.cut { " (too long, was cut)" } else { "" };
        write!(f, "example {}{cut}: prompt {:?}", self.row, self.prompt)?;
        for (i, ShownCandidate { answer, tokens, before, scored }) in self.candidates.iter().enumerate() {
            let mark = if i == self.right { "->" } else { "  " };
            let ids = &tokens[tokens.len() - scored.len()..];
            let pieces: Vec<String> = scored.iter().zip(ids).take(40).map(|(piece, id)| format!("{piece} ({id})")).collect();
            let more = if scored.len() > 40 { " ..." } else { "" };
            let (before, pieces) = (before.join(" "), pieces.join(" "));
            let (count, of) = (scored.len(), tokens.len());
            write!(
                f,
                "\n     {mark} answer {answer:?}: scored {count} of {of} tokens: {pieces}{more}; before them: ... {before}"
            )?;
        }
        Ok(())
    }
}

/// The beginning and the end of a long text.
fn clipped(text: &str) -> String {
    const SIDE: usize = 1000;
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= 2 * SIDE + 20 {
        return text.into();
    }
    let (start, end) = (chars[..SIDE].iter().collect::<String>(), chars[chars.len() - SIDE..].iter().collect::<String>());
    format!("{start} [... {} characters ...] {end}", chars.len() - 2 * SIDE)
}
