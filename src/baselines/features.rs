//! The features of a linear probe: the model's last state where the answer begins.

use anyhow::{Result, bail};

use crate::data::{Batch, Candidate, Example, Pick};
use crate::model::Model;
use crate::params::Weights;

/// Rows of features with their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// [rows, width]
    pub values: Vec<f32>,
    /// The features of a row.
    pub width: usize,
    /// The label of each row, from 0.
    pub labels: Vec<usize>,
    /// The index of each row in its data file.
    pub indices: Vec<usize>,
}

impl Features {
    /// The last states of `examples`, `batch_size` of them per forward pass: after the final norm, at the last token of the prompt,
    /// which predicts the answer. `done` gets the number of examples so far; its error ends the work.
    ///
    /// Nothing of an example's label goes into its features: where the prompt ends is seen from its first candidate.
    pub fn of(
        model: &Model,
        weights: Weights,
        examples: &[Example],
        batch_size: usize,
        mut done: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut features = Features::default();
        for part in examples.chunks(batch_size) {
            let prompts: Vec<Example> = part.iter().map(prompt_of).collect();
            let batch = Batch::pack(&prompts, Pick::Right);
            let states = model.last_states(weights, &batch)?;
            let (rows, values) = (states.num_rows()?, states.to_vec()?);
            features.width = values.len() / rows;
            // Prompts that are the same are fed once.
            for prediction in &batch.predictions {
                let start = prediction.state * features.width;
                features.values.extend_from_slice(&values[start..start + features.width]);
            }
            features.labels.extend(part.iter().map(|example| example.label));
            features.indices.extend(part.iter().map(|example| example.index));
            done(features.labels.len())?;
        }
        match features.values.iter().position(|value| !value.is_finite()) {
            Some(at) => bail!(
                "the model's last state has a value that is not finite ({}), at the row of index {}; the weights are damaged, or they \
                 need another `dtype`",
                features.values[at],
                features.indices[at / features.width]
            ),
            None => Ok(features),
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }
}

/// The example with its prompt alone: one candidate of one token, which is predicted and not fed.
fn prompt_of(example: &Example) -> Example {
    let Candidate { tokens, option_len } = &example.candidates[0];
    let tokens = tokens[..=tokens.len() - option_len].to_vec();
    Example { label: 0, candidates: vec![Candidate { tokens, option_len: 1 }], ..example.clone() }
}
