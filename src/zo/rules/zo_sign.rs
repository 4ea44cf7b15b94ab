//! ZO-signSGD: theta <- theta - lr sign(g), elementwise (Liu et al. 2019, ICLR).

use super::rule::{Equations, Kernel, kernel};
use crate::zo::step_context::StepContext;

/// No state, but a fused pass: the sign is not linear in the directions.
pub struct ZoSign;

impl Equations<0> for ZoSign {
    const STATE: [&'static str; 0] = [];

    fn at(&self, step: &StepContext) -> impl Kernel<0> {
        let lr = step.learning_rate;
        kernel(
            #[inline(always)]
            move |theta, g, []: [f32; 0]| {
                let sign = if g > 0.0 { 1.0 } else { 0.0 } - if g < 0.0 { 1.0 } else { 0.0 };
                (lr.mul_add(-sign, theta), [])
            },
        )
    }

    fn definition(&self) -> String {
        "theta -= lr sign(g), coordinate by coordinate".into()
    }
}
