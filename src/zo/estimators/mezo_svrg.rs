//! MeZO-SVRG (Gautam et al. 2024, arXiv 2404.08080): variance reduction from function values alone.
//!
//! ```text
//! every T steps   x_hat <- theta;  g <- ghat_full(x_hat);                     theta <- theta - lr g
//! else                             g <- ghat_I(theta) - ghat_I(x_hat) + ghat_full;  theta <- theta - lr g
//! ```
//!
//! Both estimates of a mini-batch use the same directions. x_hat is not stored: it is theta minus the moves made since, up
//! to rounding. Those number as many directions as steps since the snapshot, so short periods are best.

use std::sync::Arc;

use anyhow::Result;

use super::two_point::{TwoPoint, two_point};
use crate::direction::Term;
use crate::direction::term::{gather, scaled};
use crate::params::{Params, Points, Slot, Visit};
use crate::zo::{Estimate, Estimated, Estimator, LossSum, Objective, Problem, Settings, SnapshotReport, StepContext};

/// The variance-reduced estimate, for ZO-SGD as the rule.
pub struct MezoSvrg {
    two_point: TwoPoint,
    period: u64,
    /// ghat_full(x_hat)
    full: Vec<Term>,
    /// theta - x_hat
    moved: Vec<Term>,
}

impl MezoSvrg {
    /// T is `snapshot_steps`, default 10.
    pub fn new(settings: &Settings) -> Self {
        let period = settings.snapshot_steps.unwrap_or(10);
        MezoSvrg { two_point: two_point(settings), period, full: Vec::new(), moved: Vec::new() }
    }
}

/// Evaluates f over the whole training set in place of f_I.
struct FullObjective<'a>(&'a mut dyn Problem);

impl Objective for FullObjective<'_> {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        self.0.full_losses(params.settle()?.at(&Arc::new(points)))
    }
}

impl MezoSvrg {
    fn snapshot(&mut self, seeds: &[u64], params: &mut Params, problem: &mut dyn Problem) -> Result<Estimate> {
        let mut estimate = self.two_point.along(seeds, params, &mut FullObjective(problem))?;
        estimate.snapshot = Some(SnapshotReport {
            num_directions: seeds.len(),
            example_evaluations: (self.two_point.evaluations() * problem.num_examples()) as u64,
            standard_error: None,
        });
        self.full = estimate.terms.clone();
        self.moved.clear();
        Ok(estimate)
    }

    fn variance_reduced(&self, seeds: &[u64], params: &mut Params, objective: &mut dyn Objective) -> Result<Estimate> {
        let mut estimate = self.two_point.along(seeds, params, objective)?;
        let at_snapshot = self.two_point.along_from(&scaled(&self.moved, -1.0), seeds, params, objective)?;
        for (term, at_snapshot) in estimate.terms.iter_mut().zip(&at_snapshot.terms) {
            term.coeff -= at_snapshot.coeff;
        }
        estimate.terms.extend(&self.full);
        Ok(estimate)
    }
}

impl Estimator for MezoSvrg {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        let seeds = at.seeds(self.two_point.num_directions);
        let estimate = if (at.step - 1).is_multiple_of(self.period) {
            self.snapshot(&seeds, params, problem)?
        } else {
            self.variance_reduced(&seeds, params, problem.objective())?
        };
        // Mirrors ZO-SGD's update.
        for term in scaled(&estimate.terms, -at.learning_rate) {
            gather(&mut self.moved, term);
        }
        Ok((estimate, None))
    }

    fn definition(&self) -> String {
        format!("variance reduced at a snapshot every {} steps; {}", self.period, self.two_point.definition())
    }

    /// Condenses both estimates, at theta and at x_hat.
    fn condense(&self, values: &mut [f32]) {
        values.chunks_mut(self.two_point.evaluations()).for_each(|estimate| self.two_point.condense(estimate));
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        let direction = self.two_point.direction();
        for (name, terms) in [("full", &mut self.full), ("moved", &mut self.moved)] {
            let mut seeds: Vec<u64> = terms.iter().map(|t| t.seed).collect();
            let mut coeffs: Vec<f64> = terms.iter().map(|t| f64::from(t.coeff)).collect();
            visit(&format!("{name}.seeds"), Slot::U64(&mut seeds))?;
            visit(&format!("{name}.coeffs"), Slot::F64(&mut coeffs))?;
            *terms = seeds.into_iter().zip(coeffs).map(|(seed, coeff)| direction.term(seed, coeff as f32)).collect();
        }
        Ok(())
    }
}
