//! ZO-SGD-Cons: of theta, theta - lr g and theta + lr g the best on the step's mini-batch is kept; 5 forwards (ZO-Bench, Zhang
//! et al. 2024, arXiv 2402.11592).

use anyhow::Result;

use super::zo_sgd::ZoSgd;
use super::{Optimizer, two_point, walked};
use crate::config::Settings;
use crate::estimator::{At, Estimated, Estimator, TwoPoint};
use crate::noise::scaled;
use crate::objective::Problem;
use crate::params::Params;

/// The method: the estimate is turned into what is to be kept, and ZO-SGD does it.
pub fn make(settings: &Settings) -> Optimizer {
    Optimizer { estimator: Box::new(Conservative { two_point: two_point(settings) }), rule: walked(ZoSgd, settings) }
}

struct Conservative {
    two_point: TwoPoint,
}

impl Estimator for Conservative {
    fn estimate<'a>(&'a mut self, at: &At, params: &mut Params, problem: &'a mut dyn Problem) -> Result<Estimated<'a>> {
        let objective = problem.objective();
        let mut estimate = self.two_point.along(&at.seeds(self.two_point.num_directions), params, objective)?;
        let lr = at.learning_rate;
        let along = |multiple: f32| scaled(&estimate.terms, multiple * lr);
        // One-sided estimates have looked there already.
        let stay = match estimate.loss_base {
            Some(loss) => loss,
            None => objective.loss(params.settle()?)?,
        };
        params.walk(&along(-1.0));
        let descend = objective.loss(params.settle()?)?;
        params.walk(&along(2.0));
        let ascend = objective.loss(params.settle()?)?;
        params.walk(&along(-1.0));
        // A loss that is no number is never the best; of equals the first.
        let place = |loss: f32| if loss.is_nan() { f32::INFINITY } else { loss };
        let mut kept = (0.0, place(stay));
        for (multiple, loss) in [(1.0, place(descend)), (-1.0, place(ascend))] {
            if loss < kept.1 {
                kept = (multiple, loss);
            }
        }
        let kept = kept.0;
        estimate.terms.iter_mut().for_each(|t| t.coeff *= kept);
        estimate.loss_base = Some(stay);
        Ok((estimate, None))
    }

    fn definition(&self) -> String {
        format!("{}; of theta, theta - lr g, theta + lr g the best is kept", self.two_point.definition())
    }
}
