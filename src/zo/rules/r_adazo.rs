//! R-AdaZO, Algorithm 2 of "Refining Adaptive Zeroth-Order Optimization at Ease" (Shu et al. 2025, arXiv 2502.01014).
//!
//! ```text
//! m_t <- b1 m_{t-1} + (1 - b1) g_t
//! v_t <- b2 v_{t-1} + (1 - b2) m_t^2
//! theta_t <- theta_{t-1} - lr m_t / sqrt(v_t + zeta)
//! ```
//!
//! The second moment is that of the *updated first moment*. Bias correction is omitted on purpose: it would undo part of the
//! variance reduction. The first step moves every weight by lr / sqrt(1 - b2), so a warm-up pays off.

use super::root::Root;
use super::rule::{Equations, Kernel, kernel};
use crate::zo::numbers::{f32_or, one_minus};
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: m and v.
#[derive(Clone, Copy)]
pub struct RAdaZo {
    beta1: f32,
    beta2: f32,
    root: Root,
}

impl RAdaZo {
    /// Defaults: b1 0.9, b2 0.99, zeta 1e-8.
    pub fn new(settings: &Settings) -> Self {
        let Settings { beta1, beta2, .. } = *settings;
        RAdaZo { beta1: f32_or(beta1, 0.9), beta2: f32_or(beta2, 0.99), root: Root::new(settings) }
    }
}

impl Equations<2> for RAdaZo {
    const STATE: [&'static str; 2] = ["m", "v"];

    fn at(&self, step: &StepContext) -> impl Kernel<2> {
        let (RAdaZo { beta1, beta2, root }, lr) = (*self, step.learning_rate);
        let root = root.at(step);
        kernel(
            #[inline(always)]
            move |theta, g, [m, v]: [f32; 2]| {
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * (m * m);
                (theta - lr * m / root(v), [m, v])
            },
        )
    }

    fn definition(&self) -> String {
        let RAdaZo { beta1, beta2, root } = self;
        let (c1, c2) = (one_minus(*beta1), one_minus(*beta2));
        format!(
            "m = {beta1} m + {c1} g; v = {beta2} v + {c2} m^2; theta -= lr m / {}; no bias correction{}",
            root.definition("v"),
            root.note()
        )
    }
}
