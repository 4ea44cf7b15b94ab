//! The LLaMA family (Touvron et al. 2023): RMS norm, rotary halves, grouped keys, SwiGLU.

use std::f64::consts::PI;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::ops::{self, Heads};
use super::{Architecture, Linear, Loader, Packed, Shape};
use crate::params::{ParamId, Weights};

/// LLaMA's config.json, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "max_positions")]
    max_position_embeddings: usize,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// The older spelling: the base here, the scaling beside it.
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// The newer spelling: both in one.
    rope_parameters: Option<Rope>,
}

fn max_positions() -> usize {
    2048
}

fn eps() -> f64 {
    1e-6
}

fn silu() -> String {
    "silu".into()
}

/// How the rotary frequencies are made.
#[derive(Clone, Debug, Default, Deserialize)]
struct Rope {
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
    /// Both spellings brought together.
    fn of(config: &Config) -> Self {
        let mut rope = config.rope_parameters.clone().or(config.rope_scaling.clone()).unwrap_or_default();
        rope.rope_theta = rope.rope_theta.or(config.rope_theta);
        rope
    }

    /// The angle that each pair of a head turns by from one position to the next, in radians: [head_dim / 2].
    fn frequencies(&self, head_dim: usize) -> Result<Vec<f64>> {
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

struct Block {
    input_norm: ParamId,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    post_norm: ParamId,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// The whole model as handles into the weights.
pub struct Llama {
    config: Config,
    heads: Heads,
    frequencies: Vec<f64>,
    embed_tokens: ParamId,
    blocks: Vec<Block>,
    norm: ParamId,
    head: Linear,
}

impl Llama {
    /// Reads the weights that the config asks for.
    pub fn load(config: Config, loader: &mut Loader) -> Result<Self> {
        if config.hidden_act != "silu" {
            bail!("config.json: hidden_act \"{}\" is not known for LLaMA; silu is", config.hidden_act);
        }
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let kv_heads = config.num_key_value_heads.unwrap_or(heads);
        super::check_sizes(&[
            ("vocab_size", config.vocab_size),
            ("hidden_size", hidden),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", config.head_dim.unwrap_or(hidden / heads.max(1))),
            ("max_position_embeddings", config.max_position_embeddings),
        ])?;
        if !heads.is_multiple_of(kv_heads) {
            bail!("config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}");
        }
        let head_dim = config.head_dim.unwrap_or(hidden / heads);
        if !head_dim.is_multiple_of(2) {
            bail!("config.json: head_dim {head_dim} is odd, and rotary positions turn pairs");
        }
        let frequencies = Rope::of(&config).frequencies(head_dim)?;
        loader.set_aliases(&[("model.", "")]);
        let embed_tokens = loader.weight("model.embed_tokens.weight", &[config.vocab_size, hidden])?;
        let (inner, attention_bias, mlp_bias) = (config.intermediate_size, config.attention_bias, config.mlp_bias);
        let mut blocks = Vec::new();
        for i in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            blocks.push(Block {
                input_norm: loader.weight(&name("input_layernorm.weight"), &[hidden])?,
                q: loader.linear(&name("self_attn.q_proj"), heads * head_dim, hidden, attention_bias)?,
                k: loader.linear(&name("self_attn.k_proj"), kv_heads * head_dim, hidden, attention_bias)?,
                v: loader.linear(&name("self_attn.v_proj"), kv_heads * head_dim, hidden, attention_bias)?,
                out: loader.linear(&name("self_attn.o_proj"), hidden, heads * head_dim, attention_bias)?,
                post_norm: loader.weight(&name("post_attention_layernorm.weight"), &[hidden])?,
                gate: loader.linear(&name("mlp.gate_proj"), inner, hidden, mlp_bias)?,
                up: loader.linear(&name("mlp.up_proj"), inner, hidden, mlp_bias)?,
                down: loader.linear(&name("mlp.down_proj"), hidden, inner, mlp_bias)?,
            });
        }
        let norm = loader.weight("model.norm.weight", &[hidden])?;
        let head = loader.head(config.tie_word_embeddings, embed_tokens, &[config.vocab_size, hidden])?;
        let heads = Heads { queries: heads, keys: kv_heads, dim: head_dim };
        Ok(Llama { config, heads, frequencies, embed_tokens, blocks, norm, head })
    }

    fn norm(&self, weights: Weights, id: ParamId, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, weights.leaf(id), self.config.rms_norm_eps as f32)
    }

    /// cos and sin of every token's angles: [tokens, head_dim / 2] each.
    fn angles(&self, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let shape = (positions.len(), self.heads.dim / 2);
        // transformers multiplies in f32; so do we, to turn by the same angles.
        let angles = positions.iter().flat_map(|&p| self.frequencies.iter().map(move |&f| p as f32 * f as f32));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (libm::cosf(a), libm::sinf(a))).unzip();
        Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
    }

    /// onto + attention(x) in block `i`.
    fn attention(&self, weights: Weights, i: usize, onto: &Tensor, x: &Tensor, packed: &Packed) -> Result<Tensor> {
        let block = &self.blocks[i];
        let heads = self.heads;
        let qkv = Linear::apply_all([&block.q, &block.k, &block.v], weights, x)?;
        let (cos, sin) = packed.angles.as_ref().context("a batch that was not prepared for rotary positions")?;
        let qkv = ops::rotate(&qkv, heads.queries + heads.keys, cos, sin)?;
        let mixed = packed.attend(weights, i, &qkv, heads, 1.0 / (heads.dim as f32).sqrt())?;
        let [onto, mixed] = [onto, &mixed].map(|x| packed.onward(i + 1 == self.blocks.len(), x));
        block.out.apply_onto(weights, &onto?, &mixed?)
    }

    /// onto + the feed-forward layers of x.
    fn feed_forward(&self, weights: Weights, block: &Block, onto: &Tensor, x: &Tensor) -> Result<Tensor> {
        let gated = ops::swiglu(&Linear::apply_all([&block.gate, &block.up], weights, x)?)?;
        block.down.apply_onto(weights, onto, &gated)
    }
}

impl Architecture for Llama {
    fn shape(&self) -> Shape {
        Shape { vocab_size: self.config.vocab_size, max_length: self.config.max_position_embeddings }
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn heads(&self) -> Heads {
        self.heads
    }

    fn stem(&self) -> Vec<ParamId> {
        vec![self.embed_tokens]
    }

    fn prepare<'a>(&self, packed: Packed<'a>) -> Result<Packed<'a>> {
        Ok(Packed { angles: Some(self.angles(&packed.positions)?), ..packed })
    }

    fn embed(&self, weights: Weights, packed: &Packed) -> Result<Tensor> {
        ops::embed(weights, self.embed_tokens, &packed.batch.tokens)
    }

    fn block(&self, weights: Weights, i: usize, x: Tensor, packed: &Packed) -> Result<Tensor> {
        let block = &self.blocks[i];
        let x = self.attention(weights, i, &x, &self.norm(weights, block.input_norm, &x)?, packed)?;
        self.feed_forward(weights, block, &x, &self.norm(weights, block.post_norm, &x)?)
    }

    fn logits(&self, weights: Weights, hidden: &Tensor) -> Result<Tensor> {
        let normed = self.norm(weights, self.norm, hidden)?;
        self.head.apply(weights, &normed)
    }
}
