//! Weights that are read at points near them: the same bits as weights that walked there, and the weights stay where they are.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use zotune::base::Source;
use zotune::data::Example;
use zotune::data::task::Loss;
use zotune::device::Array;
use zotune::device::cpu::Machine;
use zotune::device::cpu::drawn::direction;
use zotune::direction::{Direction, Term};
use zotune::model::Model;
use zotune::model::adapter::{Adapter, AdapterKind, Lora};
use zotune::params::{ParamSet, Params, Points, Role};
use zotune::prompt::PromptLoss;
use zotune::zo::{Batches, LossSum, Objective, Problem};

use crate::support::{FIXTURES, Llama, at_copies, example, fixture, flat};

fn term(seed: u64, coeff: f32) -> Term {
    Term::gaussian(seed, coeff)
}

/// theta itself, both sides along one direction, and a point that shares it and has two others, one of signs under the same seed.
fn four() -> Points {
    let points = [
        vec![],
        vec![term(3, 1e-2)],
        vec![term(3, -1e-2)],
        vec![term(3, 5e-3), term(4, 1e-2), Direction::Rademacher.term(3, 2e-3)],
    ];
    Points::new(ParamSet::Estimated, &points)
}

/// How much of the way to a point is left in half precision, where all weights are 1.5 and lie 2^-7 apart (bf16): for eps = c 2^-7
/// the share is E[z round(c z)] / c = 2/c sum over k of phi((k - 1/2) / c), phi the normal density.
#[test]
fn lost_ways_are_told_from_those_that_are_made() -> Result<()> {
    for (c, share) in [(0.1, 1.5e-5), (0.25, 0.431_93), (0.5, 0.986_6), (8.0, 1.0)] {
        let closed = 2.0 / c * (1..80).map(|k| (-((f64::from(k) - 0.5) / c).powi(2) / 2.0).exp()).sum::<f64>()
            / (2.0 * std::f64::consts::PI).sqrt();
        assert!((closed - share).abs() < 2e-3, "{c}: {closed}");
        let mut p = Params::new(DType::BF16);
        p.insert("w", Array::of(&Tensor::full(1.5f32, 1 << 16, &Device::Cpu)?.to_dtype(DType::BF16)?)?)?;
        let found = p.displaced_share(term(3, c as f32 / 128.0), ParamSet::Estimated)?;
        assert!((found - closed).abs() < 0.02, "{c}: {found}, not {closed}");
        let mut exact = Params::new(DType::F32);
        exact.insert("w", Array::of(&Tensor::full(1.5f32, 1 << 16, &Device::Cpu)?)?)?;
        assert_eq!(exact.displaced_share(term(3, c as f32 / 128.0), ParamSet::Estimated)?, 1.0);
    }
    Ok(())
}

/// A stretch of a weight, from any place on, is at each point what it is after a walk there, in every precision and on every
/// instruction set.
#[test]
fn a_displaced_weight_is_the_one_that_walked() -> Result<()> {
    for machine in zotune::device::cpu::simd::machines() {
        zotune::device::cpu::simd::on(machine, 2, || displaced_weights_are_those_that_walked(machine))??;
    }
    Ok(())
}

fn displaced_weights_are_those_that_walked(machine: Machine) -> Result<()> {
    const LEN: usize = 3000;
    let points = Arc::new(four());
    let stretches = [(0, LEN), (0, 128), (128, 384), (1, 2), (127, 130), (200, 999), (640, LEN), (1999, 2100), (2048, 2200)];
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let start: Vec<f32> = (0..LEN).map(|i| 0.1 * (i as f32 * 0.7).sin()).collect();
        let tensor = Tensor::new(start, &Device::Cpu)?.to_dtype(dtype)?;
        let mut params = Params::new(dtype);
        let id = params.insert("w", Array::of(&tensor.clone())?)?;
        let walked = at_all_copies(&mut params, &points)?;
        let leaf = params.settle()?.at(&points).leaf(id);
        let displaced = leaf.displaced().unwrap();
        for (first, end) in stretches {
            let found: Vec<f64> = match dtype {
                DType::F32 => {
                    let (numbers, mut found) = (tensor.to_vec1::<f32>()?, Vec::new());
                    displaced.read(&numbers[first..end], first, &mut found);
                    found.iter().map(|x| f64::from(*x)).collect()
                }
                DType::BF16 => {
                    let (numbers, mut found) = (tensor.to_vec1::<bf16>()?, Vec::new());
                    displaced.read(&numbers[first..end], first, &mut found);
                    found.iter().map(|x| x.to_f64()).collect()
                }
                _ => {
                    let (numbers, mut found) = (tensor.to_vec1::<f16>()?, Vec::new());
                    displaced.read(&numbers[first..end], first, &mut found);
                    found.iter().map(|x| x.to_f64()).collect()
                }
            };
            for (point, walked) in walked.iter().enumerate() {
                let found = &found[point * (end - first)..(point + 1) * (end - first)];
                assert!(found == &walked[first..end], "{dtype:?}, {machine:?}, point {point}, {first}..{end}");
            }
        }
        if dtype == DType::F32 {
            let z = direction(3, "w", LEN);
            for i in 0..LEN {
                let exact = walked[0][i] + f64::from(1e-2f32) * f64::from(z[i]);
                assert!((walked[1][i] - exact).abs() < 1e-8, "element {i}: {}, not {exact}", walked[1][i]);
            }
        }
    }
    Ok(())
}

fn at_all_copies(params: &mut Params, points: &Points) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::new();
    at_copies(params, points, |weights| {
        all.push(flat(weights)?);
        Ok(0.0)
    })?;
    Ok(all)
}

fn examples() -> Vec<Example> {
    (0..5u32)
        .map(|i| {
            let prompt: Vec<u32> = (0..4 + 3 * i).map(|k| 3 + (7 * k + i) % 20).collect();
            example((i % 2) as usize, &prompt, &[&[5, 6, 7 + i], &[9]])
        })
        .collect()
}

/// At all points in one pass the loss has the bits that it has at weights that walked there; in micro-batches too.
fn assert_same_losses(name: &str, model: &Model, params: &mut Params) -> Result<()> {
    let (examples, before) = (examples(), flat(params.settle()?)?);
    for (loss, micro) in [(Loss::Classification, 5), (Loss::TeacherForcing, 2)] {
        let mut objective = PromptLoss::new(model, loss, &examples, Batches::new(5, 5, 0), micro);
        let expected = at_copies(params, &four(), |weights| objective.loss(weights))?;
        assert!(expected[1] != expected[0] && expected[2] != expected[1], "{name}: nothing moves: {expected:?}");
        for _ in 0..2 {
            // The second time some blocks' outputs may be kept.
            let found: Vec<f32> = objective.losses_at(params, four())?.iter().map(LossSum::loss).collect();
            assert!(found == expected, "{name}, {loss:?}: {found:?}, not {expected:?}");
        }
        let alone = Points::new(ParamSet::Estimated, &[vec![term(3, -1e-2)]]);
        assert_eq!(objective.losses_at(params, alone)?[0].loss(), expected[2], "{name}, {loss:?}, one point");
    }
    // Of the whole training set too, example by example.
    let mut all = PromptLoss::new(model, Loss::Classification, &examples, Batches::new(5, 2, 0), 2);
    let (points, mut expected) = (Arc::new(four()), Vec::new());
    at_copies(params, &points, |weights| {
        expected.extend(all.example_losses(weights)?);
        Ok(0.0)
    })?;
    assert!(all.example_losses(params.settle()?.at(&points))? == expected, "{name}: losses of all examples");
    assert!(flat(params.settle()?)? == before, "{name}: the weights have moved");
    Ok(())
}

#[test]
fn every_architecture_gives_the_losses_of_weights_that_walked() -> Result<()> {
    for name in FIXTURES {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (model, mut params) = Model::open(&Source::Folder(fixture(name)), dtype)?;
            assert_same_losses(&format!("{name}, {dtype:?}"), &model, &mut params)?;
        }
    }
    Ok(())
}

/// So do widths that fill vectors and tiles, and a weight so wide that displaced strips of it are fewer rows.
#[test]
fn so_do_wide_models() -> Result<()> {
    let sizes = Llama { vocab: 64, hidden: 64, inner: 2624, layers: 1, heads: 4, kv_heads: 2, tied: true };
    let (folder, _) = sizes.write(DType::F32)?;
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (model, mut params) = Model::open(&Source::Folder(folder.path().into()), dtype)?;
        assert_same_losses(&format!("a wide model, {dtype:?}"), &model, &mut params)?;
    }
    Ok(())
}

#[test]
fn so_do_adapters_and_models_of_which_a_part_is_trained() -> Result<()> {
    let lora = |name: &str| {
        let targets = ["q_proj", if name.starts_with("opt") { "fc2" } else { "down_proj" }].map(String::from).to_vec();
        Adapter::new(AdapterKind::Lora(Lora { r: 3, alpha: 6.0, by_root: false, targets }))
    };
    for (name, adapter) in [("opt-tiny", "lora"), ("opt-tiny", "prefix"), ("llama-tiny", "lora"), ("gemma3-tiny", "prefix")]
    {
        for dtype in [DType::F32, DType::BF16] {
            let adapter = if adapter == "lora" { lora(name) } else { Adapter::new(AdapterKind::Prefix(3)) };
            let (model, mut params) = Model::open_adapted(&Source::Folder(fixture(name)), dtype, Some(adapter))?;
            // A new adapter's second factor is 0.
            params.perturb(&[term(9, 0.05)]);
            assert_same_losses(&format!("{name} with an adapter, {dtype:?}"), &model, &mut params)?;
        }
    }
    for (what, trained) in
        [("biases", "bias"), ("norms", "norm"), ("queries", "q_proj.weight"), ("the head", "embed_tokens")]
    {
        let (model, mut params) = Model::open(&Source::Folder(fixture("opt-tiny")), DType::F32)?;
        let ids: Vec<_> = params.ids().map(|(id, name)| (id, name.contains(trained))).collect();
        ids.iter().filter(|(_, trained)| !trained).for_each(|(id, _)| params.set_role(*id, Role::Frozen));
        assert_same_losses(what, &model, &mut params)?;
    }
    let (model, mut params) = Model::open(&Source::Folder(fixture("llama-tiny")), DType::F32)?;
    let last = model.last_blocks(1);
    params.ids().map(|(id, _)| id).collect::<Vec<_>>().into_iter().for_each(|id| {
        params.set_role(id, if last.contains(&id) { Role::Estimated } else { Role::Frozen });
    });
    assert_same_losses("the last block", &model, &mut params)
}

/// Evaluations, forwards and tokens are counted as often as there are points.
#[test]
fn every_point_is_counted() -> Result<()> {
    let (model, mut params) = Model::open(&Source::Folder(fixture("opt-tiny")), DType::F32)?;
    let examples = examples();
    let mut objective = PromptLoss::new(&model, Loss::Classification, &examples, Batches::new(5, 5, 0), 2);
    objective.losses_at(&mut params, four())?;
    let cost = objective.cost();
    assert_eq!((cost.evaluations, cost.forwards), (4, 12));
    assert_eq!(cost.tokens as usize, 4 * objective.num_tokens());
    objective.begin(1);
    objective.count_replayed();
    assert_eq!((objective.cost().evaluations, objective.cost().forwards), (1, 3));
    Ok(())
}
