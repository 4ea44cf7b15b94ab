//! TODO

mod unpickle;
mod state_dict;

pub use state_dict::{Pickle, Spread};
