//! Devices: buffers, activations, and the CPU's loops over them.

mod element;
#[macro_use]
mod buffer;
mod array;
mod activation;
mod activations;
mod heads;
mod query_block;
#[macro_use]
pub mod cpu;

pub use activation::Activation;
pub use activations::{Activations, Variable};
pub use array::Array;
pub use buffer::{Buffer, BufferElement, View, ViewMut, zeros};
pub use element::Element;
pub use heads::{Heads, Scores};
pub use query_block::QueryBlock;
