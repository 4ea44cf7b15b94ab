//! A run: from a checked config to a trained model, through interruptions and resumes, and its replay.

pub mod log_line;
pub mod pace;
pub mod progress;
mod divergence;
pub mod rates;
pub mod learning;
mod loaded;
pub mod setup;
pub mod trajectory;
pub mod replay;
mod early_stopping;
mod journal;
mod results;
pub mod checkpoint;
pub mod folder;
pub mod job;
mod session;
mod failure;
pub mod train;
mod disk;
mod trial;
pub mod forecast;
pub mod known;
pub mod start;
pub mod rate_search;

pub use folder::Claim;
pub use forecast::{Comparison, Forecast};
pub use job::Job;
pub use learning::Verdict;
pub use loaded::LoadedModel;
pub use pace::Pace;
pub use progress::Progress;
pub use rates::TriedRate;
pub use results::{Memory, Results};
pub use start::{PlannedRun, Resumed, Run, Unfinished};
pub use train::train;
