//! The CPU's loops, compiled for each instruction set and parallel over threads.
//!
//! Every parallel loop gives each output element to one thread and a fixed order of additions, so results have the same
//! bits for any number of threads.

#[macro_use]
pub mod simd;
pub mod fused;
pub mod math;
pub mod convert;
pub mod activation;
pub mod cap;
pub mod gated;
pub mod log_probs;
pub mod rotary;
pub mod matrix;
pub mod linear;
mod source;
pub mod moves;
pub mod drawn;
pub mod gram;
pub mod displaced;
pub mod update;
pub mod points;
pub mod small;
pub mod norm;
pub mod low_rank;
pub mod embed;
pub mod tile;
mod amx;
pub mod pairs;
pub mod transpose;
pub mod product;
pub mod attention;
pub mod conv;

pub use displaced::Displaced;
pub use matrix::{Matrix, SharedMut};
pub use moves::AffineMove;
pub use product::{Layer, Panels};
pub use simd::Machine;
pub use small::SmallWeight;
pub use tile::{Rows, VectorUnit};
pub use update::{Kernel, StateSlice};
