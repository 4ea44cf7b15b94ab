//! MEAZO: Adam's adaptivity in one scalar, at MeZO's memory (arXiv 2605.03869).
//!
//! ```text
//! v <- b v + (1 - b) c^2;   theta <- theta - lr c z / (sqrt(v / (1 - b^t)) + zeta)
//! ```

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Term;
use crate::params::Params;

/// One number of state. c^2 is the mean over the directions.
pub struct Meazo {
    beta2: f64,
    zeta: f64,
    weight_decay: Option<f32>,
    v: f64,
    steps: i32,
}

impl Meazo {
    /// b is `beta2`, 0.99 unless given.
    pub fn new(settings: &Settings) -> Self {
        let (beta2, zeta) = (f64::from(settings.beta2.unwrap_or(0.99)), f64::from(settings.zeta.unwrap_or(1e-8)));
        Meazo { beta2, zeta, weight_decay: settings.weight_decay, v: 0.0, steps: 0 }
    }
}

impl Rule for Meazo {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        let squares: f64 = estimate.terms.iter().map(|t| f64::from(t.coeff).powi(2)).sum();
        self.steps += 1;
        self.v = self.beta2 * self.v + (1.0 - self.beta2) * squares / estimate.terms.len() as f64;
        let root = (self.v / (1.0 - self.beta2.powi(self.steps))).sqrt() + self.zeta;
        decay(lr, self.weight_decay, params);
        for term in &estimate.terms {
            let coeff = (-f64::from(lr) * f64::from(term.coeff) / root) as f32;
            params.walk(&[Term { seed: term.seed, coeff }]);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        std::mem::size_of_val(&self.v)
    }

    fn definition(&self) -> String {
        let (b, zeta) = (self.beta2 as f32, self.zeta as f32);
        format!("v = {b} v + {} c^2, bias-corrected; theta -= lr c z / (sqrt(v) + {zeta:e})", 1.0 - b)
    }
}
