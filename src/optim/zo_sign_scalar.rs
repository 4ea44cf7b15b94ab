//! The sign of the projected gradient: theta <- theta - lr sign(c) z. What ZO-Bench's code calls sign (arXiv 2402.11592).

use anyhow::Result;

use super::{Rule, decay, or};
use crate::config::Settings;
use crate::estimator::{At, Estimate};
use crate::noise::Term;
use crate::objective::Gradients;
use crate::params::Params;

/// No state; with several directions each keeps its own sign and an equal share.
pub struct ZoSignScalar {
    weight_decay: f32,
}

impl ZoSignScalar {
    /// With weight decay as the settings have it.
    pub fn boxed(settings: &Settings) -> Box<dyn Rule> {
        Box::new(ZoSignScalar { weight_decay: or(settings.weight_decay, 0.0) })
    }
}

impl Rule for ZoSignScalar {
    fn step(
        &mut self,
        at: &At,
        params: &mut Params,
        estimate: &Estimate,
        _: Option<&mut (dyn Gradients + '_)>,
    ) -> Result<Option<f64>> {
        decay(at, self.weight_decay, params);
        let share = at.learning_rate / estimate.terms.len() as f32;
        for term in estimate.terms.iter().filter(|t| t.coeff != 0.0) {
            params.walk(&[Term { seed: term.seed, coeff: -share * term.coeff.signum() }]);
        }
        Ok(None)
    }

    fn definition(&self) -> String {
        "theta -= lr sign(c) z".into()
    }
}
