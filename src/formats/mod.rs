//! File formats of other programs: safetensors, pickle, GGUF.

mod layout;
pub mod numbers;
pub mod limits;
pub mod rope;
pub mod gguf;
pub mod pickle;
pub mod weight_files;
mod checkpoint;

pub use checkpoint::Checkpoint;
pub use layout::{Layout, Strides};
pub use rope::Rope;
