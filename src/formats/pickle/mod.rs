//! State dicts as PyTorch pickles them, read by a bounded reader of our own.

mod unpickle;
mod state_dict;

pub use state_dict::Pickle;
