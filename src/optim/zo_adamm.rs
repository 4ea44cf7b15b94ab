//! ZO-AdaMM (Chen et al. 2019), as Algorithm 1 of R-AdaZO's paper has it (arXiv 2502.01014): no bias correction.
//!
//! ```text
//! m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   theta <- theta - lr m / sqrt(v + zeta)
//! ```
//!
//! With `--amsgrad` the original's running maximum stands in the root: v_hat <- max(v_hat, v).

use super::rule::{Equations, fused};
use super::{Optimizer, or, rest, zeroth};
use crate::config::Settings;
use crate::estimator::At;
use crate::noise::Kernel;
use crate::params::Params;

/// State: m and v; with the running maximum, v_hat too.
#[derive(Clone, Copy)]
struct ZoAdaMm {
    lr: f32,
    beta1: f32,
    beta2: f32,
    zeta: f32,
}

/// The rule, with or without the running maximum. b1 0.9, b2 0.99 and zeta 1e-8 unless given.
pub fn make(settings: &Settings, params: &Params) -> Optimizer {
    let equations =
        ZoAdaMm { lr: 0.0, beta1: or(settings.beta1, 0.9), beta2: or(settings.beta2, 0.99), zeta: or(settings.zeta, 1e-8) };
    let rule = match settings.amsgrad {
        Some(true) => fused::<_, 3>(equations, settings, params),
        _ => fused::<_, 2>(equations, settings, params),
    };
    zeroth(settings, rule)
}

impl ZoAdaMm {
    #[inline(always)]
    fn moments(&self, g: f32, m: f32, v: f32) -> (f32, f32) {
        (self.beta1 * m + (1.0 - self.beta1) * g, self.beta2 * v + (1.0 - self.beta2) * (g * g))
    }
}

impl Kernel<2> for ZoAdaMm {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let (m, v) = self.moments(g, m, v);
        (theta - self.lr * m / (v + self.zeta).sqrt(), [m, v])
    }
}

impl Kernel<3> for ZoAdaMm {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v, v_hat]: [f32; 3]) -> (f32, [f32; 3]) {
        let (m, v) = self.moments(g, m, v);
        let v_hat = if v > v_hat { v } else { v_hat };
        (theta - self.lr * m / (v_hat + self.zeta).sqrt(), [m, v, v_hat])
    }
}

impl<const S: usize> Equations<S> for ZoAdaMm
where
    ZoAdaMm: Kernel<S>,
{
    const STATE: [&'static str; S] = {
        let all = ["m", "v", "v_hat"];
        let mut own = [""; S];
        let mut k = 0;
        while k < S {
            own[k] = all[k];
            k += 1;
        }
        own
    };

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        let ZoAdaMm { beta1, beta2, zeta, .. } = self;
        let (c1, c2) = (rest(*beta1), rest(*beta2));
        let root = if S == 3 { "max v" } else { "v" };
        format!(
            "m = {beta1} m + {c1} g; v = {beta2} v + {c2} g^2; theta -= lr m / sqrt({root} + {zeta:e}); no bias correction"
        )
    }
}
