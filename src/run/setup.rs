//! The setup of a run: the roles of the weights, the method, the workload.

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

/// Assigns the roles, resolves the settings that depend on the number of weights and of training examples (into the
/// config), and makes the method.
pub fn set_up(config: &mut RunConfig, loaded: &mut LoadedModel, num_train: usize) -> Result<Optimizer> {
    loaded.begin_adapter(config)?;
    assign_roles(config, &loaded.model, &mut loaded.params)?;
    let (trained, estimated) = (loaded.params.count_over(ParamSet::Trained), loaded.params.count_over(ParamSet::Estimated));
    resolve_config(config, trained_adapter(config, &loaded.model).as_ref(), trained, estimated, num_train)?;
    let rate = config.learning_rate.unwrap_or_default();
    if let Some(decay) = config.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} x learning rate {rate:e} is below the precision of f32 and has no effect");
    }
    let optimizer = make_method(config, &mut loaded.params)?;
    warn_of_rounded_displacement(config, &mut loaded.params)?;
    Ok(optimizer)
}

/// Warns if half precision rounds away most of the displacement to the points where the loss is evaluated.
fn warn_of_rounded_displacement(config: &RunConfig, params: &mut Params) -> Result<()> {
    let Some(radius) = config.settings.zo_eps.filter(|_| config.inputs.dtype.dtype() != DType::F32) else { return Ok(()) };
    let eps = match config.settings.distribution {
        Some(Distribution::Sphere) => radius / (params.count_over(ParamSet::Trained) as f64).sqrt(),
        _ => radius,
    };
    let direction = Direction::from(config.settings.distribution.unwrap_or_default());
    let share = params.displaced_share(direction.term(direction_seed(config.seed, 1, 0), eps as f32), ParamSet::Trained)?;
    if share < 0.5 {
        tracing::warn!(
            "rounding in {} removes {:.0} % of the perturbation (`zo_eps` {radius:e}), so the gradient estimates are poor; use a \
             larger `zo_eps` or `dtype f32`",
            config.inputs.dtype.dtype().as_str(),
            100.0 * (1.0 - share)
        );
    }
    Ok(())
}

/// Assigns each weight's role: frozen, estimated or differentiated.
pub fn assign_roles(config: &RunConfig, model: &Model, params: &mut Params) -> Result<()> {
    let trained = trained(&config.inputs, model, params)?;
    assign(config, trained, Some(model), params)
}

/// Assigns the roles of a lab's weights: all are trained.
pub fn assign_lab_roles(config: &RunConfig, params: &mut Params) -> Result<()> {
    let all = params.ids().map(|(id, _)| id).collect();
    assign(config, all, None, params)
}

/// Assigns the roles of the `trained` weights, and freezes the others.
fn assign(config: &RunConfig, trained: Vec<ParamId>, model: Option<&Model>, params: &mut Params) -> Result<()> {
    let wanted = methods::method(&config.optimizer)?.fo_params(&config.settings);
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

/// The adapter that is trained instead of the model's own weights, if any.
pub fn trained_adapter(config: &RunConfig, model: &Model) -> Option<AdapterKind> {
    model.adapter().map(Adapter::kind).filter(|_| config.inputs.is_adapted()).cloned()
}

/// Resolves the settings that depend on the number of trained weights, of those among them without a first-order
/// gradient, of training examples and of steps.
pub fn resolve_config(
    config: &mut RunConfig,
    adapter: Option<&AdapterKind>,
    num_trained: usize,
    num_estimated: usize,
    num_train: usize,
) -> Result<()> {
    let method = methods::method(&config.optimizer)?;
    method.check(&config.settings)?;
    let epoch = (num_train as u64).div_ceil(config.batch_size as u64);
    // MeZO's 1e-3 is for a model's own weights.
    let (zo_eps, rate) =
        adapter.map_or((1e-3, 1.0), |kind| (kind.zo_eps(), kind.rate(num_estimated > 0, method.is_normalised)));
    config.settings = method.resolve(&config.settings, zo_eps, num_trained, num_estimated, epoch);
    let default = rate * method.learning_rate(num_trained, num_estimated, config.max_steps);
    config.learning_rate.get_or_insert(default);
    Ok(())
}

/// The method of a resolved config, for weights whose roles are assigned.
pub fn make_method(config: &RunConfig, params: &mut Params) -> Result<Optimizer> {
    methods::method(&config.optimizer)?.make(&config.settings, params)
}

/// The trained weights: an adapter's, or those of the model that --tune selects.
fn trained(inputs: &Inputs, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let adapter = model.adapter_ids(params);
    if inputs.is_adapted() {
        return Ok(adapter);
    }
    let mut own = selected("tune", inputs.tuned.tune.as_ref().unwrap_or(&Selection::All), Some(model), params)?;
    own.retain(|id| !adapter.contains(id));
    Ok(own)
}

/// The weights that the `option` selects; only those of a `model` are in blocks. A pattern that matches none is a usage
/// error.
fn selected(option: &str, wanted: &Selection, model: Option<&Model>, params: &Params) -> Result<Vec<ParamId>> {
    match wanted {
        Selection::None => Ok(Vec::new()),
        Selection::All => Ok(params.ids().map(|(id, _)| id).collect()),
        Selection::Last(n) => match model.map(|model| (model, model.num_blocks())) {
            None => Err(usage!("`{option}` last:{n}: a lab has no blocks; name weights")),
            Some((_, blocks)) if *n > blocks => Err(usage!("`{option}` last:{n}: the model has only {blocks} blocks")),
            Some((model, _)) => Ok(model.last_blocks(*n)),
        },
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
        batches_per_step: config.settings.num_directions.filter(|_| fresh).unwrap_or(1),
        seed: config.seed,
        base: &config.inputs.model,
    }
}
