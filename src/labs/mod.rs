//! Labs: functions with known gradients, trained by the same methods, loop and log as language models.

pub mod numbers;
mod meter;
mod function;
mod problem;
mod trained;
mod dataset;
mod synthetic;
mod nonconvex;
pub mod mnist;
mod args;
pub mod table;

pub use args::LabArgs;
pub use dataset::Dataset;
pub use function::{Function, Lab, Start};
pub use nonconvex::NonconvexLeastSquares;
pub use synthetic::{Form, StartDistribution, Synthetic};
pub use table::{LABS, LabConfig};
pub use trained::Trained;
