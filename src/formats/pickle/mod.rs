//! PyTorch state dicts, read without executing anything.

mod unpickle;
mod state_dict;

pub use state_dict::Pickle;
