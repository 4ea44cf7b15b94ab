//! ZO-RMSProp: the baseline of R-AdaZO (arXiv 2502.01014).
//!
//! ```text
//! v <- b2 v + (1 - b2) g^2;   theta <- theta - lr g / sqrt(v + zeta)
//! ```

use super::root::Root;
use super::rule::{Equations, Kernel, kernel};
use crate::zo::numbers::{f32_or, one_minus};
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: v.
#[derive(Clone, Copy)]
pub struct ZoRmsProp {
    beta2: f32,
    root: Root,
}

impl ZoRmsProp {
    /// Defaults: b2 0.99, zeta 1e-8.
    pub fn new(settings: &Settings) -> Self {
        ZoRmsProp { beta2: f32_or(settings.beta2, 0.99), root: Root::new(settings) }
    }
}

impl Equations<1> for ZoRmsProp {
    const STATE: [&'static str; 1] = ["v"];

    fn at(&self, step: &StepContext) -> impl Kernel<1> {
        let (ZoRmsProp { beta2, root }, lr) = (*self, step.learning_rate);
        let root = root.at(step);
        kernel(
            #[inline(always)]
            move |theta, g, [v]: [f32; 1]| {
                let v = beta2 * v + (1.0 - beta2) * (g * g);
                (theta - lr * g / root(v), [v])
            },
        )
    }

    fn definition(&self) -> String {
        let ZoRmsProp { beta2, root } = self;
        format!("v = {beta2} v + {} g^2; theta -= lr g / {}{}", one_minus(*beta2), root.definition("v"), root.note())
    }
}
