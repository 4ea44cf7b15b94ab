//! Where a run shows its progress while it trains.

use anyhow::Result;
use indicatif::ProgressBar;

use super::log_line::LogLine;

/// Gets each line of trainer_log.jsonl as it is written.
pub type OnLine = Box<dyn FnMut(&LogLine) -> Result<()>>;

/// Where a run shows its progress while it trains.
pub struct Progress {
    /// The bar in a terminal.
    pub bar: ProgressBar,
    /// Gets the lines of the log that this process writes.
    pub on_line: Option<OnLine>,
    /// If the process makes a trial: the step after which it stops. It says nothing but what the bar shows.
    pub trial: Option<u64>,
}

impl Progress {
    /// Nowhere.
    pub fn hidden() -> Self {
        Progress { bar: ProgressBar::hidden(), on_line: None, trial: None }
    }
}
