//! Plots of a run.

pub mod plot;
