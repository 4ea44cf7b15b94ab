//! Functions with a known gradient and a known minimum, trained as language models are: no language model in them.

pub mod numbers;
mod least_squares;
mod lab;

pub use lab::Lab;
pub use least_squares::LeastSquares;
