//! TODO

mod layout;
pub mod numbers;
pub mod limits;
pub mod rope;
pub mod gguf;
pub mod pickle;
pub mod weight_files;
mod checkpoint;

pub use checkpoint::Checkpoint;
pub use layout::Undo;
pub use rope::Rope;
