//! Used by all rooms: errors, signals, atomic files, hashes, memory accounting.

#[macro_use]
pub mod errors;
#[macro_use]
mod typed;
pub mod text;
pub mod fields;
mod source;
pub mod files;
pub mod hash;
pub mod memory;
pub mod numbers;
pub mod panics;
pub mod permutation;
mod signals;

pub use errors::{Differs, Diverged, Interrupted, NotFinite, Usage};
pub use fields::{Field, Table, Use};
pub use hash::Digest;
pub use memory::{Counting, Mark, Peaks, SetAside};
pub use signals::Stop;
pub use source::{ReadSeek, Source};
