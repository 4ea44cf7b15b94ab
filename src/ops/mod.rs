//! The operations that models are made of: nodes of a graph.

mod tensors;
mod activation;
mod cap;
mod embed;
mod norm;
mod linear;
mod low_rank;
mod gated;
mod prefix;
mod attention;
mod rotary;
mod log_probs;

pub use activation::activated;
pub use attention::{PrefixRows, attention};
pub use cap::soft_cap;
pub use embed::embed;
pub use gated::gated;
pub use linear::{Part, linear, linear_onto};
pub use log_probs::log_probs;
pub use low_rank::{LowRank, add_low_rank};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use prefix::{Place, with_prefix};
pub use rotary::rotate;
