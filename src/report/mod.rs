//! TODO

pub mod plot;
