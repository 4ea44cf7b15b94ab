//! TODO

mod kind;
pub mod peft;
pub mod stored;

pub use kind::{AdapterKind, Lora};
pub use stored::Adapter;
