//! GGUF files, written as llama.cpp writes them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use serde_json::Value as Json;
use zotune::base::Source;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::Model;

/// What goes into a file.
pub struct Gguf {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, QTensor>,
}

pub fn text(text: &str) -> Value {
    Value::String(text.into())
}

pub fn texts<'a>(all: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(all.into_iter().map(text).collect())
}

/// A row order's way to llama.cpp: the halves of each head side by side.
pub fn interleave(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, rest) = (weight.dim(0)?, weight.elem_count() / weight.dim(0)?);
    let halves = weight.reshape((heads, 2, rows / heads / 2, rest))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape(weight.shape())?)
}

/// And back.
pub fn halve(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, rest) = (weight.dim(0)?, weight.elem_count() / weight.dim(0)?);
    let pairs = weight.reshape((heads, rows / heads / 2, 2, rest))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(weight.shape())?)
}

impl Gguf {
    /// The model of a folder as a file of the architecture `name`, its matrices in `kind`.
    pub fn of(folder: &Path, name: &str, kind: GgmlDType) -> Result<Self> {
        let config: Json = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let (_, mut params) = Model::open(&Source::Folder(folder.into()), DType::F32)?;
        let size = |key: &str| config[key].as_u64().map(|n| n as usize);
        let heads = size("num_attention_heads").unwrap();
        let key_heads = size("num_key_value_heads").unwrap_or(heads);
        let sandwich_norm = params.ids().any(|(_, name)| name.contains("pre_feedforward_layernorm"));
        let mut tensors = BTreeMap::new();
        for (theirs, weight) in params.settle()?.iter() {
            let weight = &weight.tensor()?;
            let ours = llama_cpp_name(theirs, sandwich_norm);
            let weight = match ours.rsplit('.').nth(1).unwrap() {
                "attn_q" if name == "llama" => interleave(weight, heads)?,
                "attn_k" if name == "llama" => interleave(weight, key_heads)?,
                norm if name.starts_with("gemma") && norm.ends_with("norm") => (weight + 1.0)?,
                _ => weight.clone(),
            };
            let kind = if weight.rank() == 2 { kind } else { GgmlDType::F32 };
            tensors.insert(ours, QTensor::quantize(&weight, kind)?);
        }
        let mut file = Gguf { metadata: BTreeMap::new(), tensors };
        file.set("general.architecture", text(name));
        for (ours, theirs) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("attention.sliding_window", "sliding_window"),
        ] {
            if let Some(n) = size(theirs) {
                file.set(&format!("{name}.{ours}"), Value::U32(n as u32));
            }
        }
        let rope = |key: &str| config[key].as_f64().or(config["rope_parameters"][key].as_f64()).map(|x| x as f32);
        file.set(&format!("{name}.rope.freq_base"), Value::F32(rope("rope_theta").unwrap_or(10_000.0)));
        file.set(
            &format!("{name}.attention.layer_norm_rms_epsilon"),
            Value::F32(config["rms_norm_eps"].as_f64().unwrap() as f32),
        );
        let vocab = size("vocab_size").unwrap();
        let words: Vec<String> = (0..vocab).map(|i| format!("t{i}")).collect();
        file.set_vocabulary(words.iter().map(String::as_str), &[], "gpt-2");
        Ok(file)
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.into(), value);
    }

    /// A byte-level vocabulary.
    pub fn set_vocabulary<'a>(&mut self, words: impl Iterator<Item = &'a str>, merges: &[&str], pre: &str) {
        self.set("tokenizer.ggml.model", text("gpt2"));
        self.set("tokenizer.ggml.pre", text(pre));
        self.set("tokenizer.ggml.tokens", texts(words));
        self.set("tokenizer.ggml.merges", texts(merges.iter().copied()));
    }

    /// That of opt-mini, which is GPT-2's in small, with its begin token in front.
    pub fn set_opt_minis_vocabulary(&mut self, pre: &str) -> Result<()> {
        let vocab: BTreeMap<String, usize> =
            serde_json::from_slice(&zotune::model::builtin::OPT_MINI.read("vocab.json")?.unwrap())?;
        let by_id: BTreeMap<usize, &str> = vocab.iter().map(|(word, id)| (*id, word.as_str())).collect();
        let merges = String::from_utf8(zotune::model::builtin::OPT_MINI.read("merges.txt")?.unwrap())?;
        let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
        self.set_vocabulary(by_id.values().copied(), &merges, pre);
        let special = ["<s>", "<pad>", "</s>", "<unk>"];
        let kinds = by_id.values().map(|word| Value::I32(if special.contains(word) { 3 } else { 1 }));
        self.set("tokenizer.ggml.token_type", Value::Array(kinds.collect()));
        self.set("tokenizer.ggml.bos_token_id", Value::U32(2));
        self.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        Ok(())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        Ok(gguf_file::write(&mut std::fs::File::create(path)?, &metadata, &tensors)?)
    }
}

pub fn llama_cpp_name(theirs: &str, sandwich_norm: bool) -> String {
    let (stem, part) = theirs.rsplit_once('.').unwrap();
    let name = match stem {
        "model.embed_tokens" => "token_embd".to_string(),
        "model.norm" => "output_norm".into(),
        "lm_head" => "output".into(),
        block => {
            let (i, own) = block.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
            let own = match own {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" if sandwich_norm => "post_attention_norm",
                "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
                "post_feedforward_layernorm" => "post_ffw_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                other => panic!("llama.cpp has no name for {other}"),
            };
            format!("blk.{i}.{own}")
        }
    };
    format!("{name}.{part}")
}

pub fn error(path: &Path) -> String {
    let opened = zotune::formats::gguf::folder::open(path).and_then(|source| {
        Tokenizer::open(&source, None)?;
        Model::open(&source, DType::F32)
    });
    let error = format!("{:#}", opened.err().expect("it opened"));
    assert!(error.contains("model.gguf"), "{error}");
    error
}

pub fn open(path: &Path, dtype: DType) -> Result<(Model, zotune::params::Params)> {
    Model::open(&zotune::formats::gguf::folder::open(path)?, dtype)
}
