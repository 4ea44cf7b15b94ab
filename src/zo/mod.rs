//! Zeroth-order optimisation: problems, estimators, update rules, and the table of methods that combine them.
//!
//! Nothing here depends on language models.

pub mod selection;
pub mod settings;
mod numbers;
mod step_context;
mod batches;
mod loss_sum;
mod problem;
pub mod score;
mod estimate;
mod estimator;
mod recorded;
mod workload;
pub mod estimators;
pub mod rules;
mod optimizer;
mod method;
pub mod methods;

pub use batches::Batches;
pub use estimate::{Estimate, SnapshotReport};
pub use estimator::{Estimated, Estimator};
pub use estimators::TwoPoint;
pub use loss_sum::LossSum;
pub use method::{Method, Order};
pub use methods::{METHODS, method};
pub use optimizer::Optimizer;
pub use problem::{Cost, Gradients, Objective, Problem};
pub use recorded::{RecordedProblem, ReplayOnly};
pub use rules::{Rule, Streamed};
pub use score::Answers;
pub use selection::Selection;
pub use settings::{Distribution, Preset, Settings, Sides};
pub use step_context::StepContext;
pub use workload::{Data, Score, Split, Workload};
