//! SVRG (Johnson and Zhang 2013, NIPS): v = grad f_I(x) - grad f_I(x_hat) + grad f(x_hat). The snapshot x_hat and its full
//! gradient are stored: twice the memory of the trained weights.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::params::{Gradient, ParamId, Params, Role, Slot, Visit, Weights};
use crate::zo::{Estimate, Estimated, Estimator, Gradients, Problem, Settings, SnapshotReport, StepContext};

/// The variance-reduced first-order gradient, for SGD as the rule.
pub struct Svrg {
    period: u64,
    /// x_hat
    snapshot: Params,
    /// grad f(x_hat)
    full: BTreeMap<ParamId, (String, Gradient)>,
}

impl Svrg {
    /// A snapshot every `snapshot_steps` steps; copies the trained weights of `params`.
    pub fn new(settings: &Settings, params: &Params) -> Result<Self> {
        let period = settings.snapshot_steps.unwrap_or(1);
        let trained = params.ids().filter(|(id, _)| params.role(*id) != Role::Frozen);
        let zeros = trained.map(|(id, name)| (id, (name.to_string(), Gradient::zeros(params.len(id)))));
        Ok(Svrg { period, snapshot: params.copy()?, full: zeros.collect() })
    }

    fn take_snapshot(&mut self, params: &mut Params, problem: &dyn Problem) -> Result<SnapshotReport> {
        self.snapshot.copy_from(params)?;
        self.full.values_mut().for_each(|(_, full)| full.fill(0.0));
        let num_examples = problem.full_gradient(params.settle()?, &mut |id, contribution| {
            if let Some((_, full)) = self.full.get_mut(&id) {
                full.iter_mut().zip(contribution).for_each(|(f, s)| *f += s);
            }
        })?;
        Ok(SnapshotReport { num_directions: 0, example_evaluations: num_examples, standard_error: None })
    }
}

impl Estimator for Svrg {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        let problem: &'a dyn Problem = problem;
        let due = (at.step - 1).is_multiple_of(self.period);
        let report = due.then(|| self.take_snapshot(params, problem)).transpose()?;
        let snapshot = &mut self.snapshot;
        let (loss, at_x) = problem.backward(params.settle()?)?;
        let (_, at_x_hat) = problem.backward(snapshot.settle()?)?;
        let estimate = Estimate { loss_base: Some(loss), snapshot: report, ..Estimate::default() };
        Ok((estimate, Some(Box::new(VarianceReduced { at_x, at_x_hat, snapshot, full: &self.full }))))
    }

    fn definition(&self) -> String {
        format!("backpropagation, variance reduced by the full gradient at a snapshot every {} steps", self.period)
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        for (name, full) in self.full.values_mut() {
            visit(&format!("full.{name}"), Slot::F32(full))?;
        }
        self.snapshot.visit(&mut |name, slot| visit(&format!("snapshot.{name}"), slot))
    }
}

/// Two backward passes in lockstep, at x and at x_hat.
struct VarianceReduced<'a> {
    at_x: Box<dyn Gradients + 'a>,
    at_x_hat: Box<dyn Gradients + 'a>,
    snapshot: &'a mut Params,
    full: &'a BTreeMap<ParamId, (String, Gradient)>,
}

impl Gradients for VarianceReduced<'_> {
    fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        let Some(mut block) = self.at_x.next(weights)? else { return Ok(None) };
        let at_x_hat = self.at_x_hat.next(self.snapshot.settle()?)?.context("two backward passes of different length")?;
        for ((id, v), (_, at_x_hat)) in block.iter_mut().zip(&at_x_hat) {
            let (_, full) = self.full.get(id).context("a gradient that the snapshot has not")?;
            v.iter_mut().zip(at_x_hat.iter()).zip(full.iter()).for_each(|((v, at_x_hat), full)| *v += full - at_x_hat);
        }
        Ok(Some(block))
    }
}
