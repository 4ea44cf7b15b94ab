//! GGUF files of llama.cpp, read as folders in Hugging Face layout.

pub mod blocks;
mod header;
pub mod fields;
mod config;
mod vocabulary;
pub mod folder;
pub mod tensors;

pub use tensors::GgufTensor;
