//! GGUF files: made here from models in Hugging Face layout as llama.cpp makes them, and the same models again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value as Json, json};
use zotune::base::Source;
use zotune::data::Batch;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::Model;
use zotune::params::Weights;

use crate::support::{Llama, alone, edit, fixture, fixture_json, numbers, tokens};

/// What goes into a file.
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, QTensor>,
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn texts<'a>(all: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(all.into_iter().map(text).collect())
}

/// A row order's way to llama.cpp: the halves of each head side by side.
fn interleave(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, rest) = (weight.dim(0)?, weight.elem_count() / weight.dim(0)?);
    let halves = weight.reshape((heads, 2, rows / heads / 2, rest))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape(weight.shape())?)
}

/// And back.
fn halve(weight: &Tensor, heads: usize) -> Result<Tensor> {
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

fn llama_cpp_name(theirs: &str, sandwich_norm: bool) -> String {
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

fn open(path: &Path, dtype: DType) -> Result<(Model, zotune::params::Params)> {
    Model::open(&zotune::formats::gguf::folder::open(path)?, dtype)
}

fn bytes(weights: Weights) -> Result<Vec<(String, Vec<u8>)>> {
    weights.iter().map(|(name, t)| Ok((name.to_string(), t.bytes().to_vec()))).collect()
}

/// The fixtures and what llama.cpp calls their architectures.
const KINDS: [(&str, &str); 6] = [
    ("llama-tiny", "llama"),
    ("qwen2-tiny", "qwen2"),
    ("qwen3-tiny", "qwen3"),
    ("gemma-tiny", "gemma"),
    ("gemma2-tiny", "gemma2"),
    ("gemma3-tiny", "gemma3"),
];

#[test]
fn a_gguf_file_is_the_folder_that_it_was_made_of() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
    for (name, architecture) in KINDS {
        let copy = crate::support::copy_of(name)?;
        if architecture == "gemma2" {
            edit(copy.path(), "config.json", |config| drop(config.insert("query_pre_attn_scalar".into(), 8.into())))?;
        }
        if architecture == "gemma3" {
            // As all of them are: what a file does not tell.
            edit(copy.path(), "config.json", |config| drop(config.insert("query_pre_attn_scalar".into(), 8.into())))?;
        }
        let mut file = Gguf::of(copy.path(), architecture, GgmlDType::F32)?;
        if architecture == "gemma2" {
            file.set("gemma2.attn_logit_softcapping", Value::F32(1.5));
            file.set("gemma2.final_logit_softcapping", Value::F32(2.0));
        }
        if architecture == "gemma3" {
            file.set("gemma3.rope.scaling.type", text("linear"));
            file.set("gemma3.rope.scaling.factor", Value::F32(8.0));
            file.set("gemma3.rope.freq_base_swa", Value::F32(50.0));
            file.set("gemma3.attention.sliding_window_pattern", Value::U32(2));
        }
        file.write(&path)?;
        let (model, mut params) = open(&path, DType::F32)?;
        let (original, mut expected) = Model::open(&Source::Folder(copy.path().into()), DType::F32)?;
        let logits = |model: &Model, weights: Weights| -> Result<Vec<f32>> {
            model.logits(weights, &Batch::sequence(&sequence))?.to_vec()
        };
        let (found, wanted) = (logits(&model, params.settle()?)?, logits(&original, expected.settle()?)?);
        let difference = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f32::max);
        // A norm that is stored with one added has lost its last bits.
        let limit = if architecture.starts_with("gemma") { 1e-5 } else { 0.0 };
        assert!(difference <= limit, "{name}: {difference}");
        assert_eq!((model.kind(), model.shape()), (original.kind(), original.shape()), "{name}");

        // What is written is a folder, and the same model.
        let run = tempfile::tempdir()?;
        model.save(params.settle()?, run.path())?;
        model.write_companions(run.path(), DType::F32, "model.gguf")?;
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            assert!(run.path().join(file).is_file(), "{file}");
        }
        let (_, mut again) = Model::open(&Source::Folder(run.path().into()), DType::F32)?;
        assert!(bytes(again.settle()?)? == bytes(params.settle()?)?, "{name}");
    }
    Ok(())
}

/// LLaMA 3's scaled rotary frequencies lie in a file as factors; biases of queries and keys are reordered too.
#[test]
fn llama_3s_rotary_frequencies_come_back_from_their_factors() -> Result<()> {
    let folder = crate::support::copy_of("llama3-tiny")?;
    let place = folder.path().join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&place)?)?;
    // The only original length that there is; with it all of the fixture's frequencies would be kept but for this base.
    config["rope_scaling"]["original_max_position_embeddings"] = 8192.into();
    config["rope_theta"] = 5e5.into();
    std::fs::write(&place, config.to_string())?;
    let mut file = Gguf::of(folder.path(), "llama", GgmlDType::F32)?;
    let factor = |i: usize| {
        let turns = 8192.0 * 5e5f64.powf(-2.0 * i as f64 / 8.0) / (2.0 * std::f64::consts::PI);
        let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        (1.0 / (kept + (1.0 - kept) / 8.0)) as f32
    };
    let factors: Vec<f32> = (0..4).map(factor).collect();
    assert!(factors[0] == 1.0 && factors[3] > 2.0, "{factors:?}");
    let path = folder.path().join("model.gguf");
    let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
    let logits = |source: &Source| -> Result<Vec<f32>> {
        let (model, mut params) = Model::open(source, DType::F32)?;
        model.logits(params.settle()?, &Batch::sequence(&sequence))?.to_vec()
    };
    file.write(&path)?;
    let expected = logits(&Source::Folder(folder.path().into()))?;
    assert_ne!(logits(&zotune::formats::gguf::folder::open(&path)?)?, expected, "the scaling makes no difference");
    let stored = |factors: &[f32]| QTensor::quantize(&Tensor::new(factors, &Device::Cpu)?, GgmlDType::F32);
    file.tensors.insert("rope_freqs.weight".into(), stored(&factors)?);
    file.write(&path)?;
    assert_eq!(logits(&zotune::formats::gguf::folder::open(&path)?)?, expected);
    file.tensors.insert("rope_freqs.weight".into(), stored(&[1.0, 2.0, 3.0, 4.0])?);
    file.write(&path)?;
    assert!(error(&path).contains("rope_freqs.weight is not LLaMA 3's scaling"), "{}", error(&path));
    Ok(())
}

/// What is said of positions, windows and caps, by llama.cpp's rules (its load_hparams): each file is the folder whose config.json
/// says the same in transformers' words.
#[test]
fn positions_windows_and_caps_are_llama_cpps() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
    let run = |source: &Source| -> Result<(Vec<f32>, usize)> {
        let (model, mut params) = Model::open(source, DType::F32)?;
        let logits = model.logits(params.settle()?, &Batch::sequence(&sequence))?.to_vec()?;
        Ok((logits, model.shape().max_length))
    };
    let linear = json!({ "rope_type": "linear", "factor": 4.0 });
    let flags = |flags: [bool; 3]| Value::Array(flags.map(Value::Bool).into());
    let (sliding, full) = ("sliding_attention", "full_attention");
    type Case = (&'static str, &'static str, Vec<(&'static str, Value)>, Json, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        // No type is linear; the older key; type none scales nothing; a factor of 0 is none.
        ("llama-tiny", "llama", vec![("rope.scaling.factor", Value::F32(4.0))], json!({ "rope_scaling": linear }), &[]),
        ("llama-tiny", "llama", vec![("rope.scale_linear", Value::F32(4.0))], json!({ "rope_scaling": linear }), &[]),
        ("qwen2-tiny", "qwen2", vec![("rope.scale_linear", Value::F32(4.0))], json!({ "rope_parameters": linear }), &[]),
        (
            "llama-tiny",
            "llama",
            vec![
                ("rope.scaling.factor", Value::F32(4.0)),
                ("rope.scale_linear", Value::F32(9.0)),
                ("rope.scaling.type", text("linear")),
            ],
            json!({ "rope_scaling": linear }),
            &[],
        ),
        (
            "llama-tiny",
            "llama",
            vec![("rope.scaling.factor", Value::F32(4.0)), ("rope.scaling.type", text("none"))],
            json!({}),
            &[],
        ),
        (
            "llama-tiny",
            "llama",
            vec![("rope.scaling.factor", Value::F32(0.0)), ("rope.scaling.type", text("linear"))],
            json!({}),
            &[],
        ),
        (
            "llama-tiny",
            "llama",
            vec![("rope.scaling.finetuned", Value::Bool(true)), ("rope.scaling.attn_factor", Value::F32(1.0))],
            json!({}),
            &[],
        ),
        // A window that llama.cpp does not look at bounds the prompt.
        (
            "llama-tiny",
            "llama",
            vec![("attention.sliding_window", Value::U32(24))],
            json!({ "max_position_embeddings": 24 }),
            &[],
        ),
        // Gemma 3: a base and a pattern of its own for blocks that slide, which are never scaled; usual ones; none where there is no window.
        (
            "gemma3-tiny",
            "gemma3",
            vec![("rope.freq_base_swa", Value::F32(50.0)), ("attention.sliding_window_pattern", flags([true, true, false]))],
            json!({ "layer_types": [sliding, sliding, full], "rope_scaling": null }),
            &[],
        ),
        (
            "gemma3-tiny",
            "gemma3",
            vec![],
            json!({ "layer_types": [sliding, sliding, sliding], "rope_scaling": null }),
            &["rope_local_base_freq"],
        ),
        (
            "gemma3-tiny",
            "gemma3",
            vec![("attention.sliding_window_pattern", Value::U32(3)), ("rope.scaling.factor", Value::F32(4.0))],
            json!({ "layer_types": [sliding, sliding, full], "rope_scaling": linear }),
            &["rope_local_base_freq"],
        ),
        (
            "gemma3-tiny",
            "gemma3",
            vec![("attention.sliding_window", Value::U32(0))],
            json!({ "layer_types": [full, full, full], "rope_scaling": null }),
            &[],
        ),
        (
            "gemma3-tiny",
            "gemma3",
            vec![("attention.sliding_window_pattern", Value::U32(1)), ("final_logit_softcapping", Value::F32(2.0))],
            json!({ "layer_types": [full, full, full], "rope_scaling": null, "final_logit_softcapping": 2.0 }),
            &[],
        ),
        // Gemma 2's caps are there where nothing is said.
        ("gemma2-tiny", "gemma2", vec![], json!({}), &["attn_logit_softcapping", "final_logit_softcapping"]),
        (
            "gemma2-tiny",
            "gemma2",
            vec![
                ("attn_logit_softcapping", Value::F32(0.0)),
                ("final_logit_softcapping", Value::F32(2.0)),
                ("attention.sliding_window_pattern", Value::U32(1)),
            ],
            json!({ "attn_logit_softcapping": null, "layer_types": [full, full] }),
            &[],
        ),
    ];
    for (name, architecture, metadata, changes, dropped) in cases {
        let copy = crate::support::copy_of(name)?;
        let mut file = Gguf::of(copy.path(), architecture, GgmlDType::F32)?;
        for (key, value) in &metadata {
            file.set(&format!("{architecture}.{key}"), value.clone());
        }
        file.write(&path)?;
        edit(copy.path(), "config.json", |config| {
            if architecture.starts_with("gemma") {
                config.insert("query_pre_attn_scalar".into(), 8.into());
            }
            dropped.iter().for_each(|field| drop(config.remove(*field)));
            config.extend(changes.as_object().unwrap().clone());
        })?;
        let (found, wanted) =
            (run(&zotune::formats::gguf::folder::open(&path)?)?, run(&Source::Folder(copy.path().into()))?);
        let difference = found.0.iter().zip(&wanted.0).map(|(f, w)| (f - w).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-5 && found.1 == wanted.1, "{name} {changes}: {difference}, {} and {}", found.1, wanted.1);
    }
    Ok(())
}

/// Every kind of blocks opened as candle opens it, in every precision that weights are held in.
#[test]
fn quantised_blocks_are_opened_as_candle_opens_them() -> Result<()> {
    use GgmlDType::*;
    let sizes = Llama { vocab: 300, hidden: 256, inner: 512, layers: 1, heads: 4, kv_heads: 2, tied: true };
    let (folder, tensors) = sizes.write(DType::F32)?;
    let path = folder.path().join("model.gguf");
    for kind in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        Gguf::of(folder.path(), "llama", kind)?.write(&path)?;
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (_, mut params) = open(&path, dtype)?;
            assert_eq!(params.ids().count(), tensors.len());
            for (name, found) in params.settle()?.iter() {
                let heads = [("q_proj", 4), ("k_proj", 2)].into_iter().find(|(part, _)| name.contains(part)).map(|(_, h)| h);
                let plain = &tensors[name];
                let turned = heads.map_or(Ok(plain.clone()), |heads| interleave(plain, heads))?;
                let blocks = QTensor::quantize(&turned, if plain.rank() == 2 { kind } else { F32 })?;
                let opened = blocks.dequantize(&Device::Cpu)?;
                let expected = heads.map_or(Ok(opened.clone()), |heads| halve(&opened, heads))?.to_dtype(dtype)?;
                let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
                assert_eq!(numbers(&found.tensor()?)?, numbers(&expected)?, "{name} from {kind:?} in {dtype:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn loading_holds_the_weights_and_little_more() -> Result<()> {
    if !alone("gguf::loading_holds_the_weights_and_little_more")? {
        return Ok(());
    }
    let sizes = Llama { vocab: 4096, hidden: 256, inner: 1024, layers: 4, heads: 4, kv_heads: 4, tied: true };
    let (folder, _) = sizes.write(DType::F32)?;
    let path = folder.path().join("model.gguf");
    Gguf::of(folder.path(), "llama", GgmlDType::Q8_0)?.write(&path)?;
    let source = zotune::formats::gguf::folder::open(&path)?;
    let (opened, held) = zotune::base::memory::peak_of(|| Model::open(&source, DType::F32));
    let (_, params) = opened?;
    // A stretch of a million numbers in blocks, and what each thread opens at a time.
    assert!(held < params.bytes() + (3 << 20), "{held} bytes held for {} of weights", params.bytes());
    Ok(())
}

/// opt-mini's vocabulary cut in each way. The ids are from the tokenizers library with the steps that GPT-2's, SmolLM2's,
/// LLaMA 3's and Qwen2's own tokenizer.json have.
#[test]
fn text_is_cut_as_the_file_says() -> Result<()> {
    let number = "In 2024 it made 1234567 dollars, 10.5%";
    let expected: [(&str, &str, &[u32]); 10] = [
        ("gpt-2", number, &[2991, 2540, 754, 312, 697, 438, 21, 721, 929, 26, 3738, 599, 15, 1295, 17, 24, 8]),
        (
            "smollm",
            number,
            &[2991, 224, 21, 19, 21, 23, 312, 697, 224, 20, 21, 22, 23, 24, 25, 26, 3738, 599, 15, 224, 20, 19, 17, 24, 8],
        ),
        (
            "llama-bpe",
            number,
            &[2991, 224, 21, 1252, 23, 312, 697, 224, 708, 22, 23, 929, 26, 3738, 599, 15, 224, 654, 17, 24, 8],
        ),
        (
            "qwen2",
            number,
            &[2991, 224, 21, 19, 21, 23, 312, 697, 224, 20, 21, 22, 23, 24, 25, 26, 3738, 599, 15, 224, 20, 19, 17, 24, 8],
        ),
        (
            "gpt-2",
            "  a  film\n\n\nof   3 parts \n",
            &[224, 261, 224, 347, 202, 202, 202, 1304, 224, 224, 957, 2265, 224, 202],
        ),
        (
            "smollm",
            "  a  film\n\n\nof   3 parts \n",
            &[224, 261, 224, 347, 202, 202, 202, 1304, 224, 224, 224, 22, 2265, 224, 202],
        ),
        ("llama-bpe", "don't DON'T we'Ll", &[71, 283, 380, 419, 2656, 10, 55, 379, 10, 47, 79]),
        ("qwen2", "x=(a,b);!\n\n y", &[91, 32, 11, 68, 15, 69, 12, 30, 4, 202, 202, 341]),
        (
            "smollm",
            "cafe\u{301} ½ naïve 🙂",
            &[70, 68, 461, 140, 227, 224, 130, 125, 306, 68, 131, 111, 314, 224, 176, 257, 251, 228],
        ),
        (
            "qwen2",
            "cafe\u{301} ½ naïve 🙂",
            &[70, 3098, 1480, 224, 130, 125, 306, 68, 131, 111, 314, 224, 176, 257, 251, 228],
        ),
    ];
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
    for (pre, text, ids) in expected {
        file.set_opt_minis_vocabulary(pre)?;
        file.write(&path)?;
        let tokenizer = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?;
        assert_eq!(tokenizer.encode(text)?, [&[2], ids].concat(), "{pre}: {text}");
        assert_eq!(tokenizer.encode("a<pad>b")?[2], 1, "a special token is found in a text");
    }
    // opt-mini's own tokenizer is another way to the same.
    file.set_opt_minis_vocabulary("gpt-2")?;
    file.write(&path)?;
    let (found, own) = (
        Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?,
        Tokenizer::open(&zotune::model::builtin::OPT_MINI, None)?,
    );
    for text in ["A fine film, isn't it?", "", " \n\t x  12 ½", "naïve 北京 🙂\r\n", "f(x) = x**2;"] {
        assert_eq!(found.encode(text)?, own.encode(text)?, "{text}");
    }
    // LLaMA 3's files need not say that a text begins with the begin token; the others' have to.
    for (pre, begins) in [("llama-bpe", true), ("smollm", false)] {
        file.set_opt_minis_vocabulary(pre)?;
        file.metadata.remove("tokenizer.ggml.add_bos_token");
        file.write(&path)?;
        let ids = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?.encode("film")?;
        assert_eq!(ids.first() == Some(&2), begins, "{pre}: {ids:?}");
    }
    Ok(())
}

/// SentencePiece's BPE, its merges found from the scores, against sentencepiece itself (scripts/make_sentencepiece.py).
#[test]
fn sentencepieces_are_found_as_sentencepiece_finds_them() -> Result<()> {
    let reference = fixture_json("sentencepiece.json")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
    for (name, prefix) in [("llama", true), ("gemma", false)] {
        let pieces = reference[name]["pieces"].as_array().unwrap();
        let part = |i: usize| pieces.iter().map(move |piece| &piece[i]);
        file.set("tokenizer.ggml.model", text("llama"));
        file.set("tokenizer.ggml.tokens", texts(part(0).filter_map(Json::as_str)));
        file.set("tokenizer.ggml.scores", Value::Array(part(1).map(|s| Value::F32(s.as_f64().unwrap() as f32)).collect()));
        file.set(
            "tokenizer.ggml.token_type",
            Value::Array(part(2).map(|t| Value::I32(t.as_i64().unwrap() as i32)).collect()),
        );
        file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        file.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
        file.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        file.write(&path)?;
        let tokenizer = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?;
        let texts = reference[name]["texts"].as_array().unwrap();
        for row in texts {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text)?, [&[1], &tokens(&row["ids"])[..]].concat(), "{name}: {text:?}");
        }
        assert_eq!((pieces.len(), texts.len(), numbers(&texts[0]["ids"]).len() > 5), (420, 10, true));
    }
    Ok(())
}

fn error(path: &Path) -> String {
    let opened = zotune::formats::gguf::folder::open(path).and_then(|source| {
        Tokenizer::open(&source, None)?;
        Model::open(&source, DType::F32)
    });
    let error = format!("{:#}", opened.err().expect("it opened"));
    assert!(error.contains("model.gguf"), "{error}");
    error
}

#[test]
fn damaged_files_say_what_is_wrong() -> Result<()> {
    if !alone("gguf::damaged_files_say_what_is_wrong")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?.write(&path)?;
    let whole = std::fs::read(&path)?;
    for cut in (4..whole.len() - 32).step_by(101) {
        std::fs::write(&path, &whole[..cut])?;
        assert!(error(&path).contains("cut short"), "{cut} bytes: {}", error(&path));
    }
    let damaged = |place: usize, bytes: &[u8]| -> Result<String> {
        let mut damaged = whole.clone();
        damaged[place..place + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, damaged)?;
        Ok(error(&path))
    };
    assert!(
        !zotune::formats::gguf::folder::is_gguf(&fixture("logits.json"))
            && !zotune::formats::gguf::folder::is_gguf(folder.path())
    );
    assert!(damaged(0, b"GGML")?.contains("does not begin with GGUF"));
    assert!(damaged(4, &1u32.to_le_bytes())?.contains("version 1"));
    assert!(damaged(4, &3u32.to_be_bytes())?.contains("big-endian"));
    assert!(damaged(4, &90u32.to_le_bytes())?.contains("version 90; 2 and 3 can be read"));
    // Counts that no file has the bytes for allocate nothing.
    let ((), held) = zotune::base::memory::peak_of(|| {
        for (place, count) in [(8, u64::MAX), (8, 1 << 23), (16, 1 << 40), (16, 1 << 23), (24, 1 << 62), (24, 1 << 23)] {
            let error = damaged(place, &count.to_le_bytes()).unwrap();
            assert!(error.contains("cut short") || error.contains("damaged"), "{place}, {count}: {error}");
        }
    });
    assert!(held < 64 << 20, "{held}");
    // Any byte of the header turned over is an error or another model, never a panic.
    for place in (0..2000).step_by(3) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0xff;
        std::fs::write(&path, damaged)?;
        let _ = zotune::formats::gguf::folder::open(&path).and_then(|source| Model::open(&source, DType::F32));
    }
    Ok(())
}

#[test]
fn files_that_are_not_understood_say_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let with = |change: &dyn Fn(&mut Gguf)| -> Result<String> {
        let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
        change(&mut file);
        file.write(&path)?;
        Ok(error(&path))
    };
    let set = |key: &'static str, value: Value| with(&move |file: &mut Gguf| file.set(key, value.clone()));
    let without = |key: &'static str| with(&move |file: &mut Gguf| drop(file.metadata.remove(key)));
    for (found, expected) in [
        (set("general.architecture", text("mamba"))?, "zotune does not read the architecture \"mamba\" from GGUF"),
        (set("general.architecture", text("lama"))?, "did you mean \"llama\"?"),
        (set("general.architecture", Value::U32(1))?, "general.architecture is Integer(1); it must be a text"),
        (without("general.architecture")?, "has no general.architecture"),
        (set("general.type", text("adapter"))?, "it is not a model; its type is \"adapter\""),
        (set("split.count", Value::U16(3))?, "--merge"),
        (set("llama.expert_count", Value::U32(8))?, "mixture of experts"),
        (without("llama.block_count")?, "has no llama.block_count"),
        (without("llama.attention.layer_norm_rms_epsilon")?, "has no llama.attention.layer_norm_rms_epsilon"),
        (set("llama.block_count", Value::I32(-1))?, "llama.block_count is -1, below 0"),
        (set("llama.block_count", Value::U32(u32::MAX))?, "num_hidden_layers is 4294967295"),
        (set("llama.block_count", Value::U32(3))?, "no tensor model.layers.2."),
        (set("llama.embedding_length", Value::U32(24))?, "config.json asks for [64, 24]"),
        (set("llama.rope.dimension_count", Value::U32(4))?, "rotary positions 4"),
        (set("llama.rope.scaling.type", text("yarn"))?, "scaled by \"yarn\""),
        (set("llama.rope.scaling.yarn_beta_fast", Value::F32(32.0))?, "under llama: rope.scaling.yarn_beta_fast"),
        (set("llama.rope.scaling.attn_factor", Value::F32(1.5))?, "rope.scaling.attn_factor is 1.5, which is not supported"),
        (set("llama.attention.causal", Value::Bool(false))?, "attention.causal is false, which is not supported"),
        (
            set("llama.attn_logit_softcapping", Value::F32(50.0))?,
            "attn_logit_softcapping is 50.0, but zotune does not know this field",
        ),
        (set("llama.attention.scale", Value::F32(0.5))?, "attention.scale is 0.5, which is not supported"),
        (
            set("llama.key_of_tomorrow", Value::U32(1))?,
            "under llama: key_of_tomorrow is 1, but zotune does not know this field",
        ),
        (set("tokenizer.ggml.key_of_tomorrow", Value::Bool(true))?, "under tokenizer: ggml.key_of_tomorrow"),
        (set("llama.attention.key_length_swa", Value::U32(4))?, "those of blocks that slide 4"),
        (set("tokenizer.ggml.pre", text("tekken"))?, "cuts text as \"tekken\" does"),
        (without("tokenizer.ggml.pre")?, "has no tokenizer.ggml.pre"),
        (set("tokenizer.ggml.model", text("t5"))?, "of the kind \"t5\""),
        (set("tokenizer.ggml.bos_token_id", Value::U32(64))?, "bos_token_id is 64, but it has 64 tokens"),
        (set("tokenizer.ggml.merges", texts(["ab"]))?, "not two pieces"),
        (set("tokenizer.ggml.merges", texts(["a b"]))?, "tokenizer.json"),
        (set("general.alignment", Value::U32(0))?, "general.alignment is 0"),
        (with(&|file| drop(file.tensors.remove("blk.1.ffn_up.weight")))?, "no tensor model.layers.1.mlp.up_proj.weight"),
        (with(&|file| drop(file.tensors.remove("token_embd.weight")))?, "no tensor token_embd.weight"),
    ] {
        assert!(found.contains(expected), "{found}, not {expected}");
    }
    // Types that are not read: the number behind the dimensions of the first tensor.
    Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?.write(&path)?;
    let whole = std::fs::read(&path)?;
    let name = b"blk.0.attn_k.weight";
    let place = whole.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len() + 4 + 2 * 8;
    for (number, named) in [(16u32, "IQ2_XXS"), (77, "type 77, which zotune does not know")] {
        let mut other = whole.clone();
        other[place..place + 4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(&path, other)?;
        let error = error(&path);
        assert!(error.contains("self_attn.k_proj.weight") && error.contains(named) && error.contains("Q8_0"), "{error}");
    }
    Ok(())
}

/// Every verb on a file: a run that is gone on with, told again, scored; and what mistakes end with.
#[test]
fn every_verb_takes_a_file() -> Result<()> {
    let sizes = Llama { vocab: 4096, hidden: 32, inner: 64, layers: 2, heads: 4, kv_heads: 2, tied: true };
    let (folder, _) = sizes.write(DType::F32)?;
    let place = folder.path();
    let mut file = Gguf::of(place, "llama", GgmlDType::Q8_0)?;
    file.set_opt_minis_vocabulary("gpt-2")?;
    file.write(&place.join("model.gguf"))?;
    let zotune = |args: &str, code: i32| -> Result<String> {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zotune"));
        command.args(args.split(' ')).current_dir(place).env_remove("RUST_LOG").env("RAYON_NUM_THREADS", "2");
        let output = command.output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args}: {said}");
        Ok(said)
    };
    let small = "--task reviews --num-train 16 --num-dev 8 --num-eval 8 --batch-size 4";
    let train = |steps: u32, run: &str| format!("train --model model.gguf {small} --max-steps {steps} --output-dir {run}");
    zotune(&format!("plan --model model.gguf {small} --max-steps 4"), 0)?;
    zotune(&train(4, "whole"), 0)?;
    zotune(&train(2, "parts"), 0)?;
    zotune("train --resume parts --max-steps 4", 0)?;
    zotune("replay whole --output-dir again", 0)?;
    let weights = |run: &str| std::fs::read(place.join(run).join("model.safetensors"));
    assert!(weights("whole")? == weights("parts")? && weights("whole")? == weights("again")?);
    let facts: Json = serde_json::from_slice(&std::fs::read(place.join("whole/run.json"))?)?;
    assert_eq!(facts["model"]["sha256"]["model.gguf"].as_str().map(str::len), Some(64));
    let eval = |model: &str| zotune(&format!("eval --quiet --model {model} --task reviews --num-eval 8"), 0);
    // The file and a folder that holds its weights are one model.
    zotune("replay whole --to-step 0 --output-dir base", 0)?;
    assert_eq!(eval("model.gguf")?, eval("base")?);

    std::fs::write(place.join("other.gguf"), "GGML")?;
    let said = zotune("eval --model other.gguf --task reviews", 2)?;
    assert!(said.contains("--model other.gguf: the file is not a GGUF file"), "{said}");
    file.set("general.architecture", text("mamba"));
    file.write(&place.join("other.gguf"))?;
    let said = zotune("eval --model other.gguf --task reviews", 1)?;
    assert!(said.contains("cannot read other.gguf") && said.contains("the architecture \"mamba\""), "{said}");
    Ok(())
}
