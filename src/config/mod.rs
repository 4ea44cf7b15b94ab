//! The options: as given ([`RawArgs`], a file overlaid with flags), then checked ([`RunConfig`], [`Inputs`]). Separate
//! types keep unchecked values out of the program.

mod limits;
mod trainable;
mod values;
pub(crate) mod offered;
pub mod args;
mod inputs;
mod labs;
pub mod run_config;
mod resume;

pub use args::{Common, RawArgs};
pub use inputs::Inputs;
pub use resume::OF_THE_RECORD;
pub use run_config::{RunConfig, Stage};
pub use trainable::TrainableArgs;
pub use values::{Fsync, LearningRate, Precision, Schedule, Tracker};
