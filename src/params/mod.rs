//! The weights: ordered, named, and written nowhere else.
//!
//! [`Params::perturb`] and [`Params::shrink`] only append a move to a list. [`Params::settle`] applies the list in one
//! in-place pass and returns [`Weights`], the only way to read the weights, so they are never read with moves pending.
//! [`Weights::at`] reads them at [`Points`] near theta without changing theta.

mod role;
mod gradient;
mod recorder;
mod leaf;
mod points;
mod param;
mod weights;
pub mod digest;
mod state;
mod pending;
mod in_place;
mod store;
mod share;
pub mod file;

pub use file::Stored;
pub use gradient::Gradient;
pub use leaf::Leaf;
pub use points::Points;
pub use recorder::Recorder;
pub use role::{ParamId, ParamSet, Role};
pub use state::{Slot, State, StateDtype, Visit};
pub use store::{Params, UpdateInput};
pub use weights::Weights;
