//! The sections of a task file.

use anyhow::{Result, bail};
use serde::Deserialize;

use super::hub::HubSection;
use super::kinds::{Loss, Metric, Sizes};
use super::rows::Format;

/// A task file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    pub description: String,
    pub loss: Loss,
    pub metric: Metric,
    pub data: DataSection,
    pub prompt: PromptSection,
    pub label: Option<LabelSection>,
    pub hub: Option<HubSection>,
    #[serde(default)]
    pub splits: Sizes,
}

/// [data]: the data set's files as its authors distribute them.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    pub format: Format,
    pub train: String,
    pub eval: String,
    pub builtin: Option<String>,
}

/// [prompt]: templates over the columns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSection {
    pub template: String,
    pub candidates: Vec<String>,
}

/// [label]: the column of the right answer, and the candidates' labels in order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSection {
    pub column: String,
    pub values: Vec<String>,
}

impl TaskFile {
    /// Checks that its sections are consistent.
    pub fn check(&self) -> Result<()> {
        let num_candidates = self.prompt.candidates.len();
        let Some(label) = &self.label else {
            if num_candidates != 1 {
                bail!("[label] is missing: it says which of the {num_candidates} candidates is right");
            }
            if (self.loss, self.metric) != (Loss::TeacherForcing, Metric::Loss) {
                bail!("a single candidate is a completion, which needs loss = \"teacher-forcing\" and metric = \"loss\"");
            }
            return self.hub.as_ref().map_or(Ok(()), HubSection::check);
        };
        if num_candidates < 2 {
            bail!("[prompt] candidates: a choice needs at least two; a completion needs one, and no [label]");
        }
        if self.metric == Metric::Loss {
            bail!("metric = \"loss\" is for a single candidate; for a choice use metric = \"accuracy\"");
        }
        let of_hub = self.hub.as_ref().and_then(|hub| hub.labels.as_ref());
        for (section, values) in
            std::iter::once(("[label] values", &label.values)).chain(of_hub.map(|l| ("[hub] labels", l)))
        {
            if values.len() != num_candidates {
                bail!("{section}: {} for {num_candidates} candidates", values.len());
            }
            if let Some((_, twice)) = values.iter().enumerate().find(|(i, v)| values[..*i].contains(v)) {
                bail!("{section}: \"{twice}\" occurs twice");
            }
        }
        self.hub.as_ref().map_or(Ok(()), HubSection::check)
    }
}
