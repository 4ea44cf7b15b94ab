//! The LLaMA family (Touvron et al. 2023, arXiv 2302.13971): RMS norm, rotary positions, grouped-query attention,
//! SwiGLU; and the variants that a [`Design`] describes.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::design::Design;
use crate::device::{Activations, Heads};
use crate::model::{Architecture, Head, Linear, Loader, Packed, Segment, Shape};
use crate::ops;
use crate::params::{ParamId, Weights};

struct Block {
    input_norm: ParamId,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Of each query head, and of each key head.
    qk_norm: Option<(ParamId, ParamId)>,
    out: Linear,
    /// Before the feed-forward layers.
    post_norm: ParamId,
    gate: Linear,
    up: Linear,
    down: Linear,
    /// Of the outputs of the attention and of the feed-forward layers.
    output_norms: Option<(ParamId, ParamId)>,
}

/// The model as handles to its weights.
pub struct Llama {
    design: Design,
    embed_tokens: ParamId,
    blocks: Vec<Block>,
    norm: ParamId,
    head: Head,
}

impl Llama {
    /// Loads the weights of the design.
    pub fn load(design: Design, loader: &mut Loader) -> Result<Self> {
        let (hidden, inner) = (design.hidden, design.inner);
        let Heads { queries, keys, dim } = design.heads;
        loader.set_aliases(&[("model.", "")]);
        let embedding = [design.vocab_size, hidden];
        let embed_tokens = loader.embedding("model.embed_tokens.weight", &embedding, design.tied)?;
        let mut blocks = Vec::new();
        for i in 0..design.num_blocks {
            loader.begin(Segment::Block(i), &format!("model.layers.{i}."));
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let norm = |loader: &mut Loader, part: &str, len: usize| loader.weight(&name(&format!("{part}.weight")), &[len]);
            // In a block with four norms, the usual name of the second one belongs to the one after the attention.
            let second = if design.sandwich_norm { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            blocks.push(Block {
                input_norm: norm(loader, "input_layernorm", hidden)?,
                q: loader.linear(&name("self_attn.q_proj"), queries * dim, hidden, design.qkv_bias)?,
                k: loader.linear(&name("self_attn.k_proj"), keys * dim, hidden, design.qkv_bias)?,
                v: loader.linear(&name("self_attn.v_proj"), keys * dim, hidden, design.qkv_bias)?,
                qk_norm: match design.qk_norm {
                    true => Some((norm(loader, "self_attn.q_norm", dim)?, norm(loader, "self_attn.k_norm", dim)?)),
                    false => None,
                },
                out: loader.linear(&name("self_attn.o_proj"), hidden, queries * dim, design.out_bias)?,
                post_norm: norm(loader, second, hidden)?,
                gate: loader.linear(&name("mlp.gate_proj"), inner, hidden, design.mlp_bias)?,
                up: loader.linear(&name("mlp.up_proj"), inner, hidden, design.mlp_bias)?,
                down: loader.linear(&name("mlp.down_proj"), hidden, inner, design.mlp_bias)?,
                output_norms: match design.sandwich_norm {
                    true => Some((
                        norm(loader, "post_attention_layernorm", hidden)?,
                        norm(loader, "post_feedforward_layernorm", hidden)?,
                    )),
                    false => None,
                },
            });
        }
        loader.begin(Segment::Head, "");
        let norm = loader.weight("model.norm.weight", &[hidden])?;
        let head = loader.head(design.tied, embed_tokens, &embedding, design.logit_cap)?;
        Ok(Llama { design, embed_tokens, blocks, norm, head })
    }

    fn norm(&self, weights: Weights, id: ParamId, x: &Activations) -> Result<Activations> {
        ops::rms_norm(x, weights.leaf(id), self.design.norm_offset, self.design.eps)
    }

    /// cos and sin of the rotary angles: [tokens, head_dim / 2] each.
    fn angles(positions: &[u32], frequencies: &[f64]) -> Result<(Activations, Activations)> {
        let shape = [positions.len(), frequencies.len()];
        // transformers multiplies in f32; the angles must be the same.
        let angles = positions.iter().flat_map(|&p| frequencies.iter().map(move |&f| p as f32 * f as f32));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (libm::cosf(a), libm::sinf(a))).unzip();
        Ok((Activations::new(cos, &shape)?, Activations::new(sin, &shape)?))
    }

    /// onto + layer(x), or onto + norm(layer(x)).
    fn add(
        &self,
        weights: Weights,
        onto: &Activations,
        layer: &Linear,
        norm: Option<ParamId>,
        x: &Activations,
    ) -> Result<Activations> {
        match norm {
            None => layer.apply_onto(weights, onto, x),
            Some(norm) => onto.plus(&self.norm(weights, norm, &layer.apply(weights, x)?)?),
        }
    }

    /// onto + attention(x) in block `i`.
    fn attention(
        &self,
        weights: Weights,
        i: usize,
        onto: &Activations,
        x: &Activations,
        packed: &Packed,
    ) -> Result<Activations> {
        let (block, heads) = (&self.blocks[i], self.design.heads);
        let mut qkv = Linear::apply_all([&block.q, &block.k, &block.v], weights, x)?;
        if let Some((q, k)) = block.qk_norm {
            let norms = [q, k].map(|id| weights.leaf(id));
            qkv = ops::rms_norm_heads(&qkv, heads, norms, self.design.norm_offset, self.design.eps)?;
        }
        let kind = self.design.kinds.get(i).copied().unwrap_or(0);
        let (cos, sin) = packed.angles.get(kind).context("a batch that was not prepared for rotary positions")?;
        let qkv = ops::rotate(&qkv, heads.queries + heads.keys, cos, sin)?;
        let mixed = packed.attend(weights, i, &qkv, heads, self.design.scores)?;
        let [onto, mixed] = [onto, &mixed].map(|x| packed.needed_rows(i + 1 == self.blocks.len(), x));
        self.add(weights, &onto?, &block.out, block.output_norms.map(|norms| norms.0), &mixed?)
    }

    /// onto + the feed-forward layers of x.
    fn feed_forward(&self, weights: Weights, block: &Block, onto: &Activations, x: &Activations) -> Result<Activations> {
        let gated = ops::gated(&Linear::apply_all([&block.gate, &block.up], weights, x)?, self.design.gate)?;
        self.add(weights, onto, &block.down, block.output_norms.map(|norms| norms.1), &gated)
    }
}

impl Architecture for Llama {
    fn shape(&self) -> Shape {
        Shape { vocab_size: self.design.vocab_size, max_length: self.design.max_length }
    }

    fn numbers(&self) -> Value {
        json!(self.design)
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn heads(&self) -> Heads {
        self.design.heads
    }

    fn prepare<'a>(&self, packed: Packed<'a>) -> Result<Packed<'a>> {
        let frequencies = self.design.frequencies.iter();
        let angles = frequencies.map(|frequencies| Self::angles(&packed.positions, frequencies)).collect::<Result<_>>()?;
        Ok(Packed { angles, ..packed })
    }

    fn embed(&self, weights: Weights, packed: &Packed) -> Result<Activations> {
        let x = ops::embed(weights, self.embed_tokens, &packed.batch.tokens)?;
        if self.design.embedding_scale == 1.0 { Ok(x) } else { x.scaled(self.design.embedding_scale) }
    }

    fn block(&self, weights: Weights, i: usize, x: Activations, packed: &Packed) -> Result<Activations> {
        let block = &self.blocks[i];
        let x = self.attention(weights, i, &x, &self.norm(weights, block.input_norm, &x)?, packed)?;
        self.feed_forward(weights, block, &x, &self.norm(weights, block.post_norm, &x)?)
    }

    fn to_head(&self, weights: Weights, hidden: &Activations) -> Result<Activations> {
        self.norm(weights, self.norm, hidden)
    }

    fn head(&self) -> &Head {
        &self.head
    }
}
