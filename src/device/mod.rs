//! TODO

mod activation;
pub mod element;
pub mod numbers;
#[macro_use]
pub mod cpu;
pub mod bytes;
mod heads;
mod query_block;

pub use activation::Activation;
pub use element::Element;
pub use heads::{Heads, Scores};
pub use numbers::Numbers;
pub use query_block::QueryBlock;
