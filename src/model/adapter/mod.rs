//! Adapters, trained in place of the model's own weights and stored in PEFT's format.

mod kind;
pub mod peft;
pub mod stored;

pub use kind::{AdapterKind, Lora};
pub use stored::Adapter;
