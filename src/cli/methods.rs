//! `methods`: the table of methods, for people.

use anyhow::Result;
use candle_core::DType;
use clap::{Args, Command};

use super::args::MethodsArgs;
use super::screen::say;
use crate::base::numbers::short;
use crate::config::RawArgs;
use crate::device::{Array, Buffer};
use crate::params::{Params, Role};
use crate::zo::methods::{DEFAULT_METHOD, METHODS, method};
use crate::zo::{Method, Order, Settings};

/// The numbers in the equations are those of a run of this size and length, and of MeZO's 1,000 training rows in batches of 16.
const NUM_WEIGHTS: usize = 1_000_000;

const NUM_STEPS: u64 = 1000;

const STEPS_PER_EPOCH: u64 = 63;

const INTRODUCTION: &str =
    "The equations have the default numbers for a million trained weights, 1,000 steps and 1,000 training rows in batches of 16.
theta: the weights, g: the estimate of the gradient, lr: the learning rate, q: the number of directions z.
Learning rates are multiplied for adapters: by 10 for LoRA, by 1000 for a prefix (first order: 300); those of methods whose step does
not get longer with the gradient (signs, zo-rmsprop, zo-adamm, zo-adam, r-adazo, meazo) by 1 and by 10.
";

pub fn methods_verb(args: MethodsArgs) -> Result<()> {
    match args.name {
        Some(name) => {
            let method = method(&name)?;
            say(&format!("{}\n{}", describe(method)?, options(method)))
        }
        None => {
            say(INTRODUCTION)?;
            METHODS.iter().try_for_each(|method| say(&format!("{}\n", describe(method)?)))
        }
    }
}

/// Name, source, equations, default learning rate, and names of the options.
fn describe(method: &Method) -> Result<String> {
    let estimated = if method.order == Order::Zeroth { NUM_WEIGHTS } else { 0 };
    let settings = method.resolve(&Settings::default(), 1e-3, NUM_WEIGHTS, estimated, STEPS_PER_EPOCH);
    let optimizer = method.make(&settings, &weights(method)?)?;
    let gradients = match method.order {
        Order::Zeroth => "forward passes only",
        Order::Mixed => "backward passes for the weights in --fo-params, else forward passes",
        Order::First => "backward passes",
    };
    let (default, rate) = (if method.name == DEFAULT_METHOD { "  (the default)" } else { "" }, method.rate_formula());
    let rate_here = match method.order {
        Order::Zeroth => format!(" = {} here", short(method.learning_rate(NUM_WEIGHTS, estimated, NUM_STEPS))),
        _ => String::new(),
    };
    let options: Vec<String> = method.options().map(|name| format!("--{name}")).collect();
    Ok(format!(
        "{}{default}\n  {}\n  step      {}\n  gradient  {} ({gradients})\n  lr        {rate}{rate_here}\n  options   {}",
        method.name,
        method.source,
        optimizer.rule.definition(),
        optimizer.estimator.definition(),
        options.join(" "),
    ))
}

/// What the help says of the options of a method.
fn options(method: &Method) -> String {
    let train = RawArgs::augment_args(Command::new("train"));
    let explained = method.options().filter_map(|name| {
        let argument = train.get_arguments().find(|argument| argument.get_long() == Some(name))?;
        Some(format!("\n  --{name}\n      {}", argument.get_help()?))
    });
    explained.collect()
}

/// One tensor of weights, with the role that a run gives it.
fn weights(method: &Method) -> Result<Params> {
    let mut params = Params::new(DType::F32);
    let id = params.insert("weight", Array::new(&[NUM_WEIGHTS], Buffer::zeros(DType::F32, NUM_WEIGHTS)?)?)?;
    params.set_role(id, if method.order == Order::Zeroth { Role::Estimated } else { Role::Differentiated });
    Ok(params)
}
