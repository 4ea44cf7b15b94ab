//! Rotary frequencies: how far each pair of a head turns from one position to the next.

use std::f64::consts::PI;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// How the rotary frequencies are made.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// An older name of `rope_type`; some files have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Rope {
    /// With the older spelling's base, where it has none of its own.
    pub fn with_base(self, rope_theta: Option<f64>) -> Self {
        Rope { rope_theta: self.rope_theta.or(rope_theta), ..self }
    }

    /// The angle that each pair of a head turns by from one position to the next, in radians: [head_dim / 2].
    pub fn frequencies(&self, head_dim: usize) -> Result<Vec<f64>> {
        let theta = self.rope_theta.unwrap_or(10_000.0);
        let plain = (0..head_dim / 2).map(|i| libm::pow(theta, -2.0 * i as f64 / head_dim as f64));
        let factor = || self.factor.context("config.json: the rope settings have no \"factor\"");
        match self.rope_type.as_deref().or(self.kind.as_deref()).unwrap_or("default") {
            "default" => Ok(plain.collect()),
            "linear" => {
                let factor = factor()?;
                Ok(plain.map(|f| f / factor).collect())
            }
            "llama3" => {
                let factor = factor()?;
                let (low, high) = (self.low_freq_factor.unwrap_or(1.0), self.high_freq_factor.unwrap_or(4.0));
                let original = self.original_max_position_embeddings.unwrap_or(8192.0);
                // Long waves are stretched by `factor`, short ones kept, those between blended.
                Ok(plain
                    .map(|f| {
                        let turns = original * f / (2.0 * PI);
                        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                        f * (kept + (1.0 - kept) / factor)
                    })
                    .collect())
            }
            other => bail!("config.json: rope type \"{other}\" is not known; default, linear and llama3 are"),
        }
    }
}
