//! MEAZO: Adam's adaptivity in one scalar, with MeZO's memory (arXiv 2605.03869).
//!
//! ```text
//! v <- b v + (1 - b) c^2;   theta <- theta - lr c z / (sqrt(v / (1 - b^t)) + zeta)
//! ```

use anyhow::Result;

use super::rule::DirectionRule;
use crate::direction::Term;
use crate::params::{Slot, Visit};
use crate::zo::numbers::{f32_or, one_minus};
use crate::zo::settings::Settings;
use crate::zo::step_context::StepContext;

/// State: the scalar v. c^2 is the mean over the directions.
pub struct Meazo {
    beta2: f64,
    zeta: f64,
    v: Vec<f64>,
}

impl Meazo {
    /// Defaults: b = `beta2` 0.99, zeta 1e-8.
    pub fn new(settings: &Settings) -> Self {
        let (beta2, zeta) = (f64::from(f32_or(settings.beta2, 0.99)), f64::from(f32_or(settings.zeta, 1e-8)));
        Meazo { beta2, zeta, v: vec![0.0] }
    }
}

impl DirectionRule for Meazo {
    fn moves(&mut self, at: &StepContext, terms: &[Term]) -> Vec<Term> {
        let squares: f64 = terms.iter().map(|t| f64::from(t.coeff).powi(2)).sum();
        // A coefficient is c / q, the slope's share of the mean over q directions.
        let mean = squares * terms.len() as f64;
        self.v[0] = self.beta2 * self.v[0] + (1.0 - self.beta2) * mean;
        let root = (self.v[0] / (1.0 - self.beta2.powi(at.step as i32))).sqrt() + self.zeta;
        let coeff = |t: &Term| (-f64::from(at.learning_rate) * f64::from(t.coeff) / root) as f32;
        terms.iter().map(|t| Term { coeff: coeff(t), ..*t }).collect()
    }

    fn definition(&self) -> String {
        let (b, zeta) = (self.beta2 as f32, self.zeta as f32);
        format!(
            "v = {b} v + {} c^2; bias-corrected; theta -= lr c z / (sqrt(v) + {zeta:e}), c^2 and c z the mean over the directions",
            one_minus(b)
        )
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        visit("v", Slot::F64(&mut self.v))
    }
}
