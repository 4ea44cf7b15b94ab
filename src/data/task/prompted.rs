//! A row as text, the splits of rows, and rows that stand in two of them.

use std::collections::HashSet;

use serde::Serialize;

use crate::base::Digest;

/// A row as text: its prompt, its candidate answers, and which of them is right.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptedRow {
    /// The row's place among the data rows of its file, from 0.
    pub index: usize,
    /// File and line, for errors.
    pub place: String,
    /// The prompt without an answer. Spaces that it ends in belong to the answers, as tokenizers have it.
    pub prompt: String,
    /// Prompt and answer together, one for each candidate. A single one is a completion, and ends where the text ends.
    pub answered: Vec<String>,
    /// The candidate that is right.
    pub label: usize,
}

impl PromptedRow {
    /// All that is learnt of it: two rows of the same are one, wherever they stand.
    fn content(&self) -> (&[String], usize) {
        (&self.answered, self.label)
    }

    /// Of all that is learnt of it.
    pub fn digest(&self) -> Digest {
        let texts = self.answered.iter().map(|text| Digest::of(text.as_bytes()));
        Digest::of_digests(&texts.chain([Digest(self.label as u64)]).collect::<Vec<_>>())
    }
}

/// The three splits of a task: as text, or tokenised.
pub struct Splits<T = PromptedRow> {
    /// What is trained on.
    pub train: Vec<T>,
    /// What chooses among weights.
    pub dev: Vec<T>,
    /// What is reported.
    pub eval: Vec<T>,
}

/// How many rows of a split stand word for word, with the same right answer, in others too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// Of dev's rows those in the training split.
    pub dev_in_train: usize,
    /// Of the evaluation rows those in the training split.
    pub eval_in_train: usize,
    /// Of the evaluation rows those in dev, and not in the training split.
    pub eval_in_dev: usize,
}

impl Repeats {
    /// Of these splits.
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
