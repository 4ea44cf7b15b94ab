//! A trajectory walked again: base weights in, the weights of any of its steps out, without a forward pass.

use std::cell::RefCell;

use anyhow::Result;

use crate::config::Inputs;
use crate::estimator::At;
use crate::setup::{Bench, assign_roles, make_method};
use crate::trajectory::{Tape, Trajectory, Untold};

/// Opens what `inputs` names and, where they name a trajectory, brings the weights to the step that it kept. `done` is told
/// how many of its steps are made, and of how many.
pub fn open(outline: Bench, inputs: &Inputs, done: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Bench> {
    let mut bench = outline.load(inputs)?;
    if let Some(place) = &inputs.trajectory {
        let trajectory = Trajectory::open(place)?;
        trajectory.warn_if_part(place);
        let kept = trajectory.kept();
        replay(&trajectory, &mut bench, kept, &mut |step| done(step, kept))?;
    }
    Ok(bench)
}

/// Moves weights from where the trajectory begins to where it stood behind step `to`. Fails with
/// [`Differs`](crate::error::Differs) where they begin or come out otherwise.
pub fn replay(trajectory: &Trajectory, bench: &mut Bench, to: u64, done: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let plan = trajectory.plan();
    if !trajectory.header.replays {
        return Err(usage!(
            "the steps of {} have first-order gradients, which no log holds; take the run's model.safetensors",
            plan.optimizer
        ));
    }
    bench.begin_adapter(&plan)?;
    let Bench { model, params, .. } = bench;
    trajectory.header.check_base(params)?;
    trajectory.header.check_function(model, None)?;
    assign_roles(&plan, model, params)?;
    let mut optimizer = make_method(&plan, params)?;
    for step in 1..=to {
        let at = At::of(&plan, step);
        let heard = RefCell::default();
        let mut untold = Untold;
        let mut tape = Tape::new(&mut untold, trajectory.values(step), &heard);
        let (estimate, _) = optimizer.estimator.estimate(&at, params, &mut tape)?;
        optimizer.rule.step(&at, params, &estimate, None)?;
        trajectory.check(step, params)?;
        done(step)?;
    }
    params.settle()?;
    Ok(())
}
