//! Replay: the weights of any step from the base weights and a trajectory, without a forward pass.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result};

use super::loaded::LoadedModel;
use super::setup::{assign_roles, make_method};
use super::trajectory::Trajectory;
use crate::config::Inputs;
use crate::params::Params;
use crate::prompt::language_task::model_function;
use crate::zo::{RecordedProblem, ReplayOnly};

/// Reads the weights of an opened model and, if `inputs` name a trajectory, replays it to the step whose weights it
/// kept. `done` gets the steps made and their total.
pub fn open(opened: LoadedModel, inputs: &Inputs, done: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<LoadedModel> {
    let mut loaded = opened.load(inputs)?;
    if let Some(place) = &inputs.trajectory {
        let trajectory = Trajectory::open(place)?;
        trajectory.warn_if_part(place);
        let kept = trajectory.kept();
        replay_model(&trajectory, &mut loaded, kept, &mut |step| done(step, kept))?;
    }
    if let Some(place) = &inputs.adapter {
        check_under(place, inputs, &mut loaded.params)?;
    }
    Ok(loaded)
}

/// Fails if the run's log shows that the adapter was trained on other base weights.
fn check_under(adapter: &Path, inputs: &Inputs, params: &mut Params) -> Result<()> {
    let header = match Trajectory::beside(adapter) {
        None => return Ok(()),
        Some(Ok(trajectory)) => trajectory.header,
        Some(Err(error)) => {
            tracing::warn!("cannot tell whether {} was trained on this model: {error:#}", adapter.display());
            return Ok(());
        }
    };
    if !header.config.inputs.is_adapted() {
        return Ok(());
    }
    if header.config.inputs.dtype != inputs.dtype {
        let (then, now) = (header.config.inputs.dtype.dtype().as_str(), inputs.dtype.dtype().as_str());
        tracing::info!(
            "        the adapter was trained in {then}; in {now} its base model cannot be compared with the run's"
        );
        return Ok(());
    }
    header
        .check_under_adapter(params)
        .with_context(|| format!("`adapter` {}: it belongs to another model", adapter.display()))
}

/// [`replay`] for a language model, with its roles assigned here.
pub fn replay_model(
    trajectory: &Trajectory,
    loaded: &mut LoadedModel,
    to: u64,
    done: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let config = trajectory.config();
    trajectory.check_replays()?;
    loaded.begin_adapter(&config)?;
    let LoadedModel { model, params, .. } = loaded;
    trajectory.header.check_base(params)?;
    trajectory.header.check_function(&model_function(model))?;
    assign_roles(&config, model, params)?;
    follow(trajectory, params, to, done)
}

/// Replays a trajectory from its start to step `to`. The roles of the weights are assigned. Fails with
/// [`Differs`](crate::base::Differs) if the weights differ from the trajectory's at the start or at a step with a
/// digest.
pub fn replay(trajectory: &Trajectory, params: &mut Params, to: u64, done: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    trajectory.check_replays()?;
    trajectory.header.check_base(params)?;
    follow(trajectory, params, to, done)
}

/// The steps of [`replay`], after its checks.
fn follow(trajectory: &Trajectory, params: &mut Params, to: u64, done: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let config = trajectory.config();
    let mut optimizer = make_method(&config, params)?;
    for step in 1..=to {
        let at = config.step_context(step);
        let evaluated = RefCell::default();
        let mut nothing = ReplayOnly;
        let mut recorded = RecordedProblem::new(&mut nothing, trajectory.values(step), &evaluated);
        optimizer.step(&at, params, &mut recorded)?;
        trajectory.check(step, params)?;
        done(step)?;
    }
    params.settle()?;
    Ok(())
}
