//! The options of a run that trains a lab's function in place of a language model.

use anyhow::Result;
use serde_json::{Map, Value};

use super::args::{Common, RawArgs};
use super::inputs::Inputs;
use super::trainable::TrainableArgs;
use super::values::LearningRate;
use crate::labs::LabArgs;
use crate::labs::mnist::CLASSES;
use crate::labs::table::{LabKind, kind};

/// Options of every verb that opens a model which labs have too.
const FOR_EVERY_LAB: [&str; 3] = ["dtype", "device", "threads"];

/// Options of training that only some labs have: those that are finite sums.
const FOR_SUMS: [&str; 5] = ["batch_size", "micro_batch_size", "num_train", "num_dev", "fresh_batch_per_direction"];

/// The lab that the options name, if they name one. Fails on an option that it does not have.
pub(super) fn check(raw: &RawArgs) -> Result<Option<&'static LabKind>> {
    let given = |args: Value| -> Map<String, Value> {
        let Value::Object(fields) = args else { return Map::new() };
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
    };
    let of_labs = given(serde_json::to_value(LabArgs { lab: None, ..raw.lab.clone() })?);
    let Some(name) = &raw.lab.lab else {
        return match of_labs.keys().next() {
            Some(option) => Err(usage!("`{option}` is an option of labs; give `lab` too, or leave it out")),
            None => Ok(None),
        };
    };
    let lab = kind(name)?;
    let (mut common, tuned) = (given(serde_json::to_value(&raw.common)?), given(serde_json::to_value(&raw.tuned)?));
    common.retain(|option, _| !FOR_EVERY_LAB.contains(&option.as_str()));
    let mut of_sums = given(serde_json::to_value(raw)?);
    of_sums.retain(|option, _| FOR_SUMS.contains(&option.as_str()));
    let mut specific = [&common, &of_sums, &tuned, &of_labs].into_iter().flat_map(|given| given.keys().map(String::as_str));
    if let Some(option) = specific.find(|option| !lab.options.contains(option)) {
        let own: Vec<String> = lab.options.iter().map(|own| format!("`{own}`")).collect();
        let own =
            if own.is_empty() { "it has none of its own".into() } else { format!("its own options are {}", own.join(", ")) };
        return Err(usage!("`{option}` does not apply to the lab {name}; {own}"));
    }
    if let Some(digit) = raw.lab.target.filter(|digit| *digit >= CLASSES) {
        return Err(usage!("`target` {digit}: it must be a digit, 0 to 9"));
    }
    match raw.learning_rate {
        Some(LearningRate::Fixed(_)) => Ok(Some(lab)),
        Some(LearningRate::Auto) => {
            Err(usage!("`learning_rate` auto: a lab has no search for a learning rate; give a number"))
        }
        None => Err(usage!("`lab` {name}: a lab has no default learning rate; give `learning_rate`")),
    }
}

/// The inputs of a run of this lab.
pub(super) fn inputs(lab: &LabKind, common: Common) -> Result<Inputs> {
    let model = common.model.clone().unwrap_or_else(|| lab.name.into());
    let inputs = Inputs::check(Common { model: Some(model), ..common })?;
    Ok(Inputs { task: None, tuned: TrainableArgs::default(), ..inputs })
}
