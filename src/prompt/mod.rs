//! Language tasks as optimisation problems: the prompt loss over a language model, its metric, the workload.

pub mod loss;
pub mod prompt_loss;
pub mod evaluate;
pub mod language_task;

pub use evaluate::{Evaluation, Scored};
pub use language_task::LanguageTask;
pub use loss::Score;
pub use prompt_loss::PromptLoss;
