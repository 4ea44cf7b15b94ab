//! # zotune
//!
//! Fine-tunes language models with forward passes alone. Three sentences carry the design:
//!
//! 1. A zeroth-order gradient is **never a tensor**. It is a short list of `(seed, coefficient)` pairs.
//! 2. An update consumes that list in **one in-place pass** over the weights, drawing each direction again where it is
//!    used.
//! 3. The trajectory of a run **is the log of those lists**.
//!
//! The modules below stand in reading order: each uses only what stands above it, and a test keeps it so.

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
pub mod config;
pub mod run;
pub mod report;
pub mod cli;
