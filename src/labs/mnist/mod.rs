//! MNIST: its files, networks that classify its images, and the attack on one of them.

mod idx;
mod parquet;
mod images;
mod network;
mod passes;
mod classifier;
mod bound;
mod picture;
mod victim;
mod attack;

pub use attack::{Attack, Target, check, unfit};
pub use classifier::{Classifier, Draw};
pub use images::{CLASSES, DATASET, Files, IMAGE, Images, SIDE};
pub use network::Network;
pub use passes::{Trace, add_gradient, input_gradient, logits, trace};
