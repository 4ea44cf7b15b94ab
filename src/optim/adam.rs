//! Adam with bias correction (Kingma and Ba 2015, arXiv 1412.6980): on an estimate it is ZO-Bench's ZO-Adam (arXiv 2402.11592),
//! on a first-order gradient and with decoupled weight decay AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
//!
//! ```text
//! m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
//! theta <- theta - lr [m / (1 - b1^t)] / (sqrt(v / (1 - b2^t)) + zeta)
//! ```

use super::rule::Equations;
use super::{or, rest};
use crate::config::Settings;
use crate::estimator::At;
use crate::noise::Kernel;

/// State: m and v.
#[derive(Clone, Copy)]
pub struct Adam {
    lr: f32,
    beta1: f32,
    beta2: f32,
    zeta: f32,
    /// 1 - b1^t and 1 - b2^t.
    correction1: f32,
    correction2: f32,
}

impl Adam {
    /// b1 0.9, b2 0.999 and zeta 1e-8 unless given.
    pub fn new(settings: &Settings) -> Self {
        Adam {
            lr: 0.0,
            beta1: or(settings.beta1, 0.9),
            beta2: or(settings.beta2, 0.999),
            zeta: or(settings.zeta, 1e-8),
            correction1: 1.0,
            correction2: 1.0,
        }
    }
}

impl Kernel<2> for Adam {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = self.beta1 * m + (1.0 - self.beta1) * g;
        let v = self.beta2 * v + (1.0 - self.beta2) * (g * g);
        (theta - self.lr * (m / self.correction1) / ((v / self.correction2).sqrt() + self.zeta), [m, v])
    }
}

impl Equations<2> for Adam {
    const STATE: [&'static str; 2] = ["m", "v"];

    fn set(&mut self, at: &At) {
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(at.step as i32)) as f32;
        let (correction1, correction2) = (correction(self.beta1), correction(self.beta2));
        *self = Adam { lr: at.learning_rate, correction1, correction2, ..*self };
    }

    fn definition(&self) -> String {
        let Adam { beta1, beta2, zeta, .. } = self;
        let (c1, c2) = (rest(*beta1), rest(*beta2));
        format!("m = {beta1} m + {c1} g; v = {beta2} v + {c2} g^2; bias-corrected; theta -= lr m / (sqrt(v) + {zeta:e})")
    }
}
