//! ZO-SGD-Cons: keeps the best of theta, theta - lr g and theta + lr g on the step's mini-batch; 5 forward passes (ZO-Bench,
//! Zhang et al. 2024, arXiv 2402.11592).

use anyhow::{Result, bail};

use super::two_point::{TwoPoint, two_point};
use crate::direction::term::scaled;
use crate::params::{ParamSet, Params, Points};
use crate::zo::{Estimated, Estimator, LossSum, Problem, Settings, Sides, StepContext};

/// The two-point estimate times 0, 1 or -1, so that ZO-SGD moves to the best candidate.
pub struct Conservative {
    two_point: TwoPoint,
}

impl Conservative {
    /// With the two-point estimator of the settings.
    pub fn new(settings: &Settings) -> Self {
        Conservative { two_point: two_point(settings) }
    }
}

/// Index of the smallest loss, the first of equals; NaN counts as infinite.
fn best(losses: [f32; 3]) -> usize {
    let or_infinite = |i: usize| if losses[i].is_nan() { f32::INFINITY } else { losses[i] };
    (1..3).fold(0, |kept, i| if or_infinite(i) < or_infinite(kept) { i } else { kept })
}

impl Estimator for Conservative {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        let objective = problem.objective();
        let mut estimate = self.two_point.along(&at.seeds(self.two_point.num_directions), params, objective)?;
        let mut points = [-1.0, 1.0].map(|sign| scaled(&estimate.terms, sign * at.learning_rate)).to_vec();
        if estimate.loss_base.is_none() {
            // One-sided estimates have evaluated theta already.
            points.insert(0, Vec::new());
        }
        let losses = objective.losses_at(params, Points::new(ParamSet::Estimated, &points))?;
        let losses: Vec<f32> = losses.iter().map(LossSum::loss).collect();
        let [.., descend, ascend] = losses[..] else { bail!("{} losses at three points", losses.len()) };
        let stay = estimate.loss_base.unwrap_or(losses[0]);
        let kept = [0.0, 1.0, -1.0][best([stay, descend, ascend])];
        estimate.terms.iter_mut().for_each(|t| t.coeff *= kept);
        estimate.loss_base = Some(stay);
        Ok((estimate, None))
    }

    /// Keeps, of the candidates' losses, only which is the smallest: -1 in its place.
    fn condense(&self, values: &mut [f32]) {
        let (two_point, candidates) = values.split_at_mut(self.two_point.evaluations());
        let one_side = self.two_point.sides == Sides::One;
        let stay = if one_side { two_point[0] } else { candidates[0] };
        self.two_point.condense(two_point);
        let [.., descend, ascend] = candidates else { return };
        let kept = best([stay, *descend, *ascend]);
        (*descend, *ascend) = (if kept == 1 { -1.0 } else { 1.0 }, if kept == 2 { -1.0 } else { 1.0 });
        if !one_side {
            candidates[0] = 0.0;
        }
    }

    fn definition(&self) -> String {
        format!("{}; of theta, theta - lr g, theta + lr g the best is kept", self.two_point.definition())
    }
}
