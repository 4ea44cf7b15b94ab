//! Models against transformers' numbers (tests/fixtures/logits.json), candle-transformers, and their own weights.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use zotune::base::Source;
use zotune::data::{Batch, Pick};
use zotune::direction::Term;
use zotune::model::Model;
use zotune::params::Params;
use zotune::prompt::loss::scores;

use crate::support::{FIXTURES, Llama, copy_of, edit, example, fixture, fixture_json, numbers, open, tokens};

fn logits(model: &Model, params: &mut Params, tokens: &[u32]) -> Result<Vec<f32>> {
    model.logits(params.settle()?, &Batch::sequence(tokens))?.to_vec()
}

fn largest_difference(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn logits_and_candidate_scores_are_those_of_transformers() -> Result<()> {
    let reference = fixture_json("logits.json")?;
    for name in FIXTURES {
        let expected = &reference["models"][name];
        let (model, mut params) = open(name)?;
        let mut sequences = 0;
        for sequence in expected["sequences"].as_array().into_iter().flatten() {
            let expected: Vec<f64> = sequence["logits"].as_array().into_iter().flatten().flat_map(numbers).collect();
            let found = logits(&model, &mut params, &tokens(&sequence["tokens"]))?;
            let difference = largest_difference(&found, &expected);
            assert!(difference < 1e-4, "{name}: logits differ by {difference}");
            sequences += 1;
        }
        assert_eq!(sequences, 2, "{name}");
        let candidates = &expected["candidates"];
        let answers: Vec<Vec<u32>> = candidates["answers"].as_array().into_iter().flatten().map(tokens).collect();
        let answers: Vec<&[u32]> = answers.iter().map(Vec::as_slice).collect();
        let batch = Batch::pack(&[example(0, &tokens(&candidates["prompt"]), &answers)], Pick::All);
        let found: Vec<f32> = scores(&model, params.settle()?, &batch)?[0].iter().map(|s| s.mean() as f32).collect();
        let difference = largest_difference(&found, &numbers(&candidates["scores"]));
        assert!(difference < 1e-4, "{name}: scores differ by {difference}");
    }
    Ok(())
}

/// A model follows its weights: whichever parameter walks, some logit changes. Guards against copies made on the way.
#[test]
fn every_parameter_reaches_the_logits() -> Result<()> {
    let mut checked = 0;
    for name in FIXTURES {
        let (model, mut params) = open(name)?;
        let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
        let before = logits(&model, &mut params, &sequence)?;
        let names: Vec<String> = params.settle()?.iter().map(|(name, _)| name.to_string()).collect();
        for parameter in names {
            let id = params.id(&parameter).unwrap();
            let original: Vec<f32> = params.settle()?.get(id).tensor()?.flatten_all()?.to_vec1()?;
            let changed: Vec<f32> = original.iter().enumerate().map(|(i, w)| w + 0.1 + (i % 5) as f32 * 0.1).collect();
            params.overwrite(id, &mut bytemuck::cast_slice::<f32, u8>(&changed))?;
            let moved = logits(&model, &mut params, &sequence)?;
            // A bias on keys adds the same to every score of a query: only for it can nothing change.
            let inert = parameter.ends_with("k_proj.bias");
            assert!(inert || moved != before, "{name}: moving {parameter} changes no logit");
            params.overwrite(id, &mut bytemuck::cast_slice::<f32, u8>(&original))?;
            checked += 1;
        }
        assert_eq!(logits(&model, &mut params, &sequence)?, before, "{name}");
    }
    assert!(checked > 100, "{checked} parameters");
    Ok(())
}

#[test]
fn half_precision_agrees_with_f32_to_its_rounding() -> Result<()> {
    for name in FIXTURES {
        let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
        let (model, mut params) = open(name)?;
        let exact: Vec<f64> = logits(&model, &mut params, &sequence)?.into_iter().map(f64::from).collect();
        for (dtype, tolerance) in [(DType::BF16, 0.15), (DType::F16, 0.02)] {
            let (model, mut params) = Model::open(&Source::Folder(fixture(name)), dtype)?;
            assert_eq!(params.dtype(), dtype);
            let difference = largest_difference(&logits(&model, &mut params, &sequence)?, &exact);
            assert!(difference < tolerance, "{name} in {dtype:?}: {difference}");
            // Widening tile by tile is exact: the same weights held in f32 give the same logits to f32 rounding.
            let (_, mut widened) = open(name)?;
            let rounded: Vec<Vec<f32>> = params
                .settle()?
                .iter()
                .map(|(_, t)| Ok(t.tensor()?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?))
                .collect::<Result<_>>()?;
            let names: Vec<String> = params.settle()?.iter().map(|(name, _)| name.to_string()).collect();
            for (name, values) in names.iter().zip(&rounded) {
                let id = widened.id(name).unwrap();
                widened.overwrite(id, &mut bytemuck::cast_slice::<f32, u8>(values))?;
            }
            let same: Vec<f64> = logits(&model, &mut widened, &sequence)?.into_iter().map(f64::from).collect();
            let difference = largest_difference(&logits(&model, &mut params, &sequence)?, &same);
            // Units for pairs of bf16 take the activations in bf16 too.
            let pairs = dtype == DType::BF16 && zotune::device::cpu::simd::pair_unit().is_some();
            let limit = if pairs { 0.05 } else { 1e-4 };
            assert!(difference < limit, "{name} in {dtype:?} and the same weights in f32: {difference}");
        }
    }
    Ok(())
}

/// A sequence longer than a query block, against candle-transformers' Llama.
#[test]
fn a_long_sequence_agrees_with_candle_transformers() -> Result<()> {
    use candle_transformers::models::llama;
    let sizes = Llama::SMALL;
    let vocab = sizes.vocab;
    let (folder, tensors) = sizes.write(DType::F32)?;
    let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
    let sequence: Vec<u32> = (0..150).map(|i| (i * i + 3 * i) % vocab as u32).collect();
    let found = logits(&model, &mut params, &sequence)?;

    let config = llama::Config {
        hidden_size: sizes.hidden,
        intermediate_size: sizes.inner,
        vocab_size: vocab,
        num_hidden_layers: sizes.layers,
        num_attention_heads: sizes.heads,
        num_key_value_heads: sizes.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: 256,
        tie_word_embeddings: false,
    };
    let builder = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let oracle = llama::Llama::load(builder, &config)?;
    for length in [1, 63, 64, 65, 128, 129, 150] {
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        let input = Tensor::new(&sequence[..length], &Device::Cpu)?.unsqueeze(0)?;
        let last: Vec<f32> = oracle.forward(&input, 0, &mut cache)?.flatten_all()?.to_vec1()?;
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        let difference = largest_difference(&found[(length - 1) * vocab..length * vocab], &last);
        assert!(difference < 1e-4, "{length} tokens: {difference}");
    }
    Ok(())
}

/// A window that slides bounds what a prompt may be, so that every query sees all of it: Mistral's is used wherever it is named, Qwen's
/// only where it is asked for, Gemma 3's where a block is local. Within it nothing differs from a model without one.
#[test]
fn a_sliding_window_bounds_the_length() -> Result<()> {
    let sequence: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 60).collect();
    for (name, changes, expected) in [
        ("llama-tiny", json!({ "model_type": "mistral", "sliding_window": 24 }), 24),
        ("llama-tiny", json!({ "model_type": "mistral", "sliding_window": null }), 64),
        ("llama-tiny", json!({ "sliding_window": 24 }), 64),
        ("qwen2-tiny", json!({ "sliding_window": 24 }), 64),
        // Blocks slide from max_window_layers on, which is 28; layer_types goes before it.
        ("qwen2-tiny", json!({ "sliding_window": 24, "use_sliding_window": true }), 64),
        ("qwen2-tiny", json!({ "sliding_window": 24, "use_sliding_window": true, "layer_types": null }), 64),
        (
            "qwen2-tiny",
            json!({ "sliding_window": 24, "use_sliding_window": true, "layer_types": null, "max_window_layers": 1 }),
            24,
        ),
        (
            "qwen3-tiny",
            json!({ "sliding_window": 24, "use_sliding_window": true, "layer_types": ["full_attention", "sliding_attention"] }),
            24,
        ),
        ("gemma3-tiny", json!({ "sliding_window": 24 }), 24),
        ("gemma3-tiny", json!({ "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] }), 32),
        ("gemma2-tiny", json!({ "sliding_window": 24 }), 24),
        ("gemma-tiny", json!({}), 64),
    ] {
        let folder = copy_of(name)?;
        edit(folder.path(), "config.json", |config| config.extend(changes.as_object().unwrap().clone()))?;
        let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
        assert_eq!(model.shape().max_length, expected, "{name} {changes}");
        let (plain, mut weights) = open(name)?;
        assert!(logits(&model, &mut params, &sequence)? == logits(&plain, &mut weights, &sequence)?, "{name} {changes}");
    }
    // Gemma 2's caps are there where nothing is said, and not where nothing is what is said.
    let capped = |changes: serde_json::Value| -> Result<Vec<f32>> {
        let folder = copy_of("gemma2-tiny")?;
        edit(folder.path(), "config.json", |config| {
            config.remove("attn_logit_softcapping");
            config.remove("final_logit_softcapping");
            config.extend(changes.as_object().unwrap().clone());
        })?;
        let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
        logits(&model, &mut params, &sequence)
    };
    let usual = capped(json!({ "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0 }))?;
    assert_eq!(capped(json!({}))?, usual);
    assert_ne!(capped(json!({ "attn_logit_softcapping": null, "final_logit_softcapping": null }))?, usual);
    // The newer spelling of Gemma 3's positions is the older one's model; all blocks full is another.
    let (_, mut params) = open("gemma3-tiny")?;
    let of = |params: &mut Params, changes: serde_json::Value| -> Result<Vec<f32>> {
        let folder = copy_of("gemma3-tiny")?;
        edit(folder.path(), "config.json", |config| config.extend(changes.as_object().unwrap().clone()))?;
        logits(&Model::open_meta(&Source::Folder(folder.path().into()), DType::F32, None)?.0, params, &sequence)
    };
    let older = of(&mut params, json!({}))?;
    let newer = json!({
        "rope_theta": null, "rope_local_base_freq": null, "rope_scaling": null, "sliding_window_pattern": null,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 50.0 },
        },
    });
    assert_eq!(of(&mut params, newer)?, older);
    assert_ne!(of(&mut params, json!({ "sliding_window_pattern": 1 }))?, older);
    Ok(())
}

/// What an architecture does not have is an error, and not another model.
#[test]
fn what_a_relative_does_not_have_is_refused() -> Result<()> {
    for (name, changes, expected) in [
        ("llama-tiny", json!({ "hidden_act": "relu" }), "hidden_act \"relu\" is not supported"),
        ("qwen2-tiny", json!({ "hidden_act": "gelu" }), "hidden_act \"gelu\" is not supported"),
        ("gemma-tiny", json!({ "hidden_act": "relu" }), "hidden_act \"relu\" is not supported"),
        ("gemma2-tiny", json!({ "hidden_activation": "relu" }), "hidden_activation \"relu\" is not supported"),
        ("gemma2-tiny", json!({ "attn_logit_softcapping": -50.0 }), "a soft cap is -50"),
        (
            "gemma3-tiny",
            json!({ "layer_types": ["full_attention", "chunked_attention", "full_attention"] }),
            "\"chunked_attention\" for block 1",
        ),
        ("gemma3-tiny", json!({ "layer_types": ["full_attention"] }), "the kinds of 1 blocks"),
        ("gemma3-tiny", json!({ "sliding_window": null }), "sliding blocks"),
        ("qwen2-tiny", json!({ "layer_types": ["sliding_attention", "full_attention"] }), "sliding blocks"),
        (
            "llama-tiny",
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0 } }),
            "is not above low_freq_factor",
        ),
        ("llama-tiny", json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.0 } }), "factor is 0"),
        ("llama-tiny", json!({ "hidden_size": 18, "head_dim": null }), "not a multiple"),
        ("gemma3-tiny", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        ("gemma3-tiny", json!({ "sliding_window": 0 }), "sliding_window is 0"),
        ("qwen3-tiny", json!({ "rope_parameters": { "rope_type": "yarn" } }), "rope type \"yarn\" is not supported"),
    ] {
        let folder = copy_of(name)?;
        edit(folder.path(), "config.json", |config| config.extend(changes.as_object().unwrap().clone()))?;
        let error = Model::open(&Source::Folder(folder.path().into()), DType::F32).err().expect("it opened");
        assert!(format!("{error:#}").contains(expected), "{name} {changes}: {error:#}");
    }
    Ok(())
}

/// Tied weights are one storage: the head is the embedding, walked once.
#[test]
fn tied_weights_are_one_parameter() -> Result<()> {
    let (_, mut tied) = open("opt-tiny")?;
    assert!(tied.id("lm_head.weight").is_none());
    let id = tied.id("model.decoder.embed_tokens.weight").unwrap();
    let before: Vec<f32> = tied.settle()?.get(id).tensor()?.flatten_all()?.to_vec1()?;
    tied.perturb(&[Term::gaussian(1, 1.0)]);
    let after: Vec<f32> = tied.settle()?.get(id).tensor()?.flatten_all()?.to_vec1()?;
    let z = zotune::device::cpu::drawn::direction(1, "model.decoder.embed_tokens.weight", before.len());
    for ((a, b), z) in after.iter().zip(&before).zip(z) {
        assert!((a - b - z).abs() < 1e-6);
    }
    let (_, untied) = open("opt-untied-tiny")?;
    assert!(untied.id("lm_head.weight").is_some());
    Ok(())
}
