//! Settings of methods as given on the command line or in a file; each method fills in the rest.

use anyhow::Result;
use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use super::selection::Selection;
use crate::base::numbers::number;
use crate::params::StateDtype;

/// The source of a method's defaults, if its paper and common code differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The gradient estimator of the paper.
    Paper,
    /// The gradient estimator of MeZO's code.
    Code,
}

/// Everything that a method may have. None: not given, or the method has it not.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// zo-rmsprop, zo-adamm and r-adazo: use the gradient estimator of the paper (one-side, sphere, 10 directions, eps 5e-3) or
    /// that of MeZO's code [default: code]
    #[arg(long, help_heading = "Training")]
    pub preset: Option<Preset>,
    /// Evaluate the loss on both sides of the weights or on one side [default: two-side; vamo: one-side]
    #[arg(long, help_heading = "Training")]
    pub perturbation_mode: Option<Sides>,
    /// Random directions per step; the estimates are averaged, without extra memory. vamo: directions per snapshot [default: 1]
    #[arg(long, alias = "q", help_heading = "Training")]
    pub num_directions: Option<usize>,
    /// Draw a new mini-batch for each direction
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    pub fresh_batch_per_direction: Option<bool>,
    /// Distribution of the random directions [default: gaussian; vamo: sphere]
    #[arg(long, help_heading = "Training")]
    pub distribution: Option<Distribution>,
    /// Size of the perturbation (eps); vamo uses it for its snapshots [default: 1e-3; LoRA: 1e-2; prefix: 1e-1; with sphere: times
    /// sqrt(number of weights), which is the same distance]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub zo_eps: Option<f64>,
    /// Weight decay, for matrices and embeddings only [default: 0]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// zo-sgd-momentum: momentum factor [default: 0.9]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub momentum: Option<f64>,
    /// Adaptive methods: decay rate of the first moment [default: 0.9]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub beta1: Option<f64>,
    /// Adaptive methods: decay rate of the second moment [default: 0.99; zo-adam and adamw: 0.999]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub beta2: Option<f64>,
    /// Adaptive methods: small constant under the square root ("epsilon" of Adam) [default: 1e-8]
    #[arg(long, alias = "adam-epsilon", value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub zeta: Option<f64>,
    /// zo-rmsprop, zo-adamm and r-adazo: in the first steps, so many, use 1 in place of the second moment under the root [default: 0]
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub second_moment_warmup: Option<u64>,
    /// zo-adamm: use the maximum of all second moments so far (AMSGrad), as in the paper
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    pub amsgrad: Option<bool>,
    /// Adaptive methods: number format of the moments; bf16 uses stochastic rounding [default: f32]
    #[arg(long, help_heading = "Training")]
    pub state_dtype: Option<StateDtype>,
    /// vamo and sgd: the weights whose gradient comes from backpropagation; for all others it is estimated from two losses. all,
    /// none, last:N (the last N blocks), or name patterns separated by commas [default: all]
    #[arg(long, value_name = "all|last:N|none|PATTERNS", help_heading = "Training")]
    pub fo_params: Option<Selection>,
    /// vamo: weight of the correction term [default: 1 / number of weights]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub alpha: Option<f64>,
    /// vamo, svrg, mezo-svrg: steps between two snapshots (passes over the whole training set). A mezo-svrg step costs more the
    /// longer ago its snapshot is [default: one epoch; mezo-svrg: 10]
    #[arg(long, help_heading = "Training")]
    pub snapshot_steps: Option<u64>,
    /// vamo: add directions to a snapshot until its error is below --direction-tolerance, at most this many in all
    #[arg(long, help_heading = "Training")]
    pub max_directions: Option<usize>,
    /// vamo: relative standard error of the slopes at which no more directions are added [default: 0.1]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub direction_tolerance: Option<f64>,
}

impl Settings {
    /// Checks the range of each number. Fails at the first that is out of range.
    pub fn check(&self) -> Result<()> {
        // The arithmetic is in f32, so the values must be normal and positive there.
        for (name, value) in [("zo_eps", self.zo_eps), ("zeta", self.zeta)] {
            if let Some(x) = value.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
                return Err(usage!("`{name}` {x}: it must be greater than 0 (and representable in f32)"));
            }
        }
        let from_zero =
            [("weight_decay", self.weight_decay), ("alpha", self.alpha), ("direction_tolerance", self.direction_tolerance)];
        for (name, value) in from_zero {
            if let Some(x) = value.filter(|x| !((*x as f32).is_finite() && *x >= 0.0)) {
                return Err(usage!("`{name}` {x}: it must be 0 or greater"));
            }
        }
        for (name, value) in [("momentum", self.momentum), ("beta1", self.beta1), ("beta2", self.beta2)] {
            if let Some(x) = value.filter(|x| !(0.0..1.0).contains(&(*x as f32))) {
                return Err(usage!("`{name}` {x}: it must be at least 0 and less than 1"));
            }
        }
        if let (Some(q), Some(most)) = (self.num_directions, self.max_directions)
            && most < q
        {
            return Err(usage!("`max_directions` {most}: it must be at least `num_directions` ({q})"));
        }
        if self.direction_tolerance.is_some() && self.max_directions.is_none() {
            return Err(usage!("`direction_tolerance` needs `max_directions`"));
        }
        Ok(())
    }

    /// Names of the options that were given, as flags without dashes.
    pub fn given(&self) -> Result<Vec<String>> {
        let fields = serde_json::to_value(self)?;
        let known = Settings::augment_args(Command::new(""));
        let given = known.get_arguments().filter(|a| !fields[a.get_id().as_str()].is_null());
        Ok(given.filter_map(|a| a.get_long().map(String::from)).collect())
    }
}

/// The sides of the weights on which the loss is evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Sides {
    /// Losses at theta + eps z and theta - eps z for each direction z.
    #[default]
    #[value(name = "two-side")]
    #[serde(rename = "two-side")]
    Two,
    /// Loss at theta + eps z for each direction z, and at theta once.
    #[value(name = "one-side")]
    #[serde(rename = "one-side")]
    One,
}

/// Distribution of the directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Normal distribution, z ~ N(0, I), as in MeZO.
    #[default]
    Gaussian,
    /// Uniform on the unit sphere, u = z / |z|; the estimate has the factor d (number of weights), and --zo-eps is mu, by default eps sqrt(d).
    Sphere,
    /// Each coordinate is +1 or -1, with equal probability.
    Rademacher,
}

impl Distribution {
    /// Text in a method's definition.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Gaussian => "z ~ N(0, I)",
            Distribution::Sphere => "u = z / |z| on the unit sphere, factor d",
            Distribution::Rademacher => "z of signs, +1 or -1",
        }
    }
}

impl Sides {
    /// Value of `--perturbation-mode`.
    pub fn name(self) -> &'static str {
        match self {
            Sides::Two => "two-side",
            Sides::One => "one-side",
        }
    }
}
