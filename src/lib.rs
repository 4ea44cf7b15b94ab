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
pub mod error;
pub mod stop;
pub mod files;
pub mod fields;
pub mod hub;
pub mod memory;
pub mod pace;
#[macro_use]
pub mod simd;
pub mod element;
pub mod task;
pub mod config;
pub mod tokenizer;
pub mod noise;
pub mod data;
pub mod batch;
pub mod params;
pub mod digest;
pub mod model;
pub mod loss;
pub mod objective;
pub mod estimator;
pub mod optim;
pub mod trajectory;
pub mod setup;
pub mod replay;
pub mod eval;
pub mod report;
pub mod divergence;
pub mod journal;
pub mod checkpoint;
pub mod folder;
pub mod results;
pub mod run;
pub mod forecast;
pub mod cli;
