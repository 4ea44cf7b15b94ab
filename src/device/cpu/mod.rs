//! The CPU's loops: what is computed number by number, compiled for each instruction set and shared out over the threads.

#[macro_use]
pub mod simd;
pub mod convert;
pub mod activation;
pub mod cap;
pub mod matrix;
mod source;
pub mod walk;
pub mod drawn;
pub mod gram;
pub mod displaced;
pub mod small;
pub mod update;
pub mod tile;
pub mod pairs;
pub mod transpose;
pub mod product;

pub use displaced::Displaced;
pub use matrix::{Matrix, Shared};
pub use product::{Layer, Panels};
pub use simd::Machine;
pub use small::Small;
pub use tile::{Rows, Unit};
pub use update::{Held, Kernel};
pub use walk::Leg;
