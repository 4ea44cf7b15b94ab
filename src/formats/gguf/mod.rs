//! GGUF files, llama.cpp's: one file with a model's weights, sizes and vocabulary, read as the folder that it stands for.

pub mod blocks;
mod header;
pub mod fields;
mod config;
mod vocabulary;
pub mod folder;
pub mod tensors;

pub use tensors::Listed;
