//! Which weights are trained: all, some of the model's, or an adapter's.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::limits;
use crate::base::numbers::number;
use crate::zo::Selection;

/// The options that select what is trained. None: not given.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainableArgs {
    /// Train only some of the model's weights: last:N (the last N blocks), or name patterns separated by commas [default: all]
    #[arg(long, value_name = "last:N|PATTERNS", help_heading = "What is trained")]
    pub tune: Option<Selection>,
    /// Train a LoRA adapter of this rank (MeZO uses 8); the model's weights are frozen. Saved in PEFT format
    #[arg(long, value_name = "RANK", help_heading = "What is trained")]
    pub lora_r: Option<usize>,
    /// LoRA alpha: the adapter's output is scaled by alpha / rank [default: twice the rank]
    #[arg(long, value_parser = number, allow_negative_numbers = true, help_heading = "What is trained")]
    pub lora_alpha: Option<f64>,
    /// Linear layers that get LoRA: the last part of their names, separated by commas, or all-linear [default: q_proj,v_proj]
    #[arg(long, value_name = "NAMES", help_heading = "What is trained")]
    pub lora_target_modules: Option<Names>,
    /// Prefix tuning: train keys and values that are put before those of every layer; the model's weights are frozen. Initialised
    /// from random tokens. Saved in PEFT format
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "What is trained")]
    pub prefix_tuning: Option<bool>,
    /// Number of tokens in the prefix [default: 5]
    #[arg(long, value_name = "TOKENS", help_heading = "What is trained")]
    pub num_prefix: Option<usize>,
}

/// Comma-separated names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Names(pub Vec<String>);

impl std::str::FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_string()).collect();
        if names.iter().any(String::is_empty) { Err("a name is empty".into()) } else { Ok(Names(names)) }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl TrainableArgs {
    /// Whether a new adapter is trained.
    pub fn is_adapter(&self) -> bool {
        self.lora_r.is_some() || self.prefix_tuning == Some(true)
    }

    /// Checks options and fills in dependent defaults. Errors are usage errors.
    pub fn checked(mut self) -> Result<Self> {
        if self.prefix_tuning == Some(false) {
            self.prefix_tuning = None;
        }
        if matches!(self.tune, Some(Selection::None)) {
            return Err(usage!("`tune` none: nothing would be trained"));
        }
        let ways = [
            ("tune", self.tune.is_some()),
            ("lora_r", self.lora_r.is_some()),
            ("prefix_tuning", self.prefix_tuning.is_some()),
        ];
        let given: Vec<String> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| format!("`{name}`")).collect();
        if let [first, second, ..] = &given[..] {
            return Err(usage!("{first} and {second} exclude each other"));
        }
        limits::positive("lora_r", self.lora_r)?;
        limits::positive("num_prefix", self.num_prefix)?;
        if let Some(alpha) = self.lora_alpha.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
            return Err(usage!("`lora_alpha` {alpha}: it must be greater than 0"));
        }
        match self.lora_r {
            Some(r) => {
                self.lora_alpha.get_or_insert(2.0 * r as f64);
                self.lora_target_modules.get_or_insert_with(|| Names(vec!["q_proj".into(), "v_proj".into()]));
            }
            None if self.lora_alpha.is_some() || self.lora_target_modules.is_some() => {
                let name = if self.lora_alpha.is_some() { "lora_alpha" } else { "lora_target_modules" };
                return Err(usage!("`{name}` needs `lora_r`"));
            }
            None => {}
        }
        match self.prefix_tuning {
            Some(_) => drop(self.num_prefix.get_or_insert(5)),
            None if self.num_prefix.is_some() => {
                return Err(usage!("`num_prefix` needs `prefix_tuning`"));
            }
            None => {}
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trained_is_said_once_and_filled_in() -> Result<()> {
        let lora = TrainableArgs { lora_r: Some(8), ..TrainableArgs::default() }.checked()?;
        assert_eq!(
            (lora.lora_alpha, lora.lora_target_modules.map(String::from)),
            (Some(16.0), Some("q_proj,v_proj".into()))
        );
        assert_eq!(TrainableArgs { prefix_tuning: Some(true), ..TrainableArgs::default() }.checked()?.num_prefix, Some(5));
        let whole = TrainableArgs { prefix_tuning: Some(false), ..TrainableArgs::default() }.checked()?;
        assert_eq!(whole, TrainableArgs::default());
        let error = |tuned: TrainableArgs| tuned.checked().unwrap_err().to_string();
        let both = TrainableArgs { lora_r: Some(8), tune: Some(Selection::Last(1)), ..TrainableArgs::default() };
        assert_eq!(error(both), "`tune` and `lora_r` exclude each other");
        assert!(
            error(TrainableArgs { lora_alpha: Some(1.0), ..TrainableArgs::default() }).starts_with("`lora_alpha` needs")
        );
        assert!(error(TrainableArgs { lora_r: Some(0), ..TrainableArgs::default() }).starts_with("`lora_r` 0"));
        assert!(error(TrainableArgs { num_prefix: Some(3), ..TrainableArgs::default() }).starts_with("`num_prefix` needs"));
        assert!("q_proj,,v_proj".parse::<Names>().is_err());
        Ok(())
    }
}

as_typed!(Names);
