//! The operations of models, over packed tokens: activations in f32, weights in storage precision.
//!
//! Each is a node of candle's graph with its own backward pass; its loops are in [`crate::device::cpu`]. On plain tensors
//! nothing is recorded. From a variable on, candle's graph records the activations, and its backward pass adds the weights'
//! gradients through [`Leaf`](crate::params::Leaf). So zeroth-order and differentiated forward passes run the same code.
//!
//! At several points, activations have one block of rows per point, of equal length and in order; nothing is recorded then.

mod tensors;
mod activation;
mod attention;
mod cap;
mod embed;
mod gated;
mod linear;
mod log_probs;
mod low_rank;
mod norm;
mod prefix;
mod rotary;

pub use activation::activated;
pub use attention::attention;
pub use cap::soft_cap;
pub use embed::embed;
pub use gated::gated;
pub use linear::{Part, linear, linear_onto};
pub use log_probs::log_probs;
pub use low_rank::{LowRank, add_low_rank};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use prefix::{Place, with_prefix};
pub use rotary::rotate;
