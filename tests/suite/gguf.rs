//! GGUF files: made here from models in Hugging Face layout as llama.cpp makes them, and the same models again.

use anyhow::Result;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value as Json, json};
use zotune::base::Source;
use zotune::data::Batch;
use zotune::model::Model;
use zotune::params::Weights;

use crate::support::gguf::{Gguf, error, halve, interleave, open, text};
use crate::support::{Llama, alone, edit};

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
