//! The knobs that methods have, as given; each method fills in what was not.

use anyhow::Result;
use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use super::selection::Selection;
use crate::base::numbers::number;
use crate::params::StateDtype;

/// Whose defaults a method takes where its paper and the code that people run differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's estimator.
    Paper,
    /// MeZO's estimator, which the code that fine-tunes language models shares.
    Code,
}

/// Everything that a method may have. None: not given, or the method has it not.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Whose estimator a method takes where its paper and the code that people run differ: paper is one-sided on the
    /// sphere for zo-rmsprop, zo-adamm and r-adazo (q 10, eps 5e-3); code is MeZO's [default: code]
    #[arg(long, help_heading = "Training")]
    pub preset: Option<Preset>,
    /// On which sides of the weights a direction is tried [default: two-side; vamo: one-side]
    #[arg(long, help_heading = "Training")]
    pub perturbation_mode: Option<Sides>,
    /// Directions a step, averaged, at the memory of one; of vamo: directions a snapshot [default: 1]
    #[arg(long, alias = "q", help_heading = "Training")]
    pub num_directions: Option<usize>,
    /// Give each direction a mini-batch of its own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    pub fresh_batch_per_direction: Option<bool>,
    /// Where directions are drawn from [default: gaussian; vamo: sphere]
    #[arg(long, help_heading = "Training")]
    pub distribution: Option<Distribution>,
    /// Smoothing radius of the estimate, for vamo of its snapshots [default: 1e-3; LoRA: 1e-2; a prefix: 1e-1; with sphere: that times sqrt(number of weights), the same step]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub zo_eps: Option<f64>,
    /// Weight decay, on matrices and embeddings only [default: 0]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// b of zo-sgd-momentum [default: 0.9]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub momentum: Option<f64>,
    /// b1 of the adaptive methods' first moment [default: 0.9]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub beta1: Option<f64>,
    /// b2 of the adaptive methods' second moment [default: 0.99; zo-adam and adamw: 0.999]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub beta2: Option<f64>,
    /// The small constant in the adaptive methods' root [default: 1e-8]
    #[arg(long, alias = "adam-epsilon", value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub zeta: Option<f64>,
    /// zo-adamm: take the running maximum of the second moment, as its authors do
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    pub amsgrad: Option<bool>,
    /// How the adaptive methods hold their moments; bf16 rounds at random [default: f32]
    #[arg(long, help_heading = "Training")]
    pub state_dtype: Option<StateDtype>,
    /// vamo and sgd: the weights that get a first-order gradient; the others get a two-point estimate. all, none, last:N
    /// (blocks), or patterns of names, separated by commas [default: all]
    #[arg(long, value_name = "all|last:N|none|PATTERNS", help_heading = "Training")]
    pub fo_params: Option<Selection>,
    /// vamo: the correction's factor [default: 1 / number of weights]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub alpha: Option<f64>,
    /// vamo, svrg, mezo-svrg: steps between looks at the whole training set; what mezo-svrg's steps draw grows with
    /// their number since the last one [default: an epoch; mezo-svrg: 10]
    #[arg(long, help_heading = "Training")]
    pub snapshot_steps: Option<u64>,
    /// vamo: add directions to a snapshot until its slopes are known to --direction-tolerance, up to this many
    #[arg(long, help_heading = "Training")]
    pub max_directions: Option<usize>,
    /// vamo: the standard error of a snapshot's slopes, relative to them, that is small enough [default: 0.1]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "Training")]
    pub direction_tolerance: Option<f64>,
}

impl Settings {
    /// Checks each number by itself.
    pub fn check(&self) -> Result<()> {
        // They are used in f32, so it is there that they must be numbers and not 0.
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

    /// The knobs that were given.
    pub fn given(&self) -> Result<Vec<String>> {
        let fields = serde_json::to_value(self)?;
        let known = Settings::augment_args(Command::new(""));
        let given = known.get_arguments().filter(|a| !fields[a.get_id().as_str()].is_null());
        Ok(given.filter_map(|a| a.get_long().map(String::from)).collect())
    }
}

/// On which sides of the weights the objective is evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Sides {
    /// f(theta + eps z) and f(theta - eps z) for each direction.
    #[default]
    #[value(name = "two-side")]
    #[serde(rename = "two-side")]
    Two,
    /// f(theta + eps z) for each direction, and f(theta) once.
    #[value(name = "one-side")]
    #[serde(rename = "one-side")]
    One,
}

/// Where directions are drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// z ~ N(0, I): MeZO's.
    #[default]
    Gaussian,
    /// u = z / ||z||, uniform on the unit sphere, and the factor d in the estimate. `--zo-eps` is mu = eps sqrt(d).
    Sphere,
    /// Every coordinate +1 or -1 with equal chances.
    Rademacher,
}

impl Distribution {
    /// As it is written in a definition.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Gaussian => "z ~ N(0, I)",
            Distribution::Sphere => "u = z / |z| on the unit sphere, factor d",
            Distribution::Rademacher => "z of signs, +1 or -1",
        }
    }
}

impl Sides {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Sides::Two => "two-side",
            Sides::One => "one-side",
        }
    }
}
