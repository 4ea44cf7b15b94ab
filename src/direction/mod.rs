//! Random directions: pure functions of seed, tensor name and index, never stored.

pub mod group;
pub mod seed;
pub mod term;
mod key;
pub mod sign;
pub mod threefry;
pub mod uniform;
pub mod normal;

pub use key::Key;
pub use term::{Direction, Term};
