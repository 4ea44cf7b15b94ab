//! The trajectory of a run: the function values of its steps, a few numbers per step.
//!
//! Seeds, batches and learning rates follow from the config and the step, so a step's estimate, its (seed, coefficient)
//! pairs, follows from its function values. Base weights, header and values determine the weights of every step, bit
//! for bit.

pub mod record;
mod header;
mod steps;
mod framing;
pub mod export;
mod open;
mod checks;
mod flusher;
mod log;

pub use header::{Header, Weight, version};
pub use log::Log;
pub use record::{Done, Record, Scored};
pub use steps::Trajectory;
