//! Random directions: pure functions of a seed, a tensor's name and an index. None is ever stored.

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
