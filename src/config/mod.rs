//! Every knob: as typed (a file with flags on top), then checked. Two types, so that nothing unchecked gets further.

mod limits;
mod trainable;
mod values;
pub mod args;
mod inputs;
pub mod run_config;
mod resume;

pub use args::{Common, RawArgs};
pub use inputs::Inputs;
pub use run_config::{RunConfig, Stage};
pub use trainable::TrainableArgs;
pub use values::{Fsync, Precision, Schedule};
