//! The LLaMA family (Touvron et al. 2023): RMS norm, rotary halves, grouped keys, SwiGLU.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::ops::{self, Heads};
use super::rope::Rope;
use super::{Architecture, Linear, Loader, Packed, Shape};
use crate::data::Batch;
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
        let rope = config.rope_parameters.clone().or(config.rope_scaling.clone()).unwrap_or_default();
        let frequencies = rope.with_base(config.rope_theta).frequencies(head_dim)?;
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
        let mixed = ops::attention(&qkv, packed.batch.blocks(), heads, 1.0 / (heads.dim as f32).sqrt())?;
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

    fn stem(&self) -> Vec<ParamId> {
        vec![self.embed_tokens]
    }

    fn prepare<'a>(&self, batch: &'a Batch) -> Result<Packed<'a>> {
        Ok(Packed { batch, angles: Some(self.angles(&batch.positions)?) })
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
