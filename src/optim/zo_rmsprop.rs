//! ZO-RMSProp: the baseline of R-AdaZO (arXiv 2502.01014).
//!
//! ```text
//! v <- b2 v + (1 - b2) g^2;   theta <- theta - lr g / sqrt(v + zeta)
//! ```

use super::rule::Equations;
use super::{or, rest};
use crate::config::Settings;
use crate::estimator::At;
use crate::noise::Kernel;

/// State: v.
#[derive(Clone, Copy)]
pub struct ZoRmsProp {
    lr: f32,
    beta2: f32,
    zeta: f32,
}

impl ZoRmsProp {
    /// b2 0.99 and zeta 1e-8 unless given.
    pub fn new(settings: &Settings) -> Self {
        ZoRmsProp { lr: 0.0, beta2: or(settings.beta2, 0.99), zeta: or(settings.zeta, 1e-8) }
    }
}

impl Kernel<1> for ZoRmsProp {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [v]: [f32; 1]) -> (f32, [f32; 1]) {
        let v = self.beta2 * v + (1.0 - self.beta2) * (g * g);
        (theta - self.lr * g / (v + self.zeta).sqrt(), [v])
    }
}

impl Equations<1> for ZoRmsProp {
    const STATE: [&'static str; 1] = ["v"];

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        let ZoRmsProp { beta2, zeta, .. } = self;
        format!("v = {beta2} v + {} g^2; theta -= lr g / sqrt(v + {zeta:e})", rest(*beta2))
    }
}
