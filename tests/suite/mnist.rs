//! MNIST: the networks against PyTorch, the classifier's splits, the attack and what it refuses.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::DType;
use serde_json::{Value, json};
use zotune::base::errors::exit_code;
use zotune::device::cpu::simd;
use zotune::labs::mnist::{Attack, Classifier, Draw, IMAGE, Images, Network, Target, add_gradient, logits, trace};
use zotune::labs::{Function, Lab, Trained};
use zotune::params::{ParamId, ParamSet, Params, Points, Role};
use zotune::zo::{LossSum, Objective, Problem, Split, Workload};

use crate::support::{fixture_json, shared};

const NETWORKS: [Network; 2] = [Network::Mlp, Network::Cnn];

/// The weights of scripts/make_mnist.py.
fn weights(network: Network) -> Vec<f32> {
    let (mut all, mut inputs) = (Vec::new(), 1);
    for (k, (_, shape)) in network.shapes().into_iter().enumerate() {
        if shape.len() > 1 {
            inputs = shape[1..].iter().product();
        }
        let scale = 2.0 / (inputs as f64).sqrt();
        let count: usize = shape.iter().product();
        all.extend((0..count).map(|i| (scale * (0.7 * i as f64 + 0.3 * k as f64).sin()) as f32));
    }
    all
}

/// An image of that script.
fn image(image: usize) -> Vec<f32> {
    (0..IMAGE).map(|i| (0.5 + 0.5 * (0.37 * i as f64 + 1.1 * image as f64).sin()) as f32).collect()
}

fn numbers(json: &Value) -> Vec<f64> {
    json.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// A gradient has the sum, the norm and the elements of the script's.
fn assert_gradient(what: &str, found: &[f32], expected: &Value) {
    let norm = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let sum: f64 = found.iter().map(|g| f64::from(*g)).sum();
    let [exact_norm, exact_sum] = [&expected["norm"], &expected["sum"]].map(|number| number.as_f64().unwrap());
    assert!((norm - exact_norm).abs() < 1e-5 * exact_norm, "{what}: norm {norm}, not {exact_norm}");
    let size = exact_norm * (found.len() as f64).sqrt();
    assert!((sum - exact_sum).abs() < 1e-5 * size, "{what}: sum {sum}, not {exact_sum}");
    for (i, exact) in numbers(&expected["elements"]).into_iter().enumerate() {
        let element = f64::from(found[found.len() * i / 7]);
        assert!((element - exact).abs() < 1e-5 * exact_norm, "{what}, {i}: {element}, not {exact}");
    }
}

#[test]
fn networks_and_their_gradients_are_pytorchs() -> Result<()> {
    let reference = fixture_json("mnist.json")?;
    for network in NETWORKS {
        let (weights, expected) = (weights(network), &reference[network.name()]);
        let x: Vec<f32> = (0..3).flat_map(image).collect();
        let trace = trace(network, &weights, x.clone());
        assert_eq!(trace.logits, logits(network, &weights, x), "with and without what a backward pass needs");
        let exact: Vec<f64> = expected["logits"].as_array().unwrap().iter().flat_map(numbers).collect();
        assert!(trace.logits.iter().zip(&exact).all(|(found, exact)| (f64::from(*found) - exact).abs() < 2e-6));

        // The slope of the mean cross-entropy of labels 3, 1, 4, from the script's logits.
        let slope = |(logits, label): (&[f64], usize)| {
            let sum: f64 = logits.iter().map(|z| z.exp()).sum();
            let at = move |(j, z): (usize, &f64)| ((z.exp() / sum - f64::from(u8::from(j == label))) / 3.0) as f32;
            logits.iter().enumerate().map(at).collect::<Vec<f32>>()
        };
        let slopes: Vec<f32> = exact.chunks(10).zip([3, 1, 4]).flat_map(slope).collect();
        let mut gradient = vec![0f32; weights.len()];
        add_gradient(network, &weights, &trace, &slopes, &mut gradient);
        let mut rest = gradient.as_slice();
        for ((name, shape), expected) in network.shapes().into_iter().zip(expected["gradients"].as_array().unwrap()) {
            let of_weight = rest.split_off(..shape.iter().product()).unwrap();
            assert_gradient(&format!("{} {name}", network.name()), of_weight, expected);
        }
        assert!(rest.is_empty());
    }
    Ok(())
}

/// A mean over images of random pixels: value and gradient of the problem, and the same bits on any number of threads.
#[test]
fn a_classifier_gives_the_same_bits_for_any_number_of_threads() -> Result<()> {
    let (train, tests) = (random_images(400)?, random_images(50)?);
    for network in NETWORKS {
        let run = |threads: usize| -> Result<_> {
            simd::on(simd::machine(), threads, || -> Result<_> {
                let draw = Draw { sizes: [Some(300), Some(20), None], train_set_seed: 1, batch_size: 37, seed: 2 };
                let lab = Trained(Classifier::new(network, &train, &tests, draw)?);
                let mut params = differentiated(&lab, 5)?;
                let mut problem = lab.problem();
                problem.begin(3);
                let (loss, mut gradients) = problem.backward(params.settle()?)?;
                let mut all = Vec::new();
                while let Some(block) = gradients.next(params.settle()?)? {
                    block.into_iter().for_each(|(_, gradient)| all.push(gradient.to_vec()));
                }
                drop(gradients);
                let theta = |problem: &mut dyn Problem, params: &mut Params| -> Result<LossSum> {
                    let points = Points::new(ParamSet::Trained, &[Vec::new()]);
                    Ok(problem.objective().losses_at(params, points)?[0])
                };
                let at_theta = theta(&mut *problem, &mut params)?;
                ensure!(at_theta.loss() == loss && at_theta.weight == 37, "{at_theta:?}, not {loss}");
                let each = problem.example_losses(params.settle()?)?.remove(0);
                let of_batch: f64 = problem.batch().iter().map(|i| each[*i]).sum();
                ensure!(each.len() == 300 && of_batch == at_theta.sum, "{of_batch}, not {at_theta:?}");
                let score = lab.score(params.settle()?, Split::Eval, &mut || Ok(()))?;
                Ok((loss, all, score.loss, score.answers))
            })?
        };
        let once = run(1)?;
        for threads in [2, 3] {
            assert!(run(threads)? == once, "{} on {threads} threads", network.name());
        }
    }
    Ok(())
}

/// Images of random pixels and labels.
fn random_images(count: usize) -> Result<Images> {
    let pixels = (0..count * IMAGE).map(|i| (zotune::direction::seed::mix(i as u64) >> 56) as u8).collect();
    Images::new(pixels, (0..count).map(|i| (i % 10) as u8).collect())
}

/// The weights at the start, all differentiated.
fn differentiated(lab: &dyn Lab, seed: u64) -> Result<Params> {
    let mut params = lab.start(DType::F32, seed)?;
    let ids: Vec<ParamId> = params.ids().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
    Ok(params)
}

#[test]
fn splits_are_drawn_from_their_files_and_told_apart() -> Result<()> {
    let (train, tests) = (random_images(400)?, random_images(50)?);
    let open = |sizes, train_set_seed| {
        Classifier::new(Network::Mlp, &train, &tests, Draw { sizes, train_set_seed, batch_size: 4, seed: 0 })
    };
    let data = open([None, Some(30), None], 0)?.data();
    assert_eq!((data.train, data.dev, data.eval), (370, 30, 50));
    let other = open([None, Some(30), None], 1)?.data();
    assert!(data.digest != other.digest && data.train_rows != other.train_rows && data.eval_rows != other.eval_rows);
    for (sizes, said) in [
        ([Some(380), Some(21), None], "there are 400 training images, but 380 + 21 are asked for"),
        ([Some(0), None, None], "`num_train` 0"),
        ([None, Some(400), None], "`num_train` 0"),
        ([None, None, Some(51)], "`num_eval` 51: there are 50 test images"),
    ] {
        refused(open(sizes, 0), said)?;
    }
    Ok(())
}

/// A usage error that says this.
fn refused<T>(result: Result<T>, said: &str) -> Result<()> {
    let Err(error) = result else { anyhow::bail!("{said}: it was not refused") };
    ensure!(format!("{error:#}").contains(said), "{error:#}, not {said}");
    ensure!(exit_code(&error) == 2, "{error:#}: exit code {}", exit_code(&error));
    Ok(())
}

/// An attack on the network of the script. It sees a 0 in image 0.
fn attack(target: usize) -> Result<Attack> {
    Attack::new(Network::Cnn, weights(Network::Cnn), image(0), 0, Target { image: 8, digit: Some(target) })
}

/// f and its gradient by the pixels are PyTorch's. At a perturbation beyond the bound the gradient is that of the image at the bound,
/// unchanged by either clamp.
#[test]
fn an_attacks_gradient_is_pytorchs_and_goes_straight_through() -> Result<()> {
    let reference = &fixture_json("mnist.json")?["cnn"];
    let digit = prediction(reference);
    let lab = Trained(Attack::new(
        Network::Cnn,
        weights(Network::Cnn),
        image(0),
        digit,
        Target { image: 8, digit: Some(5) },
    )?);
    let mut params = differentiated(&lab, 0)?;
    let (value, gradient) = value_and_gradient(&lab, &mut params)?;
    assert!((f64::from(value) - reference["margin"].as_f64().unwrap()).abs() < 2e-6, "{value}");
    assert_gradient("delta", &gradient, &reference["by_image"]);

    let far: Vec<f32> = gradient.iter().map(|g| -1e3 * g).collect();
    let near: Vec<f32> = far.iter().map(|delta| delta.clamp(-0.2, 0.2)).collect();
    let [at_far, at_near] = [far, near].map(|delta| -> Result<_> {
        let id = params.id("delta").unwrap();
        params.overwrite(id, &mut bytemuck(&delta).as_slice())?;
        value_and_gradient(&lab, &mut params)
    });
    let (at_far, at_near) = (at_far?, at_near?);
    assert!(at_far == at_near && at_far.1.iter().filter(|g| **g != 0.0).count() > 700, "a clamp stops the gradient");
    Ok(())
}

fn bytemuck(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
