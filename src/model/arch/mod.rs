//! The architectures: each from its config.json to a model of handles.

pub mod design;
pub mod gemma;
mod llama;
pub mod opt;
pub mod qwen;

pub use design::{Design, LlamaConfig};
pub use gemma::GemmaConfig;
pub use llama::Llama;
pub use opt::Opt;
pub use qwen::QwenConfig;
