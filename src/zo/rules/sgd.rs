//! SGD: theta <- theta - lr (g + weight_decay theta). g is a first-order gradient, a two-point estimate, or one of them per
//! weight.

use super::rule::{Equations, Kernel, kernel};
use crate::zo::step_context::StepContext;

/// No state.
pub struct Sgd;

impl Equations<0> for Sgd {
    const STATE: [&'static str; 0] = [];

    fn at(&self, step: &StepContext) -> impl Kernel<0> {
        let lr = step.learning_rate;
        kernel(
            #[inline(always)]
            move |theta, g: f32, []: [f32; 0]| (lr.mul_add(-g, theta), []),
        )
    }

    fn definition(&self) -> String {
        "theta -= lr g".into()
    }
}
