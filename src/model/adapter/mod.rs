//! TODO

mod kind;
pub mod peft;
pub mod stored;

pub use kind::{Kind, Lora};
pub use stored::Adapter;
