//! A checked config, its task, and the task's examples.

use crate::base::text::shell_quoted;
use crate::config::RunConfig;
use crate::data::Example;
use crate::data::task::{Splits, Task};

/// A language task to train on.
pub struct Job {
    /// The checked config.
    pub config: RunConfig,
    /// Turns rows into prompts, and defines the loss.
    pub task: Task,
    /// The tokenised splits.
    pub examples: Splits<Example>,
}

/// The command that continues a run.
pub fn resume_command(config: &RunConfig) -> String {
    format!("continue with: zotune train --resume {}", shell_quoted(&config.output_dir.to_string_lossy()))
}
