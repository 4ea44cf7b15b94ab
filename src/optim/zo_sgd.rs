//! ZO-SGD: theta <- theta - lr (g + weight_decay theta), g the estimate (MeZO, Algorithm 1; arXiv 2305.17333).

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Term;
use crate::params::Params;

/// No state: the update joins the walks that are pending, and settles with them in one pass.
pub struct ZoSgd {
    weight_decay: Option<f32>,
}

impl ZoSgd {
    /// With weight decay as the settings have it.
    pub fn new(settings: &Settings) -> Self {
        ZoSgd { weight_decay: settings.weight_decay }
    }
}

impl Rule for ZoSgd {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        for term in &estimate.terms {
            params.walk(&[Term { seed: term.seed, coeff: -lr * term.coeff }]);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn definition(&self) -> String {
        format!("theta -= lr (g + {} theta)", self.weight_decay.unwrap_or(0.0))
    }
}
