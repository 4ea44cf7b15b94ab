//! An oracle for gradients: OPT and LLaMA written plainly, so that candle's own whole-graph backward gives every gradient.
//!
//! In f64, each candidate as its own sequence, out of ops that keep the graph: candle's fused norms, softmax and rotary
//! positions cut it and say nothing.

use std::collections::HashMap;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ops::{log_softmax, softmax};
use serde_json::{Value, json};
use zotune::base::Source;
use zotune::data::task::Loss;
use zotune::data::{Candidate, Example};
use zotune::model::Model;
use zotune::prompt::PromptLoss;

use crate::support::{FIXTURES, copy_of, example};

/// The loss of `examples` and its gradient by each of `weights`, which are named as zotune's `Params` names them.
pub fn loss_and_gradients(
    config: &Value,
    weights: HashMap<String, Tensor>,
    examples: &[Example],
    loss: Loss,
) -> Result<(f32, HashMap<String, Vec<f32>>)> {
    let as_var = |(name, weight): (String, Tensor)| Ok((name, Var::from_tensor(&weight.to_dtype(DType::F64)?)?));
    let graph = Graph { config, vars: weights.into_iter().map(as_var).collect::<Result<_>>()? };
    let value = graph.loss(examples, loss)?;
    let mut grads = value.backward()?;
    let mut gradients = HashMap::new();
    for (name, var) in graph.vars {
        let grad = grads.remove(&var).with_context(|| format!("{name} has no gradient"))?;
        let grad: Vec<f32> = grad.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        // A bias on keys adds the same to every score of a query: only it may move nothing.
        ensure!(name.ends_with("k_proj.bias") || grad.iter().any(|g| *g != 0.0), "the gradient of {name} is zero");
        gradients.insert(name, grad);
    }
    Ok((value.to_scalar::<f64>()? as f32, gradients))
}

/// A model as its config.json and variables.
struct Graph<'a> {
    config: &'a Value,
    vars: HashMap<String, Var>,
}

impl Graph<'_> {
    fn loss(&self, examples: &[Example], loss: Loss) -> Result<Tensor> {
        let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        let mut weight = 0;
        for Example { label, candidates, .. } in examples {
            match loss {
                Loss::Classification => {
                    let mean = |c: &Candidate| Ok((self.log_prob(c)? / c.option_len as f64)?);
                    let scores = Tensor::stack(&candidates.iter().map(mean).collect::<Result<Vec<_>>>()?, 0)?;
                    sum = (sum - log_softmax(&scores, 0)?.get(*label)?)?;
                    weight += 1;
                }
                Loss::TeacherForcing => {
                    sum = (sum - self.log_prob(&candidates[*label])?)?;
                    weight += candidates[*label].option_len;
                }
            }
        }
        Ok((sum / weight as f64)?)
    }

    /// ln p of the answer given the prompt.
    fn log_prob(&self, Candidate { tokens, option_len }: &Candidate) -> Result<Tensor> {
        let logits = match self.config["model_type"].as_str() {
            Some("opt") => self.opt(tokens)?,
            Some("llama" | "qwen2" | "qwen3" | "gemma" | "gemma2" | "gemma3_text") => self.llama(tokens)?,
            other => bail!("the oracle knows no model_type {other:?}"),
        };
        let first = tokens.len() - option_len;
        // Each token is predicted by the one before it.
        let log_probs = log_softmax(&logits.narrow(0, first - 1, *option_len)?, 1)?;
        let answer = Tensor::new(&tokens[first..], &Device::Cpu)?.unsqueeze(1)?;
        Ok(log_probs.gather(&answer, 1)?.sum_all()?)
    }

    /// Logits [tokens, vocab].
    fn opt(&self, tokens: &[u32]) -> Result<Tensor> {
        let norm = |x: &Tensor, name: &str| self.norm(x, &format!("model.decoder.{name}"), 1e-5, true);
        let pre_norm = self.flag("do_layer_norm_before", true);
        let head_dim = self.size("hidden_size")? / self.size("num_attention_heads")?;
        let mut x = self.embed("model.decoder.embed_tokens", tokens.iter().copied())?;
        if self.vars.contains_key("model.decoder.project_in.weight") {
            x = self.linear(&x, "model.decoder.project_in")?;
        }
        x = (x + self.embed("model.decoder.embed_positions", 2..tokens.len() as u32 + 2)?)?;
        for layer in 0..self.size("num_hidden_layers")? {
            let linear = |x: &Tensor, name: &str| self.linear(x, &format!("model.decoder.layers.{layer}.{name}"));
            let [first, second] = ["self_attn", "final"].map(|name| format!("layers.{layer}.{name}_layer_norm"));
            let attend = |x: &Tensor| {
                let [q, k, v] = ["q", "k", "v"].map(|name| linear(x, &format!("self_attn.{name}_proj")));
                linear(&attention(&q?, &k?, &v?, head_dim, None)?, "self_attn.out_proj")
            };
            let feed = |x: &Tensor| linear(&self.activation(&linear(x, "fc1")?)?, "fc2");
            x = if pre_norm {
                let x = (&x + attend(&norm(&x, &first)?)?)?;
                (&x + feed(&norm(&x, &second)?)?)?
            } else {
                let x = norm(&(&x + attend(&x)?)?, &first)?;
                norm(&(&x + feed(&x)?)?, &second)?
            };
        }
        if pre_norm && !self.flag("_remove_final_layer_norm", false) {
            x = norm(&x, "final_layer_norm")?;
        }
        if self.vars.contains_key("model.decoder.project_out.weight") {
            x = self.linear(&x, "model.decoder.project_out")?;
        }
        self.head(&x, "model.decoder.embed_tokens")
    }

    /// Logits [tokens, vocab] of LLaMA and its relatives. What they have beside it shows in their weights; Gemma's norms do not.
    fn llama(&self, tokens: &[u32]) -> Result<Tensor> {
        let eps = self.config["rms_norm_eps"].as_f64().unwrap_or(1e-6);
        let norm = |x: &Tensor, name: &str| self.norm(x, &format!("model.{name}"), eps, false);
        let heads = self.size("num_attention_heads")?;
        let head_dim = self.size("head_dim").unwrap_or(self.size("hidden_size")? / heads);
        let gemma = self.gemma();
        let scale = if gemma { (self.size("hidden_size")? as f64).sqrt() } else { 1.0 };
        let mut x = (self.embed("model.embed_tokens", tokens.iter().copied())? * scale)?;
        for layer in 0..self.size("num_hidden_layers")? {
            let linear = |x: &Tensor, name: &str| self.linear(x, &format!("model.layers.{layer}.{name}"));
            let seen = norm(&x, &format!("layers.{layer}.input_layernorm"))?;
            let [q, k, v] = ["q", "k", "v"].map(|name| linear(&seen, &format!("self_attn.{name}_proj")));
            let (cos, sin) = self.turns(tokens.len(), head_dim, layer)?;
            let turned = |x: &Tensor, own: &str| {
                let name = format!("layers.{layer}.self_attn.{own}_norm");
                let heads = x.reshape((x.elem_count() / head_dim, head_dim))?;
                let normed = if self.has(&format!("model.{name}")) { norm(&heads, &name)? } else { heads };
                rotate(&normed.reshape(x.shape())?, &cos, &sin)
            };
            // The scale that attention() has, and the config's.
            let asked = self.config["query_pre_attn_scalar"].as_f64().unwrap_or(head_dim as f64);
            let q = (turned(&q?, "q")? * (head_dim as f64 / asked).sqrt())?;
            let cap = self.config["attn_logit_softcapping"].as_f64();
            let mixed = attention(&q, &turned(&k?, "k")?, &v?, head_dim, cap)?;
            let four = self.has(&format!("model.layers.{layer}.pre_feedforward_layernorm"));
            let output = |x: Tensor, own: &str| if four { norm(&x, &format!("layers.{layer}.{own}")) } else { Ok(x) };
            x = (x + output(linear(&mixed, "self_attn.o_proj")?, "post_attention_layernorm")?)?;
            let second = if four { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            let seen = norm(&x, &format!("layers.{layer}.{second}"))?;
            let gate = linear(&seen, "mlp.gate_proj")?;
            let gate = if gemma { gelu_new(&gate)? } else { (&gate * sigmoid(&gate)?)? };
            let fed = linear(&(gate * linear(&seen, "mlp.up_proj")?)?, "mlp.down_proj")?;
            x = (x + output(fed, "post_feedforward_layernorm")?)?;
        }
        let logits = self.head(&norm(&x, "norm")?, "model.embed_tokens")?;
        self.config["final_logit_softcapping"].as_f64().map_or(Ok(logits.clone()), |cap| capped(&logits, cap))
    }

    fn gemma(&self) -> bool {
        self.config["model_type"].as_str().is_some_and(|kind| kind.starts_with("gemma"))
    }

    fn has(&self, name: &str) -> bool {
        self.vars.contains_key(&format!("{name}.weight"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        Ok(self.config[key].as_u64().with_context(|| format!("config.json has no {key}"))? as usize)
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.config[key].as_bool().unwrap_or(default)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        Ok(self.vars.get(&format!("{name}.weight")).with_context(|| format!("{name} has no weight"))?)
    }

    fn embed(&self, name: &str, ids: impl Iterator<Item = u32>) -> Result<Tensor> {
        Ok(self.weight(name)?.index_select(&Tensor::from_iter(ids, &Device::Cpu)?, 0)?)
    }

    /// x W^T, and the bias if there is one: were one missed, it would have no gradient.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let y = x.matmul(&self.weight(name)?.t()?)?;
        Ok(match self.vars.get(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    fn head(&self, x: &Tensor, embedding: &str) -> Result<Tensor> {
        let untied = self.vars.contains_key("lm_head.weight");
        self.linear(x, if untied { "lm_head" } else { embedding })
    }

    /// Layer norm or, not centred, RMS norm; weight and bias if there are any, Gemma's weights about one.
    fn norm(&self, x: &Tensor, name: &str, eps: f64, centred: bool) -> Result<Tensor> {
        let x = if centred { x.broadcast_sub(&x.mean_keepdim(1)?)? } else { x.clone() };
        let mut y = x.broadcast_div(&(x.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?)?;
        if let Some(weight) = self.vars.get(&format!("{name}.weight")) {
            y = y.broadcast_mul(&if self.gemma() { (weight.as_tensor() + 1.0)? } else { weight.as_tensor().clone() })?;
        }
        if let Some(bias) = self.vars.get(&format!("{name}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        Ok(y)
    }

    /// OPT's. candle's own `gelu`s have derivatives of six digits, its `relu` one of 1 at 0.
    fn activation(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.config["activation_function"].as_str().unwrap_or("relu") {
            "relu" => (x * x.gt(0.0)?.to_dtype(DType::F64)?)?,
            "gelu" => (x * (((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?)?,
            "gelu_new" | "gelu_pytorch_tanh" => gelu_new(x)?,
            "silu" | "swish" => (x * sigmoid(x)?)?,
            other => bail!("the oracle knows no activation_function {other}"),
        })
    }

    /// cos and sin [tokens, 1, head_dim / 2] of what each pair of a head turns by in a layer. The angles are f32, as the model's.
    fn turns(&self, tokens: usize, head_dim: usize, layer: usize) -> Result<(Tensor, Tensor)> {
        let pattern = self.config["sliding_window_pattern"].as_u64().unwrap_or(6) as usize;
        let local = self.config["rope_local_base_freq"].as_f64().filter(|_| !(layer + 1).is_multiple_of(pattern));
        let of = |share: f64| local.map_or_else(|| self.frequency(share), |base| Ok(base.powf(-share)));
        let frequencies = (0..head_dim).step_by(2).map(|i| Ok(of(i as f64 / head_dim as f64)? as f32));
        let frequencies = Tensor::new(frequencies.collect::<Result<Vec<_>>>()?, &Device::Cpu)?;
        let positions = Tensor::arange(0.0, tokens as f32, &Device::Cpu)?.reshape((tokens, 1, 1))?;
        let angles = positions.broadcast_mul(&frequencies)?.to_dtype(DType::F64)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// How far the pair that lies at `share` of its head turns from a position to the next: transformers' formulas.
    fn frequency(&self, share: f64) -> Result<f64> {
        let rope = ["rope_parameters", "rope_scaling"].map(|key| &self.config[key]);
        let rope = rope.into_iter().find(|value| value.is_object()).unwrap_or(&Value::Null);
        let or = |key: &str, default: f64| rope[key].as_f64().unwrap_or(default);
        let plain = or("rope_theta", self.config["rope_theta"].as_f64().unwrap_or(1e4)).powf(-share);
        let stretched = || Ok(plain / rope["factor"].as_f64().context("the rope settings have no factor")?);
        match rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default") {
            "default" => Ok(plain),
            "linear" => stretched(),
            "llama3" => {
                let (low, high) = (or("low_freq_factor", 1.0), or("high_freq_factor", 4.0));
                let (original, wave) = (or("original_max_position_embeddings", 8192.0), 2.0 * PI / plain);
                let kept = (original / wave - low) / (high - low);
                Ok(match stretched()? {
                    stretched if wave > original / low => stretched,
                    _ if wave < original / high => plain,
                    stretched => (1.0 - kept) * stretched + kept * plain,
                })
            }
            other => bail!("the oracle knows no rope type {other}"),
        }
    }
}

fn capped(x: &Tensor, cap: f64) -> Result<Tensor> {
    Ok(((x / cap)?.tanh()? * cap)?)
}

fn gelu_new(x: &Tensor) -> Result<Tensor> {
    let inner = ((x + (x.powf(3.0)? * 0.044715)?)? * (2.0 / PI).sqrt())?;
    Ok((x * ((inner.tanh()? + 1.0)? * 0.5)?)?)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

/// Turns each head's pairs (i, i + head_dim / 2) of x [tokens, heads * head_dim].
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let ((tokens, width), half) = (x.dims2()?, cos.dim(2)?);
    let heads = x.reshape((tokens, width / (2 * half), 2 * half))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let turned_a = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let turned_b = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[turned_a, turned_b], 2)?.reshape((tokens, width))?)
}

/// Causal attention by the whole square of scores; where key heads are fewer, query heads in a row share one.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, head_dim: usize, cap: Option<f64>) -> Result<Tensor> {
    let ((tokens, width), key_heads) = (q.dims2()?, k.dim(1)? / head_dim);
    let split = |x: &Tensor| -> Result<Tensor> {
        let heads_of_group = x.dim(1)? / (key_heads * head_dim);
        Ok(x.reshape((tokens, key_heads, heads_of_group, head_dim))?.permute((1, 2, 0, 3))?.contiguous()?)
    };
    let scores = (split(q)?.broadcast_matmul(&split(k)?.t()?)? / (head_dim as f64).sqrt())?;
    let scores = cap.map_or(Ok(scores.clone()), |cap| capped(&scores, cap))?;
    let hidden = |i: usize| if i % tokens > i / tokens { f64::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_iter((0..tokens * tokens).map(hidden), &Device::Cpu)?.reshape((tokens, tokens))?;
    let mixed = softmax(&scores.broadcast_add(&mask)?, 3)?.broadcast_matmul(&split(v)?)?;
    Ok(mixed.permute((2, 0, 1, 3))?.reshape((tokens, width))?)
}

/// The fixtures, and what none of them has: other activations, linear rope in its older spelling.
#[test]
fn the_oracle_is_the_model() -> Result<()> {
    let as_they_are = FIXTURES.map(|name| (name, json!({})));
    let varied = [
        ("opt-tiny", json!({ "activation_function": "gelu_new" })),
        ("opt-untied-tiny", json!({ "activation_function": "silu", "_remove_final_layer_norm": false })),
        ("llama-tiny", json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } })),
        ("llama-new-tiny", json!({ "rope_parameters": { "rope_theta": 500.0 } })),
    ];
    let examples = [
        example(1, &[2, 10, 11, 12], &[&[20], &[21]]),
        example(0, &[2, 13, 14, 15, 16, 17], &[&[30, 31, 32], &[30, 33], &[34]]),
        example(2, &[2, 5, 6, 7, 8, 9, 10, 11], &[&[40, 41], &[40, 41, 42], &[40, 43, 44]]),
    ];
    for (name, changes) in as_they_are.into_iter().chain(varied) {
        let folder = copy_of(name)?;
        let place = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&place)?)?;
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        std::fs::write(&place, config.to_string())?;
        let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
        for loss in [Loss::Classification, Loss::TeacherForcing] {
            let expected = PromptLoss::of_all(&model, loss, &examples, 2).loss(params.settle()?)?;
            let weights = params
                .settle()?
                .iter()
                .map(|(name, weight)| Ok((name.to_string(), weight.tensor()?)))
                .collect::<Result<_>>()?;
            let (found, _) = loss_and_gradients(&config, weights, &examples, loss)?;
            assert!((found - expected).abs() < 1e-5, "{name} {changes}, {loss:?}: {found}, not {expected}");
        }
    }
    Ok(())
}
