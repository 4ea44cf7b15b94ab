//! A checked config, its task, and the task's examples.

use anyhow::Result;

use super::trajectory::Log;
use crate::base::text::shell_quoted;
use crate::base::{Differs, Diverged, Interrupted, NotFinite, Usage};
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

/// An error of a run that can go on, with how: `stopped` says when it came. Errors that say it themselves pass unchanged.
pub(super) fn with_resume_command(error: anyhow::Error, stopped: &str, config: &RunConfig) -> anyhow::Error {
    let says_so = error
        .chain()
        .any(|e| e.is::<Interrupted>() || e.is::<NotFinite>() || e.is::<Diverged>() || e.is::<Differs>() || e.is::<Usage>());
    match says_so {
        true => error,
        false => error.context(format!("{stopped}; correct the fault below, then {}", resume_command(config))),
    }
}

/// What training returned, an error with how the run of `log` can go on.
pub(super) fn with_place<T>(trained: Result<T>, log: &Log, config: &RunConfig) -> Result<T> {
    trained.map_err(|error| {
        let stopped = format!("stopped after step {}", log.trajectory().steps());
        with_resume_command(error, &stopped, config)
    })
}

/// The command that continues a run.
pub fn resume_command(config: &RunConfig) -> String {
    format!("continue with: zotune train --resume {}", shell_quoted(&config.output_dir.to_string_lossy()))
}
