//! TODO

pub mod blocks;
mod header;
pub mod fields;
mod config;
mod vocabulary;
pub mod folder;
pub mod tensors;

pub use tensors::Listed;
