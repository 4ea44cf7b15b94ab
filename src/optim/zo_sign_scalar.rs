//! The sign of the projected gradient: theta <- theta - lr sign(c) z. What ZO-Bench's code calls sign (arXiv 2402.11592).

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Term;
use crate::params::Params;

/// No state; with several directions each keeps its own sign and an equal share.
pub struct ZoSignScalar {
    weight_decay: Option<f32>,
}

impl ZoSignScalar {
    /// With weight decay as the settings have it.
    pub fn new(settings: &Settings) -> Self {
        ZoSignScalar { weight_decay: settings.weight_decay }
    }
}

impl Rule for ZoSignScalar {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        let share = lr / estimate.terms.len() as f32;
        for term in estimate.terms.iter().filter(|t| t.coeff != 0.0) {
            params.walk(&[Term { seed: term.seed, coeff: -share * term.coeff.signum() }]);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn definition(&self) -> String {
        "theta -= lr sign(c) z".into()
    }
}
