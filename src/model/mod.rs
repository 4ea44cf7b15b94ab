//! Language models over [`Params`](crate::params::Params): from a folder to log-probabilities of packed batches.
//!
//! A model holds handles ([`ParamId`](crate::params::ParamId)) and reads the weights through [`Weights`](crate::params::Weights).

pub mod adapter;
mod segment;
mod linear;
mod head;
mod packed;
mod loader;
mod architecture;
pub mod arch;
mod config_fields;
pub mod kinds;
pub mod builtin;
pub mod lm;
mod log_probs;
mod backward;
pub mod save;
pub mod source;

pub use architecture::{Architecture, Shape};
pub use backward::Backward;
pub use head::Head;
pub use linear::Linear;
pub use lm::Model;
pub use loader::Loader;
pub use packed::Packed;
pub use segment::{Place, Segment};
