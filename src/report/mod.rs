//! A run's files as pictures.

pub mod plot;
