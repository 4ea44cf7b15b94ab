//! What is to be done: a checked config, its task, and the task's examples.

use crate::base::text::shell_quoted;
use crate::config::RunConfig;
use crate::data::Example;
use crate::data::task::{Splits, Task};

/// A language task to train on.
pub struct Job {
    /// The config.
    pub config: RunConfig,
    /// Where the examples and their loss come from.
    pub task: Task,
    /// The examples.
    pub examples: Splits<Example>,
}

/// The command that goes on with a run.
pub fn resume_command(config: &RunConfig) -> String {
    format!("continue with: zotune train --resume {}", shell_quoted(&config.output_dir.to_string_lossy()))
}
