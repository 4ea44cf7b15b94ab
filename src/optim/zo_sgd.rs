//! ZO-SGD: theta <- theta - lr (g + weight_decay theta), g the estimate (MeZO, Algorithm 1; arXiv 2305.17333).

use anyhow::Result;

use super::{Rule, decay, or};
use crate::config::Settings;
use crate::estimator::{At, Estimate};
use crate::noise::Term;
use crate::objective::Gradients;
use crate::params::Params;

/// No state: the update joins the walks that are pending, and settles with them in one pass.
pub struct ZoSgd {
    weight_decay: f32,
}

impl ZoSgd {
    /// With weight decay as the settings have it.
    pub fn boxed(settings: &Settings) -> Box<dyn Rule> {
        Box::new(ZoSgd { weight_decay: or(settings.weight_decay, 0.0) })
    }
}

impl Rule for ZoSgd {
    fn step(
        &mut self,
        at: &At,
        params: &mut Params,
        estimate: &Estimate,
        _: Option<&mut (dyn Gradients + '_)>,
    ) -> Result<Option<f64>> {
        decay(at, self.weight_decay, params);
        for term in &estimate.terms {
            params.walk(&[Term { seed: term.seed, coeff: -at.learning_rate * term.coeff }]);
        }
        Ok(None)
    }

    fn definition(&self) -> String {
        format!("theta -= lr (g + {} theta)", self.weight_decay)
    }
}
