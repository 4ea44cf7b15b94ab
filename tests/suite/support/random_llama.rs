//! Small LLaMA models with random weights.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::base::Source;
use zotune::model::Model;
use zotune::params::Params;

/// The sizes of a random LLaMA.
#[derive(Clone, Copy)]
pub struct Llama {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub tied: bool,
}

impl Llama {
    /// Small, with grouped keys and an untied head.
    pub const SMALL: Llama = Llama { vocab: 64, hidden: 32, inner: 48, layers: 2, heads: 4, kv_heads: 2, tied: false };

    /// Random weights, stored as `dtype`, in a folder of their own in Hugging Face layout; and the tensors.
    pub fn write(self, dtype: DType) -> Result<(tempfile::TempDir, HashMap<String, Tensor>)> {
        let Llama { vocab, hidden, inner, layers, heads, kv_heads, tied } = self;
        let kv = kv_heads * hidden / heads;
        let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![vocab, hidden])];
        shapes.push(("model.norm.weight".into(), vec![hidden]));
        if !tied {
            shapes.push(("lm_head.weight".into(), vec![vocab, hidden]));
        }
        for i in 0..layers {
            for (part, shape) in [
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ] {
                shapes.push((format!("model.layers.{i}.{part}.weight"), shape));
            }
        }
        let mut tensors = HashMap::new();
        for (name, shape) in shapes {
            let (mean, sd) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, 1.0 / (shape[1] as f32).sqrt()) };
            let z = zotune::device::cpu::drawn::direction(1, &name, shape.iter().product());
            let values: Vec<f32> = z.into_iter().map(|z| sd * z + mean).collect();
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?);
        }
        let folder = tempfile::tempdir()?;
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors"))?;
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": tied,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        Ok((folder, tensors))
    }

    /// The same, opened in f32.
    pub fn open(self) -> Result<(Model, Params)> {
        let (folder, _) = self.write(DType::F32)?;
        Model::open(&Source::Folder(folder.path().into()), DType::F32)
    }
}
