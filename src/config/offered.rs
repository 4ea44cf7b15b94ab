//! Names that help and completions offer for an option. Other names are not refused here: later checks name the nearest.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

use crate::data::task::BUILTIN;
use crate::zo::methods::METHODS;

/// Models of the supported kinds, the smallest first.
const MODELS: [&str; 6] = [
    "opt-mini",
    "facebook/opt-125m",
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M",
    "facebook/opt-350m",
    "facebook/opt-1.3b",
];

/// A parser of any text that offers these names.
#[derive(Clone)]
pub(crate) struct Offered(pub(crate) fn() -> Vec<PossibleValue>);

impl TypedValueParser for Offered {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter()))
    }
}

/// The methods, with their sources.
pub(crate) fn method_names() -> Vec<PossibleValue> {
    METHODS.iter().map(|method| PossibleValue::new(method.name).help(method.source)).collect()
}

pub(crate) fn task_names() -> Vec<PossibleValue> {
    BUILTIN.iter().map(|(name, _)| PossibleValue::new(*name)).collect()
}

/// What a learning rate may be beside a number.
pub(crate) fn rate_names() -> Vec<PossibleValue> {
    vec![PossibleValue::new("auto")]
}

pub(crate) fn model_names() -> Vec<PossibleValue> {
    MODELS.map(PossibleValue::new).to_vec()
}
