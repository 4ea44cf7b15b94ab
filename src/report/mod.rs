//! Plots of a run.

pub mod plot;
mod events;
pub mod tensorboard;
