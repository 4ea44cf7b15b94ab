//! What a run begins from: a model opened, each weight's role, the method made, the loss over the training set.

use anyhow::Result;
use candle_core::DType;

use super::loaded::LoadedModel;
use crate::config::{Inputs, RunConfig};
use crate::data::Example;
use crate::data::task::{Splits, Task};
use crate::direction::Direction;
use crate::direction::seed::direction_seed;
use crate::model::Model;
use crate::model::adapter::{Adapter, AdapterKind};
use crate::params::{ParamId, ParamSet, Params, Role};
use crate::prompt::LanguageTask;
use crate::zo::selection::matches;
use crate::zo::{Distribution, Optimizer, Selection, methods};

/// Says which weights get which gradients, settles what depends on their number and on that of the training examples, fills
/// it into the plan, and makes the method.
pub fn set_up(plan: &mut RunConfig, bench: &mut LoadedModel, num_train: usize) -> Result<Optimizer> {
    bench.begin_adapter(plan)?;
    assign_roles(plan, &bench.model, &mut bench.params)?;
    let (trained, estimated) = (bench.params.count_over(ParamSet::Trained), bench.params.count_over(ParamSet::Estimated));
    resolve_config(plan, trained_adapter(plan, &bench.model).as_ref(), trained, estimated, num_train)?;
    let rate = plan.learning_rate.unwrap_or_default();
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {rate:e} is too small for f32 and has no effect");
    }
    let optimizer = make_method(plan, &mut bench.params)?;
    warn_of_lost_looks(plan, &mut bench.params)?;
    Ok(optimizer)
}

/// Says so where half precision rounds away most of the way to the points where the function is looked at.
fn warn_of_lost_looks(plan: &RunConfig, params: &mut Params) -> Result<()> {
    let Some(radius) = plan.settings.zo_eps.filter(|_| plan.inputs.dtype.dtype() != DType::F32) else { return Ok(()) };
    let eps = match plan.settings.distribution {
        Some(Distribution::Sphere) => radius / (params.count_over(ParamSet::Trained) as f64).sqrt(),
        _ => radius,
    };
    let direction = Direction::from(plan.settings.distribution.unwrap_or_default());
    let share = params.displaced_share(direction.term(direction_seed(plan.seed, 1, 0), eps as f32), ParamSet::Trained)?;
    if share < 0.5 {
        tracing::warn!(
            "with `zo_eps` {radius:e}, rounding in {1} loses {0:.0} % of each step to the points where the loss is evaluated: \
             the slopes are nearly useless; use a larger `zo_eps` or `dtype f32`",
            100.0 * (1.0 - share),
            plan.inputs.dtype.dtype().as_str()
        );
    }
    Ok(())
}

/// Which weights get which gradients.
pub fn assign_roles(plan: &RunConfig, model: &Model, params: &mut Params) -> Result<()> {
    let trained = trained(&plan.inputs, model, params)?;
    let wanted = methods::method(&plan.optimizer)?.fo_params(&plan.settings);
    let mut differentiated = selected("fo_params", &wanted, model, params)?;
    let named = !differentiated.is_empty();
    differentiated.retain(|id| trained.contains(id));
    if named && differentiated.is_empty() {
        return Err(usage!("`fo_params` {}: none of these weights is trained", String::from(wanted)));
    }
    let ids: Vec<ParamId> = params.ids().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, Role::Frozen));
    trained.into_iter().for_each(|id| params.set_role(id, Role::Estimated));
    differentiated.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
    Ok(())
}

/// The adapter that is trained in the model's place, if one is.
pub fn trained_adapter(plan: &RunConfig, model: &Model) -> Option<AdapterKind> {
    model.adapter().map(Adapter::kind).filter(|_| plan.inputs.is_adapted()).cloned()
}

/// Fills in what depends on how many weights are trained, how many of them have no first-order gradient, and on how many
/// examples.
pub fn resolve_config(
    plan: &mut RunConfig,
    adapter: Option<&AdapterKind>,
    num_trained: usize,
    num_estimated: usize,
    num_train: usize,
) -> Result<()> {
    let method = methods::method(&plan.optimizer)?;
    method.check(&plan.settings)?;
    let epoch = (num_train as u64).div_ceil(plan.batch_size as u64);
    // MeZO's radius, 1e-3, is for a model's own weights.
    let (zo_eps, rate) = adapter.map_or((1e-3, 1.0), |kind| (kind.zo_eps(), kind.rate(num_estimated > 0)));
    plan.settings = method.resolve(&plan.settings, zo_eps, num_trained, num_estimated, epoch);
    plan.learning_rate.get_or_insert(rate * method.learning_rate(num_trained, num_estimated));
    Ok(())
}

/// The method of a settled plan, for weights whose roles are assigned.
pub fn make_method(plan: &RunConfig, params: &mut Params) -> Result<Optimizer> {
    methods::method(&plan.optimizer)?.make(&plan.settings, params)
}

/// The weights that are trained: an adapter's, or those of the model's own that are asked for.
fn trained(inputs: &Inputs, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let adapter = model.adapter_ids(params);
    if inputs.is_adapted() {
        return Ok(adapter);
    }
    let mut own = selected("tune", inputs.tuned.tune.as_ref().unwrap_or(&Selection::All), model, params)?;
    own.retain(|id| !adapter.contains(id));
    Ok(own)
}

/// The weights that an `option` names; patterns that match nothing are an error.
fn selected(option: &str, wanted: &Selection, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let blocks = model.num_blocks();
    match wanted {
        Selection::None => Ok(Vec::new()),
        Selection::All => Ok(params.ids().map(|(id, _)| id).collect()),
        Selection::Last(n) if *n > blocks => Err(usage!("`{option}` last:{n}: the model has only {blocks} blocks")),
        Selection::Last(n) => Ok(model.last_blocks(*n)),
        Selection::Patterns(patterns) => {
            let names: Vec<&str> = params.ids().map(|(_, name)| name).collect();
            if let Some(idle) = patterns.iter().find(|p| !names.iter().any(|name| matches(p, name))) {
                let example = names[names.len() / 2];
                return Err(usage!("`{option}` {idle}: no weight has this name; names look like {example}"));
            }
            let matched = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
            Ok(params.ids().filter(|(_, name)| matched(name)).map(|(id, _)| id).collect())
        }
    }
}

/// The task of a resolved config as a workload.
pub fn language_task<'a>(
    config: &'a RunConfig,
    task: &'a Task,
    model: &'a Model,
    examples: &'a Splits<Example>,
    max_length: usize,
) -> LanguageTask<'a> {
    let fresh = config.settings.fresh_batch_per_direction == Some(true);
    LanguageTask {
        model,
        task,
        examples,
        max_length,
        batch_size: config.batch_size,
        micro_batch_size: config.micro_batch_size,
        eval_batch_size: config.inputs.eval_batch_size,
        batches_a_step: config.settings.num_directions.filter(|_| fresh).unwrap_or(1),
        seed: config.seed,
        base: &config.inputs.model,
    }
}
