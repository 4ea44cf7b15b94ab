//! What a model gives without training: its scores with a shift for each class, its scores after examples in the prompt, and a linear
//! probe on its last state.

mod judgement;
mod shifts;
pub mod calibration;
mod in_context;
mod features;
mod products;
pub mod logistic;
pub mod probe;

pub use calibration::{Calibrated, Calibration};
pub use features::Features;
pub use in_context::Demonstrations;
pub use judgement::Judgement;
pub use logistic::{LogisticRegression, Standard};
pub use probe::Probe;
pub use shifts::Shifts;
