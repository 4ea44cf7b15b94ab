//! What several tests need.

mod examples;
mod fixtures;
pub mod gguf;
pub mod hub_home;
mod least_squares;
mod parquet;
mod process;
mod random_llama;
pub mod rows;
mod runs;

pub use examples::{at, at_copies, example};
pub use fixtures::{FIXTURES, copy_all, copy_of, edit, fixture, fixture_json, numbers, open, tokens};
pub use least_squares::LeastSquares;
pub use parquet::{Column, write_parquet};
pub use process::{alone, call, done, says, shared, skipped, stderr, zotune};
pub use random_llama::Llama;
pub use runs::{Outcome, RUN, STEPS, json, names, outcome, workplace};
pub use zotune::labs::numbers::flat;
