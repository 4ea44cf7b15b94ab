//! Text to token ids, as transformers makes them of the same folder.

pub mod tables;
mod bounds;
mod read_json;
mod class;
mod file;
mod settings;
mod steps;
mod build;
mod encode;

pub use encode::Tokenizer;
