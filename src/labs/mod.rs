//! Functions with known gradient and minimum, trained like language models; for tests of the optimisers.

pub mod numbers;
mod least_squares;
mod lab;

pub use lab::Lab;
pub use least_squares::LeastSquares;
