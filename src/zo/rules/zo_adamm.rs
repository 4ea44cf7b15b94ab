//! ZO-AdaMM (Chen et al. 2019) in the form of Algorithm 1 of R-AdaZO's paper (arXiv 2502.01014): no bias correction.
//!
//! ```text
//! m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   theta <- theta - lr m / sqrt(v + zeta)
//! ```
//!
//! `--amsgrad` puts the original's running maximum in the root: v_hat <- max(v_hat, v).

use super::root::Root;
use super::rule::{Equations, Kernel, Rule, fused, kernel};
use crate::params::Params;
use crate::zo::numbers::{f32_or, one_minus};
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: m and v.
#[derive(Clone, Copy)]
pub struct ZoAdaMm {
    beta1: f32,
    beta2: f32,
    root: Root,
}

/// With the running maximum. State: m, v and v_hat.
struct AmsGrad(ZoAdaMm);

impl ZoAdaMm {
    /// The rule, with or without the running maximum. Defaults: b1 0.9, b2 0.99, zeta 1e-8.
    pub fn rule(settings: &Settings, params: &Params) -> Box<dyn Rule> {
        let Settings { beta1, beta2, .. } = *settings;
        let equations = ZoAdaMm { beta1: f32_or(beta1, 0.9), beta2: f32_or(beta2, 0.99), root: Root::new(settings) };
        match settings.amsgrad {
            Some(true) => fused(AmsGrad(equations), settings, params),
            _ => fused(equations, settings, params),
        }
    }

    fn definition_with_root(&self, v: &str) -> String {
        let ZoAdaMm { beta1, beta2, root } = self;
        let (c1, c2) = (one_minus(*beta1), one_minus(*beta2));
        format!(
            "m = {beta1} m + {c1} g; v = {beta2} v + {c2} g^2; theta -= lr m / {}; no bias correction{}",
            root.definition(v),
            root.note()
        )
    }
}

impl Equations<2> for ZoAdaMm {
    const STATE: [&'static str; 2] = ["m", "v"];

    fn at(&self, step: &StepContext) -> impl Kernel<2> {
        let (ZoAdaMm { beta1, beta2, root }, lr) = (*self, step.learning_rate);
        let root = root.at(step);
        kernel(
            #[inline(always)]
            move |theta, g, [m, v]: [f32; 2]| {
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * (g * g);
                (theta - lr * m / root(v), [m, v])
            },
        )
    }

    fn definition(&self) -> String {
        self.definition_with_root("v")
    }
}

impl Equations<3> for AmsGrad {
    const STATE: [&'static str; 3] = ["m", "v", "v_hat"];

    fn at(&self, step: &StepContext) -> impl Kernel<3> {
        let (ZoAdaMm { beta1, beta2, root }, lr) = (self.0, step.learning_rate);
        let root = root.at(step);
        kernel(
            #[inline(always)]
            move |theta, g, [m, v, v_hat]: [f32; 3]| {
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * (g * g);
                let v_hat = if v > v_hat { v } else { v_hat };
                (theta - lr * m / root(v_hat), [m, v, v_hat])
            },
        )
    }

    fn definition(&self) -> String {
        self.0.definition_with_root("max v")
    }
}
