//! ZO-SGD with momentum: m <- b m + g; theta <- theta - lr m (ZO-Bench, arXiv 2402.11592).

use super::rule::{Equations, Kernel, kernel};
use crate::zo::numbers::f32_or;
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: m.
pub struct ZoSgdMomentum {
    momentum: f32,
}

impl ZoSgdMomentum {
    /// b is `momentum`, default 0.9.
    pub fn new(settings: &Settings) -> Self {
        ZoSgdMomentum { momentum: f32_or(settings.momentum, 0.9) }
    }
}

impl Equations<1> for ZoSgdMomentum {
    const STATE: [&'static str; 1] = ["m"];

    fn at(&self, step: &StepContext) -> impl Kernel<1> {
        let (b, lr) = (self.momentum, step.learning_rate);
        kernel(
            #[inline(always)]
            move |theta, g, [m]: [f32; 1]| {
                let m = b.mul_add(m, g);
                (lr.mul_add(-m, theta), [m])
            },
        )
    }

    fn definition(&self) -> String {
        format!("m = {} m + g; theta -= lr m", self.momentum)
    }
}
