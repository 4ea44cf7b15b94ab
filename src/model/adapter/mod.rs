//! Adapters: what is trained in a model's place, written and read as PEFT does.

mod kind;
pub mod peft;
pub mod stored;

pub use kind::{AdapterKind, Lora};
pub use stored::Adapter;
