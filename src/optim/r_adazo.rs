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

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// Both moments.
pub struct RAdaZo {
    kernel: Refined,
    weight_decay: Option<f32>,
    state: State<2>,
}

#[derive(Clone, Copy)]
struct Refined {
    lr: f32,
    beta1: f32,
    beta2: f32,
    zeta: f32,
}

impl Kernel<2> for Refined {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = self.beta1 * m + (1.0 - self.beta1) * g;
        let v = self.beta2 * v + (1.0 - self.beta2) * (m * m);
        (theta - self.lr * m / (v + self.zeta).sqrt(), [m, v])
    }
}

impl RAdaZo {
    /// State of zeros for `params`.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        let kernel = Refined {
            lr: 0.0,
            beta1: settings.beta1.unwrap_or(0.9),
            beta2: settings.beta2.unwrap_or(0.99),
            zeta: settings.zeta.unwrap_or(1e-8),
        };
        RAdaZo { kernel, weight_decay: settings.weight_decay, state: params.state() }
    }
}

impl Rule for RAdaZo {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        self.kernel.lr = lr;
        params.update(&estimate.terms, &mut self.state, &self.kernel)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        let Refined { beta1, beta2, zeta, .. } = self.kernel;
        let (c1, c2) = (1.0 - beta1, 1.0 - beta2);
        format!("m = {beta1} m + {c1} g; v = {beta2} v + {c2} m^2; theta -= lr m / sqrt(v + {zeta:e}); no bias correction")
    }
}
