//! Rows as text, their splits, and rows that occur in several splits.

use std::collections::HashSet;

use serde::Serialize;

use crate::base::Digest;

/// A row as text: prompt, candidate answers, and which is right.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptedRow {
    /// Its index among the rows of its file, from 0.
    pub index: usize,
    /// File and line, for errors.
    pub place: String,
    /// The prompt without an answer. Its trailing spaces belong to the answers, as in most vocabularies.
    pub prompt: String,
    /// Prompt and answer together, one per candidate. A single one is a completion, which ends with the text.
    pub answered: Vec<String>,
    /// Index of the right candidate.
    pub label: usize,
}

impl PromptedRow {
    /// Everything that is learnt from it; rows with the same content are repeats.
    fn content(&self) -> (&[String], usize) {
        (&self.answered, self.label)
    }

    /// The digest of its content.
    pub fn digest(&self) -> Digest {
        let texts = self.answered.iter().map(|text| Digest::of(text.as_bytes()));
        Digest::of_digests(&texts.chain([Digest(self.label as u64)]).collect::<Vec<_>>())
    }
}

/// The three splits of a task, as text or tokenised.
pub struct Splits<T = PromptedRow> {
    /// Training.
    pub train: Vec<T>,
    /// Choosing among weights.
    pub dev: Vec<T>,
    /// The reported scores.
    pub eval: Vec<T>,
}

/// How many rows of a split occur word for word, with the same right answer, in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// Dev rows that are in the training split.
    pub dev_in_train: usize,
    /// Evaluation rows that are in the training split.
    pub eval_in_train: usize,
    /// Evaluation rows that are in the dev split and not in the training split.
    pub eval_in_dev: usize,
}

impl Repeats {
    /// Counts the repeats among these splits.
    pub fn of(train: &[PromptedRow], dev: &[PromptedRow], eval: &[PromptedRow]) -> Self {
        let in_train: HashSet<_> = train.iter().map(PromptedRow::content).collect();
        let in_dev: HashSet<_> = dev.iter().map(PromptedRow::content).collect();
        let is_new = |row: &&PromptedRow| !in_train.contains(&row.content());
        let left = eval.iter().filter(is_new);
        Repeats {
            dev_in_train: dev.iter().filter(|row| !is_new(row)).count(),
            eval_in_train: eval.len() - left.clone().count(),
            eval_in_dev: left.filter(|row| in_dev.contains(&row.content())).count(),
        }
    }
}
