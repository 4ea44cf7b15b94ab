//! An example as a person reads it.

use std::fmt;

use serde::Serialize;

use super::example::{Candidate, Example};
use crate::data::task::PromptedRow;
use crate::data::tokenizer::Tokenizer;

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
        write!(f, "example {}{cut}: after {:?}", self.row, self.prompt)?;
        for (i, ShownCandidate { answer, tokens, before, scored }) in self.candidates.iter().enumerate() {
            let mark = if i == self.right { "->" } else { "  " };
            let ids = &tokens[tokens.len() - scored.len()..];
            let pieces: Vec<String> = scored.iter().zip(ids).take(40).map(|(piece, id)| format!("{piece} ({id})")).collect();
            let more = if scored.len() > 40 { " ..." } else { "" };
            let (before, pieces) = (before.join(" "), pieces.join(" "));
            write!(f, "\n     {mark} {answer:?}; of {} tokens scored after ... {before}: {pieces}{more}", tokens.len())?;
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
