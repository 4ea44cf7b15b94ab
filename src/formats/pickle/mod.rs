//! PyTorch state dicts, read without executing anything.

mod machine;
mod unpickle;
mod state_dict;

pub use state_dict::Pickle;
