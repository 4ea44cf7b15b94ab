//! SVRG (Johnson and Zhang 2013, NIPS): v = grad f_I(x) - grad f_I(x_hat) + grad f(x_hat), the full gradient at the snapshot
//! x_hat, and x_hat itself, stored. That is its cost: twice the trained weights beside them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::params::{Gradient, ParamId, Params, Role, Slot, Visit, Weights};
use crate::zo::{Estimate, Estimated, Estimator, Gradients, Problem, Settings, SnapshotReport, StepContext};

/// The variance-reduced first-order gradient; SGD is its rule.
pub struct Svrg {
    period: u64,
    /// x_hat
    snapshot: Params,
    /// grad f(x_hat)
    full: BTreeMap<ParamId, (String, Gradient)>,
}

impl Svrg {
    /// A snapshot every `snapshot_steps`; copies the trained weights of `params`.
    pub fn new(settings: &Settings, params: &Params) -> Result<Self> {
        let period = settings.snapshot_steps.unwrap_or(1);
        let trained = params.ids().filter(|(id, _)| params.role(*id) != Role::Frozen);
        let zeros = trained.map(|(id, name)| (id, (name.to_string(), Gradient::zeros(params.len(id)))));
        Ok(Svrg { period, snapshot: params.copy()?, full: zeros.collect() })
    }

    fn take_snapshot(&mut self, params: &mut Params, problem: &dyn Problem) -> Result<SnapshotReport> {
        self.snapshot.copy_from(params)?;
        self.full.values_mut().for_each(|(_, full)| full.fill(0.0));
        let num_examples = problem.full_gradient(params.settle()?, &mut |id, share| {
            if let Some((_, full)) = self.full.get_mut(&id) {
                full.iter_mut().zip(share).for_each(|(f, s)| *f += s);
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
        let (loss, here) = problem.backward(params.settle()?)?;
        let (_, there) = problem.backward(snapshot.settle()?)?;
        let estimate = Estimate { loss_base: Some(loss), snapshot: report, ..Estimate::default() };
        Ok((estimate, Some(Box::new(Reduced { here, there, snapshot, full: &self.full }))))
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

/// Two backward passes side by side, at x and at x_hat.
struct Reduced<'a> {
    here: Box<dyn Gradients + 'a>,
    there: Box<dyn Gradients + 'a>,
    snapshot: &'a mut Params,
    full: &'a BTreeMap<ParamId, (String, Gradient)>,
}

impl Gradients for Reduced<'_> {
    fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        let Some(mut block) = self.here.next(weights)? else { return Ok(None) };
        let there = self.there.next(self.snapshot.settle()?)?.context("two backward passes of different length")?;
        for ((id, v), (_, there)) in block.iter_mut().zip(&there) {
            let (_, full) = self.full.get(id).context("a gradient that the snapshot has not")?;
            v.iter_mut().zip(there.iter()).zip(full.iter()).for_each(|((v, there), full)| *v += full - there);
        }
        Ok(Some(block))
    }
}
