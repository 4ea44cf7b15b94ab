//! The operations that models are made of, over packed tokens: activations in f32, weights in whatever they are held in.
//!
//! Each is a node of candle's graph with a backward of its own; its loops are in [`crate::device::cpu`]. On plain tensors nothing is
//! recorded. If an activation is a variable, candle's graph records the activations, and walking it back adds the gradients of weights to
//! where their [`Leaf`](crate::params::Leaf) says. So the forward pass of zeroth order and the one that is differentiated are the same code.
//!
//! If weights are read at several points, the rows of all activations are as many stretches of one length, one for each point. Nothing is
//! recorded then.

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
