//! # zotune
//!
//! Fine-tunes language models with forward passes alone (zeroth-order optimisation). Three invariants:
//!
//! 1. A zeroth-order gradient is **never a tensor**. It is a short list of `(seed, coefficient)` pairs.
//! 2. An update applies that list in **one in-place pass** over the weights and regenerates each direction on the fly.
//! 3. The trajectory of a run **is the log of those lists**.
//!
//! Modules are listed in reading order: each uses only those above it, which a test enforces.

#[macro_use]
pub mod base;
pub mod hub;
pub mod direction;
#[macro_use]
pub mod device;
pub mod params;
pub mod zo;
pub mod labs;
pub mod data;
pub mod ops;
pub mod formats;
pub mod model;
pub mod prompt;
pub mod baselines;
pub mod config;
pub mod run;
pub mod report;
pub mod sweep;
pub mod cli;
