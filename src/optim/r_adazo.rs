//! R-AdaZO, Algorithm 2 of "Refining Adaptive Zeroth-Order Optimization at Ease" (Shu et al. 2025, arXiv 2502.01014).
//!
//! ```text
//! m_t <- b1 m_{t-1} + (1 - b1) g_t
//! v_t <- b2 v_{t-1} + (1 - b2) m_t^2
//! theta_t <- theta_{t-1} - lr m_t / sqrt(v_t + zeta)
//! ```
//!
//! The second moment is that of the *first moment*, already the new one. No bias correction, on purpose: it would undo part
//! of the variance reduction. So the first step moves every weight by lr / sqrt(1 - b2): a warm-up is worth its steps.

use super::rule::Equations;
use super::{or, rest};
use crate::config::Settings;
use crate::estimator::At;
use crate::noise::Kernel;

/// State: m and v.
#[derive(Clone, Copy)]
pub struct RAdaZo {
    lr: f32,
    beta1: f32,
    beta2: f32,
    zeta: f32,
}

impl RAdaZo {
    /// b1 0.9, b2 0.99 and zeta 1e-8 unless given.
    pub fn new(settings: &Settings) -> Self {
        RAdaZo { lr: 0.0, beta1: or(settings.beta1, 0.9), beta2: or(settings.beta2, 0.99), zeta: or(settings.zeta, 1e-8) }
    }
}

impl Kernel<2> for RAdaZo {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = self.beta1 * m + (1.0 - self.beta1) * g;
        let v = self.beta2 * v + (1.0 - self.beta2) * (m * m);
        (theta - self.lr * m / (v + self.zeta).sqrt(), [m, v])
    }
}

impl Equations<2> for RAdaZo {
    const STATE: [&'static str; 2] = ["m", "v"];

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        let RAdaZo { beta1, beta2, zeta, .. } = self;
        let (c1, c2) = (rest(*beta1), rest(*beta2));
        format!("m = {beta1} m + {c1} g; v = {beta2} v + {c2} m^2; theta -= lr m / sqrt(v + {zeta:e}); no bias correction")
    }
}
