//! Tasks whose answers are classes: the same answers for every row.

use anyhow::{Context, Result};
use serde_json::Value;

use super::definition::Task;
use super::files::Files;
use super::kinds::Part;
use super::prompted::PromptedRow;
use super::row_file::RowFile;
use crate::base::text::listed;

impl Task {
    /// Fails with a usage error, which says that `what` needs answers to choose from, if each row has a single completion.
    pub fn check_choices(&self, what: &str) -> Result<()> {
        match self.num_candidates {
            1 => Err(usage!(
                "{what} needs a task with answers to choose from; the rows of {} have one completion each",
                self.name
            )),
            _ => Ok(()),
        }
    }

    /// The number of classes. A usage error, which says that `what` needs them, if each row has answers of its own, or only one.
    pub fn classes(&self, what: &str) -> Result<usize> {
        match (self.num_candidates, self.has_own_answers) {
            (1, _) => Err(usage!(
                "{what} needs a task with classes; the rows of {} have one completion each, and nothing to choose from",
                self.name
            )),
            (_, true) => Err(usage!(
                "{what} needs a task with classes; each row of {} has answers of its own, so they are no classes",
                self.name
            )),
            (count, false) => Ok(count),
        }
    }

    /// Fails if one of the classes does not occur among the training rows: nothing can be fitted to it.
    pub fn check_every_class(&self, train: &[PromptedRow]) -> Result<()> {
        let is_missing = |class: &usize| !train.iter().any(|row| row.label == *class);
        let missing: Vec<String> = (0..self.num_candidates).filter(is_missing).map(|class| self.answer(class)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(usage!(
            "none of the training rows ({}) has the label {}, so nothing can be fitted for it; take more rows with `num_train`, or \
             draw others with `train_set_seed`",
            train.len(),
            listed(missing.iter().map(String::as_str))
        ))
    }

    /// A row without content: the first row of the evaluation file with `text` in place of every value that the templates use.
    ///
    /// A list is an error, because its length is content. The row keeps its label, which means nothing.
    pub fn content_free(&self, files: &Files, text: &str) -> Result<PromptedRow> {
        let file = RowFile::open(self, files, Part::Eval)?;
        let mut row = file.take(&[0])?.pop().context("the file has no row")?;
        let label = self.label.as_ref().map(|label| &label.column);
        for (column, value) in row.fields.iter_mut() {
            if self.columns.contains(column) && Some(column) != label {
                empty(value, text).with_context(|| format!("the column \"{column}\" of {}", self.name))?;
            }
        }
        file.prompts(&[row])?.pop().context("a row without a prompt")
    }
}

/// Writes `text` in place of a value, or of each value in an object.
fn empty(value: &mut Value, text: &str) -> Result<()> {
    match value {
        Value::Object(fields) => fields.values_mut().try_for_each(|value| empty(value, text)),
        Value::Array(_) => Err(usage!("it holds lists, so there is no row without content")),
        value => {
            *value = text.into();
            Ok(())
        }
    }
}
