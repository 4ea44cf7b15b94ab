//! The knobs that methods have, as given; each method fills in what was not.

use std::fmt;

use anyhow::Result;
use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use super::knobs::number;
use super::{Distribution, Sides};

/// How a rule's moments are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateDtype {
    /// 4 bytes a number.
    #[default]
    F32,
    /// 2 bytes, rounded at random so that the mean is kept.
    Bf16,
}

/// Whose defaults a method takes where its paper and the code that people run differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's estimator.
    Paper,
    /// MeZO's estimator, which the code that fine-tunes language models shares.
    Code,
}

/// Some of a model's weights: those that get a first-order gradient, or those that are trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selection {
    /// All of them.
    All,
    /// Those of the last N blocks and of the head, as far as nothing below reads them too.
    Last(usize),
    /// None.
    None,
    /// Those whose name matches one of the patterns.
    Patterns(Vec<String>),
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Selection::All),
            "none" => Ok(Selection::None),
            text => match text.strip_prefix("last:") {
                Some(n) => match n.parse() {
                    Ok(n) if n > 0 => Ok(Selection::Last(n)),
                    _ => Err(format!("last:{n}: it must be a number of blocks, at least 1")),
                },
                None if text.split(',').any(str::is_empty) => Err("a pattern is empty".into()),
                None => Ok(Selection::Patterns(text.split(',').map(String::from).collect())),
            },
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Selection::All => f.write_str("all"),
            Selection::Last(n) => write!(f, "last:{n}"),
            Selection::None => f.write_str("none"),
            Selection::Patterns(patterns) => f.write_str(&patterns.join(",")),
        }
    }
}

/// Whether `pattern` matches a name: where it has no `*`, by standing somewhere in it; where it has, as a whole, with any
/// text in each `*`'s place.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name.contains(pattern) };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
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
        for (flag, value) in [("--zo-eps", self.zo_eps), ("--zeta", self.zeta)] {
            if let Some(x) = value.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
                return Err(usage!("{flag} {x}: it must be a number above 0, within what f32 can hold"));
            }
        }
        let from_zero = [
            ("--weight-decay", self.weight_decay),
            ("--alpha", self.alpha),
            ("--direction-tolerance", self.direction_tolerance),
        ];
        for (flag, value) in from_zero {
            if let Some(x) = value.filter(|x| !((*x as f32).is_finite() && *x >= 0.0)) {
                return Err(usage!("{flag} {x}: it must be 0 or a number above it"));
            }
        }
        for (flag, value) in [("--momentum", self.momentum), ("--beta1", self.beta1), ("--beta2", self.beta2)] {
            if let Some(x) = value.filter(|x| !(0.0..1.0).contains(&(*x as f32))) {
                return Err(usage!("{flag} {x}: it must be at least 0 and below 1"));
            }
        }
        if let (Some(q), Some(most)) = (self.num_directions, self.max_directions)
            && most < q
        {
            return Err(usage!("--max-directions {most}: it must be at least --num-directions, {q}"));
        }
        if self.direction_tolerance.is_some() && self.max_directions.is_none() {
            return Err(usage!("--direction-tolerance: it says when to stop before --max-directions, which is not given"));
        }
        Ok(())
    }

    /// The knobs that were given, as flags without their dashes.
    pub fn given(&self) -> Result<Vec<String>> {
        let fields = serde_json::to_value(self)?;
        let known = Settings::augment_args(Command::new(""));
        let given = known.get_arguments().filter(|a| !fields[a.get_id().as_str()].is_null());
        Ok(given.filter_map(|a| a.get_long().map(String::from)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_names_and_stars_match_anything() {
        let name = "model.decoder.layers.11.fc1.weight";
        for pattern in ["fc1", "layers.11.", "*", "*fc1*", "model.*.weight", "*.weight", "m*d*r.layers*fc1.weight", name] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["fc2", "*fc1", "layers*", "model.*.bias", "*x*", "fc1*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        assert!(!matches("a*a", "a"), "a star stands between two different letters");
    }
}
