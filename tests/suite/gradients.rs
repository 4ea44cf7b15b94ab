//! First-order gradients, block by block, against candle's whole-graph backward (graph.rs) and against PyTorch's
//! (tests/fixtures/gradients.safetensors, made by scripts/make_gradients.py).

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::base::Source;
use zotune::data::Example;
use zotune::data::task::Loss;
use zotune::device::cpu::simd::pair_unit;
use zotune::model::Model;
use zotune::params::{Params, Role};
use zotune::prompt::PromptLoss;
use zotune::zo::{Batches, Problem};

use crate::graph::loss_and_gradients;
use crate::support::{FIXTURES, Llama, alone, copy_of, example, fixture, open};

/// The batch of scripts/make_gradients.py.
fn batch() -> [Example; 3] {
    [
        example(0, &[2, 10, 11, 12, 13, 14], &[&[20], &[21]]),
        example(1, &[2, 30, 31, 32], &[&[40, 41, 42], &[40, 43]]),
        example(0, &[2, 5, 6, 7, 8, 9, 10, 11], &[&[22, 23], &[24, 25, 26]]),
    ]
}

/// Which weights are wanted: all whose name the predicate holds.
fn differentiate(params: &mut Params, wanted: impl Fn(&str) -> bool) {
    let ids: Vec<_> = params.ids().filter(|(_, name)| wanted(name)).map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
}

/// Gradients by name.
type Named = Vec<(String, Vec<f32>)>;

/// The loss, and the gradients by name, in the order in which they were handed out.
fn gradients(model: &Model, params: &mut Params, loss: Loss, examples: &[Example], micro: usize) -> Result<(f32, Named)> {
    let problem = PromptLoss::of_all(model, loss, examples, micro);
    let (value, mut gradients) = problem.backward(params.settle()?)?;
    let names: HashMap<_, _> = params.ids().map(|(id, name)| (id, name.to_string())).collect();
    let mut all = Vec::new();
    while let Some(block) = gradients.next(params.settle()?)? {
        all.extend(block.into_iter().map(|(id, gradient)| (names[&id].clone(), gradient.to_vec())));
    }
    Ok((value, all))
}

fn assert_close(place: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{place}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 2e-6 + 1e-4 * e.abs(), "{place}, element {i}: {f}, not {e}");
    }
}

#[test]
fn every_weights_gradient_is_pytorchs() -> Result<()> {
    let reference = candle_core::safetensors::load(fixture("gradients.safetensors"), &Device::Cpu)?;
    let mut compared = 0;
    for name in FIXTURES {
        for (loss, key) in [(Loss::Classification, "classification"), (Loss::TeacherForcing, "teacher_forcing")] {
            let expected = |what: &str| -> Result<Vec<f32>> {
                let tensor = reference.get(&format!("{name}/{key}/{what}"));
                Ok(tensor.ok_or_else(|| anyhow::anyhow!("{name}/{key}/{what} is missing"))?.flatten_all()?.to_vec1()?)
            };
            for micro in [3, 1] {
                let (model, mut params) = open(name)?;
                differentiate(&mut params, |_| true);
                let (value, found) = gradients(&model, &mut params, loss, &batch(), micro)?;
                assert!((value - expected("loss")?[0]).abs() < 1e-5, "{name}, {key}: loss {value}");
                assert_eq!(found.len(), params.ids().count(), "{name}: not every weight got a gradient");
                for (weight, gradient) in &found {
                    assert_close(&format!("{name}, {key}, micro-batch {micro}, {weight}"), gradient, &expected(weight)?);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    Ok(())
}

/// The same against candle's backward over the whole graph in f64, of models that no fixture is like.
#[test]
fn every_weights_gradient_is_that_of_candles_whole_graph() -> Result<()> {
    let varied = [
        ("opt-tiny", serde_json::json!({ "activation_function": "gelu_new" })),
        ("opt-350m-tiny", serde_json::json!({ "activation_function": "gelu" })),
        ("opt-untied-tiny", serde_json::json!({ "activation_function": "silu", "_remove_final_layer_norm": false })),
        ("llama-tiny", serde_json::json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } })),
        ("llama3-tiny", serde_json::json!({})),
        ("qwen2-tiny", serde_json::json!({ "rope_parameters": { "rope_theta": 50.0 } })),
        ("qwen3-tiny", serde_json::json!({ "rms_norm_eps": 0.1 })),
        ("gemma-tiny", serde_json::json!({ "hidden_act": "gelu_pytorch_tanh" })),
        ("gemma3-tiny", serde_json::json!({ "query_pre_attn_scalar": 20, "sliding_window_pattern": 3 })),
        ("gemma2-tiny", serde_json::json!({ "attn_logit_softcapping": 0.7, "final_logit_softcapping": 5.0 })),
    ];
    for (name, changes) in varied {
        let folder = copy_of(name)?;
        let place = folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&place)?)?;
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        std::fs::write(&place, config.to_string())?;
        let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
        compare_with_graph(&format!("{name} {changes}"), &config, &model, &mut params, &batch())?;
    }
    // Sequences longer than a block of queries, grouped keys, examples side by side.
    let (folder, _) = Llama::SMALL.write(DType::F32)?;
    let config = serde_json::from_slice(&std::fs::read(folder.path().join("config.json"))?)?;
    let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
    let tokens = |n: u32, step: u32| (0..n).map(|i| (7 + i * step + i * i) % 64).collect::<Vec<_>>();
    let long = tokens(70, 3);
    let examples = [example(0, &tokens(64, 1), &[&[20, 21], &[22]]), example(1, &tokens(95, 2), &[&long, &[8, 8]])];
    compare_with_graph("long", &config, &model, &mut params, &examples)
}

fn compare_with_graph(
    place: &str,
    config: &serde_json::Value,
    model: &Model,
    params: &mut Params,
    examples: &[Example],
) -> Result<()> {
    differentiate(params, |_| true);
    for loss in [Loss::Classification, Loss::TeacherForcing] {
        let weights =
            params.settle()?.iter().map(|(name, weight)| Ok((name.to_string(), weight.tensor()?))).collect::<Result<_>>()?;
        let (_, expected) = loss_and_gradients(config, weights, examples, loss)?;
        let (_, found) = gradients(model, params, loss, examples, 2)?;
        assert_eq!(found.len(), expected.len(), "{place}");
        for (weight, gradient) in &found {
            assert_close(&format!("{place}, {loss:?}, {weight}"), gradient, &expected[weight]);
        }
    }
    Ok(())
}

/// Partial backpropagation: the same numbers for the weights asked for, none for the others, the top first.
#[test]
fn a_part_of_the_gradient_is_that_part_of_the_whole() -> Result<()> {
    for name in FIXTURES {
        let (model, mut params) = open(name)?;
        differentiate(&mut params, |_| true);
        let whole: BTreeMap<_, _> =
            gradients(&model, &mut params, Loss::Classification, &batch(), 3)?.1.into_iter().collect();
        for pattern in ["layers.1.", "fc1", "mlp.up", "embed_tokens", "k_proj", "norm", "layers.0.self_attn.v_proj"] {
            let (model, mut params) = open(name)?;
            differentiate(&mut params, |weight| weight.contains(pattern));
            let wanted = whole.keys().filter(|weight| weight.contains(pattern)).count();
            if wanted == 0 {
                continue;
            }
            let (_, part) = gradients(&model, &mut params, Loss::Classification, &batch(), 3)?;
            assert_eq!(part.len(), wanted, "{name}, {pattern}");
            for (weight, gradient) in part {
                assert!(weight.contains(pattern));
                assert_eq!(gradient, whole[&weight], "{name}, {weight}");
            }
        }
    }
    Ok(())
}

#[test]
fn last_blocks_hold_the_head_and_leave_what_is_read_below() -> Result<()> {
    for (name, tied) in [("opt-tiny", true), ("opt-untied-tiny", false)] {
        let (model, params) = open(name)?;
        let names: HashMap<_, _> = params.ids().map(|(id, name)| (id, name.to_string())).collect();
        let last: Vec<&String> = model.last_blocks(1).iter().map(|id| &names[id]).collect();
        let block = format!("layers.{}.", model.num_blocks() - 1);
        assert!(last.iter().any(|n| n.contains(&block)) && !last.iter().any(|n| n.contains("embed")), "{last:?}");
        assert_eq!(last.iter().any(|n| *n == "lm_head.weight"), !tied);
    }
    Ok(())
}

/// Gradients of half-precision weights are f32, and those of the same weights held in f32; where a unit multiplies pairs of bf16,
/// to bf16's rounding of the activations.
#[test]
fn half_precision_gradients_are_those_of_the_widened_weights() -> Result<()> {
    for name in ["opt-tiny", "llama-tiny", "gemma-tiny"] {
        for dtype in [DType::BF16, DType::F16] {
            let (model, mut params) = Model::open(&Source::Folder(fixture(name)), dtype)?;
            differentiate(&mut params, |_| true);
            let (_, found) = gradients(&model, &mut params, Loss::Classification, &batch(), 3)?;
            let (wide_model, mut wide) = open(name)?;
            let values: Vec<(String, Tensor)> = params
                .settle()?
                .iter()
                .map(|(n, t)| Ok((n.to_string(), t.tensor()?.to_dtype(DType::F32)?)))
                .collect::<Result<_>>()?;
            for (name, tensor) in values {
                let floats: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                wide.overwrite(wide.id(&name).unwrap(), &mut bytemuck::cast_slice::<f32, u8>(&floats))?;
            }
            differentiate(&mut wide, |_| true);
            let (_, expected) = gradients(&wide_model, &mut wide, Loss::Classification, &batch(), 3)?;
            for ((weight, found), (_, expected)) in found.iter().zip(&expected) {
                let place = format!("{name} {dtype:?} {weight}");
                if dtype == DType::BF16 && pair_unit().is_some() {
                    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
                    assert!(off <= 0.02 * norm(&mut expected.iter().copied()) + 1e-6, "{place}: off by {off}");
                } else {
                    assert_close(&place, found, expected);
                }
            }
        }
    }
    Ok(())
}

/// The gradient over the whole training set, in parts that are added up, is that of one batch of all.
#[test]
fn the_full_gradient_is_that_of_all_examples_at_once() -> Result<()> {
    for loss in [Loss::Classification, Loss::TeacherForcing] {
        let (model, mut params) = open("opt-tiny")?;
        differentiate(&mut params, |_| true);
        let examples = batch();
        let (_, expected) = gradients(&model, &mut params, loss, &examples, 3)?;
        let names: std::collections::HashMap<_, _> = params.ids().map(|(id, name)| (id, name.to_string())).collect();
        for micro in [1, 2, 3] {
            let problem = PromptLoss::new(&model, loss, &examples, Batches::new(3, 1, 0), micro);
            let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
            let count = problem.full_gradient(params.settle()?, &mut |id, share| {
                let sum = sums.entry(names[&id].clone()).or_insert_with(|| vec![0.0; share.len()]);
                sum.iter_mut().zip(share).for_each(|(s, x)| *s += x);
            })?;
            assert_eq!((count, sums.len()), (3, expected.len()));
            for (name, expected) in &expected {
                assert_close(&format!("{loss:?}, {micro} at once: {name}"), &sums[name], expected);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_have_the_same_bits_for_any_number_of_threads() -> Result<()> {
    let sizes = Llama { vocab: 3000, hidden: 256, inner: 1024, layers: 2, heads: 8, kv_heads: 4, tied: true };
    let (model, mut params) = sizes.open()?;
    differentiate(&mut params, |_| true);
    let long: Vec<u32> = (0..90).map(|i| 5 + 31 * i).collect();
    let examples: Vec<Example> = (0..4).map(|i| example(0, &long[i..], &[&[20, 21, 22], &[20, 23]])).collect();
    let mut on = |threads| -> Result<_> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| gradients(&model, &mut params, Loss::Classification, &examples, 2))
    };
    let one = on(1)?;
    for threads in [2, 5] {
        assert!(on(threads)? == one, "{threads} threads");
    }
    Ok(())
}

/// One block's gradients are alive at a time, and what a tied embedding has from the head.
#[test]
fn gradients_are_dropped_block_by_block() -> Result<()> {
    if !alone("gradients::gradients_are_dropped_block_by_block")? {
        return Ok(());
    }
    let sizes = Llama { vocab: 64, hidden: 64, inner: 256, layers: 8, heads: 4, kv_heads: 4, tied: true };
    let (model, mut params) = sizes.open()?;
    differentiate(&mut params, |_| true);
    let examples: Vec<Example> = (0..4).map(|i| example(0, &[2, 10 + i, 11, 12], &[&[20], &[21]])).collect();
    let problem = PromptLoss::new(&model, Loss::Classification, &examples, Batches::new(4, 4, 0), 4);
    let (_, mut gradients) = problem.backward(params.settle()?)?;
    while gradients.next(params.settle()?)?.is_some() {}
    drop(gradients);
    let block = 4 * (4 * 64 * 64 + 3 * 64 * 256 + 2 * 64);
    let embedding = 4 * 64 * 64;
    let found = problem.cost().peaks.aside;
    assert_eq!(found, block + embedding, "8 blocks are {}", 8 * block);
    assert_eq!((problem.cost().forwards, problem.cost().backwards, problem.cost().evaluations), (1, 1, 1));
    Ok(())
}
