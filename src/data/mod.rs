//! From data files to packed batches.

pub mod task;
pub mod tokenizer;
mod example;
mod batch;
mod shown;

pub use batch::{Batch, Pick, Prediction};
pub use example::{Candidate, Example};
pub use shown::Shown;
