//! OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions, pre- or post-norm, ReLU.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::{Table, Use};
use crate::device::{Activation, Activations, Heads, Scores};
use crate::formats::limits;
use crate::model::{Architecture, Head, Linear, Loader, Packed, Segment, Shape};
use crate::ops;
use crate::params::{ParamId, Weights};

/// The fields of OPT's config.json.
pub const FIELDS: Table = Table {
    file: "config.json",
    of: "OPT",
    fields: &[
        ("vocab_size", Use::Read, "rows of the embedding and of the head"),
        ("hidden_size", Use::Read, ""),
        ("ffn_dim", Use::Read, ""),
        ("num_hidden_layers", Use::Read, ""),
        ("num_attention_heads", Use::Read, ""),
        ("max_position_embeddings", Use::Read, "the longest prompt"),
        ("word_embed_proj_dim", Use::Read, "absent: hidden_size"),
        ("activation_function", Use::Read, "relu, gelu, gelu_new, gelu_pytorch_tanh or silu; absent: relu"),
        ("do_layer_norm_before", Use::Read, "absent: true"),
        ("_remove_final_layer_norm", Use::Read, "absent: false"),
        ("enable_bias", Use::Read, "absent: true"),
        ("layer_norm_elementwise_affine", Use::Read, "absent: true"),
        ("tie_word_embeddings", Use::Read, "a pair that is stored as two different tensors is not tied, whatever this says"),
        ("dropout", Use::NoEffect, "scores are computed without"),
        ("attention_dropout", Use::NoEffect, "the same"),
        ("activation_dropout", Use::NoEffect, "the same"),
        ("layerdrop", Use::NoEffect, "the same"),
        ("init_std", Use::NoEffect, "of new weights"),
    ],
};

/// The fields of OPT's config.json that are read.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    ffn_dim: usize,
    max_position_embeddings: usize,
    word_embed_proj_dim: Option<usize>,
    #[serde(default = "relu")]
    activation_function: String,
    #[serde(default = "yes")]
    do_layer_norm_before: bool,
    #[serde(default, rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: bool,
    #[serde(default = "yes")]
    enable_bias: bool,
    #[serde(default = "yes")]
    layer_norm_elementwise_affine: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

fn relu() -> String {
    "relu".into()
}

fn yes() -> bool {
    true
}

/// The offset of the position embedding's rows, from fairseq's padding index.
const POSITION_OFFSET: usize = 2;

const EPS: f32 = 1e-5;

/// Weight and bias of a layer norm; None if it has no affine part.
type Norm = Option<(ParamId, ParamId)>;

struct Block {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    attention_norm: Norm,
    fc1: Linear,
    fc2: Linear,
    final_norm: Norm,
}

/// The model as handles to its weights.
pub struct Opt {
    config: Config,
    activation: Activation,
    embed_tokens: ParamId,
    embed_positions: ParamId,
    project_in: Option<Linear>,
    project_out: Option<Linear>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    head: Head,
}

impl Opt {
    /// Loads the weights of the config.
    pub fn load(config: Config, loader: &mut Loader) -> Result<Self> {
        let Some(activation) = Activation::from_name(&config.activation_function) else {
            bail!("config.json: activation_function \"{}\" is not supported", config.activation_function);
        };
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        limits::check_sizes(&[
            ("vocab_size", config.vocab_size),
            ("hidden_size", hidden),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", heads),
            ("ffn_dim", config.ffn_dim),
            ("max_position_embeddings", config.max_position_embeddings),
            ("word_embed_proj_dim", config.word_embed_proj_dim.unwrap_or(hidden)),
        ])?;
        if !hidden.is_multiple_of(heads) {
            bail!("config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}");
        }
        // Checkpoints have names with and without the prefix `model.`.
        loader.set_aliases(&[("model.decoder.", "decoder.")]);
        let embed_dim = config.word_embed_proj_dim.unwrap_or(hidden);
        let norm = |loader: &mut Loader, name: &str| -> Result<Norm> {
            if !config.layer_norm_elementwise_affine {
                return Ok(None);
            }
            let [weight, bias] = ["weight", "bias"].map(|part| loader.weight(&format!("{name}.{part}"), &[hidden]));
            Ok(Some((weight?, bias?)))
        };
        let (embedding, tied) = ([config.vocab_size, embed_dim], config.tie_word_embeddings);
        let embed_tokens = loader.embedding("model.decoder.embed_tokens.weight", &embedding, tied)?;
        let positions = config.max_position_embeddings + POSITION_OFFSET;
        let embed_positions = loader.weight("model.decoder.embed_positions.weight", &[positions, hidden])?;
        let (mut project_in, mut project_out) = (None, None);
        if embed_dim != hidden {
            project_in = Some(loader.linear("model.decoder.project_in", hidden, embed_dim, false)?);
            loader.begin(Segment::Head, "");
            project_out = Some(loader.linear("model.decoder.project_out", embed_dim, hidden, false)?);
        }
        let bias = config.enable_bias;
        let mut blocks = Vec::new();
        for i in 0..config.num_hidden_layers {
            loader.begin(Segment::Block(i), &format!("model.decoder.layers.{i}."));
            let name = |part: &str| format!("model.decoder.layers.{i}.{part}");
            blocks.push(Block {
                k: loader.linear(&name("self_attn.k_proj"), hidden, hidden, bias)?,
                v: loader.linear(&name("self_attn.v_proj"), hidden, hidden, bias)?,
                q: loader.linear(&name("self_attn.q_proj"), hidden, hidden, bias)?,
                out: loader.linear(&name("self_attn.out_proj"), hidden, hidden, bias)?,
                attention_norm: norm(loader, &name("self_attn_layer_norm"))?,
                fc1: loader.linear(&name("fc1"), config.ffn_dim, hidden, bias)?,
                fc2: loader.linear(&name("fc2"), hidden, config.ffn_dim, bias)?,
                final_norm: norm(loader, &name("final_layer_norm"))?,
            });
        }
        loader.begin(Segment::Head, "");
        let has_final_norm = config.do_layer_norm_before && !config.remove_final_layer_norm;
        let final_norm = if has_final_norm { Some(norm(loader, "model.decoder.final_layer_norm")?) } else { None };
        let head = loader.head(tied, embed_tokens, &embedding, None)?;
        Ok(Opt { config, activation, embed_tokens, embed_positions, project_in, project_out, blocks, final_norm, head })
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
        let block = &self.blocks[i];
        let heads = self.heads();
        let qkv = Linear::apply_all([&block.q, &block.k, &block.v], weights, x)?;
        let mixed = packed.attend(weights, i, &qkv, heads, Scores::of(heads))?;
        let [onto, mixed] = [onto, &mixed].map(|x| packed.needed_rows(i + 1 == self.blocks.len(), x));
        block.out.apply_onto(weights, &onto?, &mixed?)
    }

    /// onto + the feed-forward layers of x.
    fn feed_forward(&self, weights: Weights, block: &Block, onto: &Activations, x: &Activations) -> Result<Activations> {
        block.fc2.apply_onto(weights, onto, &block.fc1.apply_with(weights, x, self.activation)?)
    }
}

fn layer_norm(weights: Weights, norm: &Norm, x: &Activations) -> Result<Activations> {
    ops::layer_norm(x, norm.map(|(weight, bias)| (weights.leaf(weight), weights.leaf(bias))), EPS)
}

impl Architecture for Opt {
    fn shape(&self) -> Shape {
        Shape { vocab_size: self.config.vocab_size, max_length: self.config.max_position_embeddings }
    }

    fn numbers(&self) -> Value {
        let Config { num_attention_heads, do_layer_norm_before, remove_final_layer_norm, .. } = &self.config;
        json!({
            "num_attention_heads": num_attention_heads,
            "activation_function": self.activation,
            "do_layer_norm_before": do_layer_norm_before,
            "_remove_final_layer_norm": remove_final_layer_norm,
        })
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn heads(&self) -> Heads {
        let count = self.config.num_attention_heads;
        Heads { queries: count, keys: count, dim: self.config.hidden_size / count }
    }

    fn embed(&self, weights: Weights, packed: &Packed) -> Result<Activations> {
        let mut x = ops::embed(weights, self.embed_tokens, &packed.batch.tokens)?;
        if let Some(project_in) = &self.project_in {
            x = project_in.apply(weights, &x)?;
        }
        let places: Vec<u32> = packed.positions.iter().map(|p| p + POSITION_OFFSET as u32).collect();
        x.plus(&ops::embed(weights, self.embed_positions, &places)?)
    }

    fn block(&self, weights: Weights, i: usize, x: Activations, packed: &Packed) -> Result<Activations> {
        let block = &self.blocks[i];
        if self.config.do_layer_norm_before {
            let x = self.attention(weights, i, &x, &layer_norm(weights, &block.attention_norm, &x)?, packed)?;
            self.feed_forward(weights, block, &x, &layer_norm(weights, &block.final_norm, &x)?)
        } else {
            let x = self.attention(weights, i, &x, &x, packed)?;
            let x = layer_norm(weights, &block.attention_norm, &x)?;
            layer_norm(weights, &block.final_norm, &self.feed_forward(weights, block, &x, &x)?)
        }
    }

    fn to_head(&self, weights: Weights, hidden: &Activations) -> Result<Activations> {
        let mut x = hidden.clone();
        if let Some(norm) = &self.final_norm {
            x = layer_norm(weights, norm, &x)?;
        }
        if let Some(project_out) = &self.project_out {
            x = project_out.apply(weights, &x)?;
        }
        Ok(x)
    }

    fn head(&self) -> &Head {
        &self.head
    }
}
