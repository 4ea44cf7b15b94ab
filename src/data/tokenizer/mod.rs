//! Text to token ids, identical to transformers on the same folder.

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
