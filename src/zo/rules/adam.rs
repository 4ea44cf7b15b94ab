//! Adam with bias correction (Kingma and Ba 2015, arXiv 1412.6980). On an estimate: ZO-Bench's ZO-Adam (arXiv 2402.11592);
//! on a first-order gradient with decoupled weight decay: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
//!
//! ```text
//! m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
//! theta <- theta - lr [m / (1 - b1^t)] / (sqrt(v / (1 - b2^t)) + zeta)
//! ```

use super::rule::{Equations, Kernel, kernel};
use crate::zo::numbers::{f32_or, one_minus};
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: m and v.
#[derive(Clone, Copy)]
pub struct Adam {
    beta1: f32,
    beta2: f32,
    zeta: f32,
}

impl Adam {
    /// Defaults: b1 0.9, b2 0.999, zeta 1e-8.
    pub fn new(settings: &Settings) -> Self {
        let Settings { beta1, beta2, zeta, .. } = *settings;
        Adam { beta1: f32_or(beta1, 0.9), beta2: f32_or(beta2, 0.999), zeta: f32_or(zeta, 1e-8) }
    }
}

impl Equations<2> for Adam {
    const STATE: [&'static str; 2] = ["m", "v"];

    fn at(&self, step: &StepContext) -> impl Kernel<2> {
        let (Adam { beta1, beta2, zeta }, lr, t) = (*self, step.learning_rate, step.step as i32);
        let [correction1, correction2] = [beta1, beta2].map(|beta| (1.0 - f64::from(beta).powi(t)) as f32);
        kernel(
            #[inline(always)]
            move |theta, g, [m, v]: [f32; 2]| {
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * (g * g);
                (theta - lr * (m / correction1) / ((v / correction2).sqrt() + zeta), [m, v])
            },
        )
    }

    fn definition(&self) -> String {
        let Adam { beta1, beta2, zeta } = self;
        let (c1, c2) = (one_minus(*beta1), one_minus(*beta2));
        format!("m = {beta1} m + {c1} g; v = {beta2} v + {c2} g^2; bias-corrected; theta -= lr m / (sqrt(v) + {zeta:e})")
    }
}
