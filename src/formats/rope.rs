//! The frequencies of rotary position embeddings (Su et al. 2021, arXiv 2104.09864), with the scalings of transformers.

use std::f64::consts::PI;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::limits;
use crate::base::{Table, Use, fields};

const YARN: &str = "YaRN's";

const LONGROPE: &str = "LongRoPE's";

/// The fields of config.json's rope objects.
pub const FIELDS: Table = Table {
    file: "config.json, in rope_scaling and rope_parameters",
    of: "",
    fields: &[
        ("rope_type", Use::Read, "default, linear, dynamic and llama3 are known; yarn, longrope and others are refused"),
        ("type", Use::Read, "the older name of rope_type; it counts if both are there"),
        ("rope_theta", Use::Read, "the base; it counts before the one beside the object"),
        ("factor", Use::Read, "of linear, dynamic and llama3; with default it must be 1"),
        ("low_freq_factor", Use::Read, "llama3's"),
        ("high_freq_factor", Use::Read, "llama3's"),
        ("original_max_position_embeddings", Use::Read, "llama3's; else max_position_embeddings, as in transformers"),
        ("partial_rotary_factor", Use::Only(&["1"]), "heads are turned whole"),
        ("attention_factor", Use::Refused, YARN),
        ("beta_fast", Use::Refused, YARN),
        ("beta_slow", Use::Refused, YARN),
        ("mscale", Use::Refused, YARN),
        ("mscale_all_dim", Use::Refused, YARN),
        ("truncate", Use::Refused, YARN),
        ("finetuned", Use::NoEffect, "a note in older files"),
        ("short_factor", Use::Refused, LONGROPE),
        ("long_factor", Use::Refused, LONGROPE),
        ("mrope_section", Use::Refused, "positions of images and videos"),
    ],
};

/// Gemma 3's `rope_parameters`: one object per kind of block.
pub const KINDS: Table = Table {
    file: "config.json, in rope_parameters",
    of: "Gemma 3",
    fields: &[("full_attention", Use::Read, "an object as above"), ("sliding_attention", Use::Read, "an object as above")],
};

/// The settings of the rotary frequencies.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Rope {
    /// The settings in the object at `place`. Fails on unsupported types and fields.
    pub fn of(place: &str, object: &Map<String, Value>) -> Result<Self> {
        let rope: Rope = serde_json::from_value(object.clone().into()).context(place.to_string())?;
        if let "yarn" | "longrope" | "su" | "mrope" | "ntk" | "proportional" | "axial" = rope.kind() {
            return Err(rope.unknown()).context(place.to_string());
        }
        fields::check(&[FIELDS], place, object)?;
        Ok(rope)
    }

    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.kind.as_deref()).unwrap_or("default")
    }

    fn unknown(&self) -> anyhow::Error {
        anyhow::anyhow!("the rope type \"{}\" is not supported; default, linear, dynamic and llama3 are", self.kind())
    }

    /// Sets the base if the object has none.
    pub fn with_base(self, rope_theta: Option<f64>) -> Self {
        Rope { rope_theta: self.rope_theta.or(rope_theta), ..self }
    }

    /// Sets the original length; it overrides the object's own, as in transformers.
    pub fn with_original(self, positions: Option<f64>) -> Self {
        let original_max_position_embeddings = positions.or(self.original_max_position_embeddings);
        Rope { original_max_position_embeddings, ..self }
    }

    /// The frequencies of a head's pairs, in radians per position [head_dim / 2]. `positions`: the model's maximum
    /// length.
    pub fn frequencies(&self, head_dim: usize, positions: usize) -> Result<Vec<f64>> {
        let theta = self.rope_theta.unwrap_or(10_000.0);
        limits::check_positive(&[("rope_theta", Some(theta))])?;
        let plain = (0..head_dim / 2).map(|i| libm::pow(theta, -2.0 * i as f64 / head_dim as f64));
        let needed = |name: &str, value: Option<f64>| match value {
            Some(value) if (value as f32).is_normal() && value > 0.0 => Ok(value),
            Some(value) => bail!("config.json: the rope settings' {name} is {value}; it must be above 0"),
            None => bail!("config.json: the rope settings of the type \"{}\" have no {name}", self.kind()),
        };
        match self.kind() {
            "default" => match self.factor {
                Some(factor) if factor != 1.0 => bail!(
                    "config.json: the rope settings have the factor {factor}, but their type is \"default\", which does not \
                     scale; correct one of the two"
                ),
                _ => Ok(plain.collect()),
            },
            // It scales only beyond the model's maximum length, to which prompts are limited.
            "dynamic" => needed("factor", self.factor).map(|_| plain.collect()),
            "linear" => {
                let factor = needed("factor", self.factor)?;
                Ok(plain.map(|f| f / factor).collect())
            }
            "llama3" => {
                let factor = needed("factor", self.factor)?;
                let low = needed("low_freq_factor", self.low_freq_factor)?;
                let high = needed("high_freq_factor", self.high_freq_factor)?;
                let original = self.original_max_position_embeddings.or(Some(positions as f64));
                let original = needed("original_max_position_embeddings", original)?;
                if high <= low {
                    bail!("config.json: the rope settings' high_freq_factor {high} is not above low_freq_factor {low}");
                }
                // Long wavelengths are scaled by `factor`, short ones kept, those between interpolated.
                Ok(plain
                    .map(|f| {
                        let turns = original * f / (2.0 * PI);
                        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                        f * (kept + (1.0 - kept) / factor)
                    })
                    .collect())
            }
            _ => Err(self.unknown()).context("config.json"),
        }
    }
}
