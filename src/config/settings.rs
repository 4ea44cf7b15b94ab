//! The knobs that methods have, as given; each method fills in what was not.

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Distribution, Knobs, Sides};

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

/// Which weights get a first-order gradient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FoParams {
    /// All of them: pure first order.
    All,
    /// Those of the last N blocks and of the head, as far as nothing below reads them too.
    Last(usize),
    /// None: pure zeroth order.
    None,
    /// Those whose name matches one of the patterns.
    Patterns(Vec<String>),
}

impl std::str::FromStr for FoParams {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(FoParams::All),
            "none" => Ok(FoParams::None),
            text => match text.strip_prefix("last:") {
                Some(n) => match n.parse() {
                    Ok(n) if n > 0 => Ok(FoParams::Last(n)),
                    _ => Err(format!("last:{n}: it must be a number of blocks, at least 1")),
                },
                None if text.split(',').any(str::is_empty) => Err("a pattern is empty".into()),
                None => Ok(FoParams::Patterns(text.split(',').map(String::from).collect())),
            },
        }
    }
}

impl TryFrom<String> for FoParams {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<FoParams> for String {
    fn from(params: FoParams) -> String {
        match params {
            FoParams::All => "all".into(),
            FoParams::Last(n) => format!("last:{n}"),
            FoParams::None => "none".into(),
            FoParams::Patterns(patterns) => patterns.join(","),
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there")]
pub struct Settings {
    pub preset: Option<Preset>,
    pub perturbation_mode: Option<Sides>,
    pub distribution: Option<Distribution>,
    pub num_directions: Option<usize>,
    pub fresh_batch_per_direction: Option<bool>,
    pub zo_eps: Option<f64>,
    pub weight_decay: Option<f64>,
    pub momentum: Option<f64>,
    pub beta1: Option<f64>,
    pub beta2: Option<f64>,
    pub zeta: Option<f64>,
    pub amsgrad: Option<bool>,
    pub state_dtype: Option<StateDtype>,
    pub fo_params: Option<FoParams>,
    pub alpha: Option<f64>,
    pub snapshot_steps: Option<u64>,
    pub max_directions: Option<usize>,
    pub direction_tolerance: Option<f64>,
}

impl Settings {
    /// What was typed, each number checked by itself.
    pub fn check(knobs: &Knobs) -> Result<Self> {
        super::positive("--num-directions", knobs.num_directions)?;
        super::positive("--max-directions", knobs.max_directions)?;
        super::positive("--snapshot-steps", knobs.snapshot_steps.map(|n| n as usize))?;
        // They are used in f32, so it is there that they must be numbers and not 0.
        for (flag, value) in [("--zo-eps", knobs.zo_eps), ("--zeta", knobs.zeta)] {
            if let Some(x) = value.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
                return Err(usage!("{flag} {x}: it must be a number above 0, within what f32 can hold"));
            }
        }
        let from_zero = [
            ("--weight-decay", knobs.weight_decay),
            ("--alpha", knobs.alpha),
            ("--direction-tolerance", knobs.direction_tolerance),
        ];
        for (flag, value) in from_zero {
            if let Some(x) = value.filter(|x| !((*x as f32).is_finite() && *x >= 0.0)) {
                return Err(usage!("{flag} {x}: it must be 0 or a number above it"));
            }
        }
        for (flag, value) in [("--momentum", knobs.momentum), ("--beta1", knobs.beta1), ("--beta2", knobs.beta2)] {
            if let Some(x) = value.filter(|x| !(0.0..1.0).contains(&(*x as f32))) {
                return Err(usage!("{flag} {x}: it must be at least 0 and below 1"));
            }
        }
        if let (Some(q), Some(most)) = (knobs.num_directions, knobs.max_directions)
            && most < q
        {
            return Err(usage!("--max-directions {most}: it must be at least --num-directions, {q}"));
        }
        if knobs.direction_tolerance.is_some() && knobs.max_directions.is_none() {
            return Err(usage!("--direction-tolerance: it says when to stop before --max-directions, which is not given"));
        }
        Ok(Settings {
            preset: knobs.preset,
            perturbation_mode: knobs.perturbation_mode,
            distribution: knobs.distribution,
            num_directions: knobs.num_directions,
            fresh_batch_per_direction: knobs.fresh_batch_per_direction,
            zo_eps: knobs.zo_eps,
            weight_decay: knobs.weight_decay,
            momentum: knobs.momentum,
            beta1: knobs.beta1,
            beta2: knobs.beta2,
            zeta: knobs.zeta,
            amsgrad: knobs.amsgrad,
            state_dtype: knobs.state_dtype,
            fo_params: knobs.fo_params.clone(),
            alpha: knobs.alpha,
            snapshot_steps: knobs.snapshot_steps,
            max_directions: knobs.max_directions,
            direction_tolerance: knobs.direction_tolerance,
        })
    }

    /// The knobs that were given, as flags without their dashes.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("preset", self.preset.is_some()),
            ("perturbation-mode", self.perturbation_mode.is_some()),
            ("distribution", self.distribution.is_some()),
            ("num-directions", self.num_directions.is_some()),
            ("fresh-batch-per-direction", self.fresh_batch_per_direction.is_some()),
            ("zo-eps", self.zo_eps.is_some()),
            ("weight-decay", self.weight_decay.is_some()),
            ("momentum", self.momentum.is_some()),
            ("beta1", self.beta1.is_some()),
            ("beta2", self.beta2.is_some()),
            ("zeta", self.zeta.is_some()),
            ("amsgrad", self.amsgrad.is_some()),
            ("state-dtype", self.state_dtype.is_some()),
            ("fo-params", self.fo_params.is_some()),
            ("alpha", self.alpha.is_some()),
            ("snapshot-steps", self.snapshot_steps.is_some()),
            ("max-directions", self.max_directions.is_some()),
            ("direction-tolerance", self.direction_tolerance.is_some()),
        ]
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
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
