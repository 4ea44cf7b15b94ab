//! The classifier of digits as a finite sum over images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::Value;

use super::images::{CLASSES, Files, Images};
use super::network::Network;
use super::passes::{add_gradient, logits, prediction, trace};
use crate::base::permutation::permutation;
use crate::base::{Digest, NotFinite, memory};
use crate::labs::function::{Function, Start};
use crate::labs::meter::Meter;
use crate::labs::numbers::{DenseGradient, read_points};
use crate::params::{ParamId, Params, Points, Weights};
use crate::zo::{Answers, Batches, Cost, Data, Gradients, LossSum, Objective, Problem, Score, Split};

/// Dev images by default.
const NUM_DEV: usize = 5000;

/// Images in a forward pass, which bounds its memory.
const CHUNK: usize = 256;

/// How the splits and the mini-batches are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Images for training, dev and evaluation. None: all that are not dev, 5,000, all of the test files.
    pub sizes: [Option<usize>; 3],
    /// Seed of the splits.
    pub train_set_seed: u32,
    /// Images per mini-batch.
    pub batch_size: usize,
    /// Seed of the mini-batches.
    pub seed: u64,
}

/// The images of all splits.
struct Splits {
    train: Images,
    dev: Images,
    eval: Images,
    data: Data,
}

/// 1/n sum of the cross-entropies of n images, and the accuracy on other images.
#[derive(Clone)]
pub struct Classifier {
    network: Network,
    splits: Arc<Splits>,
    batches: Batches,
    batch: Vec<usize>,
    meter: Meter,
}

impl Classifier {
    /// On the images in `folder`. The training and dev images are the beginning and the end of a permutation of the training files,
    /// the evaluation images the beginning of one of the test files.
    pub fn open(network: Network, folder: &Path, draw: Draw) -> Result<Self> {
        let [train_files, test_files] = [Images::read(folder, Files::Train)?, Images::read(folder, Files::Test)?];
        Self::new(network, &train_files, &test_files, draw)
    }

    /// On images in memory. Sizes of 0, or above what there is, are usage errors.
    pub fn new(network: Network, train_files: &Images, test_files: &Images, draw: Draw) -> Result<Self> {
        let [num_train, num_dev, num_eval] = draw.sizes;
        let (count, num_tests) = (train_files.len(), test_files.len());
        let num_dev = num_dev.unwrap_or(NUM_DEV.min(count / 2));
        let num_train = num_train.unwrap_or(count.saturating_sub(num_dev));
        let num_eval = num_eval.unwrap_or(num_tests);
        for (name, size) in [("num_train", num_train), ("num_dev", num_dev), ("num_eval", num_eval)] {
            if size == 0 {
                bail!(usage!("`{name}` 0: it must be at least 1"));
            }
        }
        if num_train.saturating_add(num_dev) > count {
            bail!(usage!(
                "there are {count} training images, but {num_train} + {num_dev} are asked for (`num_train` and `num_dev`)"
            ));
        }
        if num_eval > num_tests {
            bail!(usage!("`num_eval` {num_eval}: there are {num_tests} test images"));
        }
        let order = permutation(draw.train_set_seed, count);
        let train = train_files.chosen(&order[..num_train]);
        let dev = train_files.chosen(&order[count - num_dev..]);
        let eval = test_files.chosen(&permutation(draw.train_set_seed, num_tests)[..num_eval]);
        let [in_train, in_dev, in_eval] = [&train, &dev, &eval].map(Images::digest);
        let data = Data {
            train: num_train,
            dev: num_dev,
            eval: num_eval,
            max_length: 0,
            digest: Digest::of_digests(&[in_train, in_dev, in_eval]),
            train_rows: Some(Digest::of_digests(&[in_train, in_dev])),
            eval_rows: Some(in_eval),
        };
        let mut batches = Batches::new(num_train, draw.batch_size, draw.seed);
        let batch = batches.at(0);
        Ok(Classifier { network, splits: Arc::new(Splits { train, dev, eval, data }), batches, batch, meter: Meter::new() })
    }

    /// The losses of training images, at all weights [d]. Counts `forwards`.
    fn losses(&self, weights: &[f32], of: &[usize]) -> Vec<f64> {
        let images = &self.splits.train;
        let chunk = |of: &[usize]| {
            let logits = logits(self.network, weights, images.values(of));
            let losses = logits.chunks_exact(CLASSES).zip(of).map(|(logits, i)| cross_entropy(logits, images.label(*i)));
            losses.collect::<Vec<f64>>()
        };
        let forwards = of.len().div_ceil(CHUNK) as u64;
        self.meter.counted(|cost| cost.forwards += forwards, || of.chunks(CHUNK).flat_map(chunk).collect())
    }

    /// The sum of the losses of training images at theta, and the gradient [d] of their mean over `count`.
    fn sum_and_gradient(&self, weights: &[f32], of: &[usize], count: usize) -> (f64, Vec<f32>) {
        let (images, mut gradient, mut sum) = (&self.splits.train, vec![0f32; weights.len()], 0.0);
        for of in of.chunks(CHUNK) {
            let trace = trace(self.network, weights, images.values(of));
            let mut slopes = Vec::with_capacity(trace.logits.len());
            for (logits, &i) in trace.logits.chunks_exact(CLASSES).zip(of) {
                sum += cross_entropy(logits, images.label(i));
                slopes.extend(cross_entropy_slope(logits, images.label(i)).map(|slope| (slope / count as f64) as f32));
            }
            add_gradient(self.network, weights, &trace, &slopes, &mut gradient);
        }
        (sum, gradient)
    }

    fn counted_gradient(&self, weights: Weights, of: &[usize]) -> Result<(f64, DenseGradient)> {
        let theta = read_points(weights.at_theta())?.pop().unwrap_or_default();
        Ok(self.meter.counted(|_| {}, || {
            let (sum, gradient) = self.sum_and_gradient(&theta, of, of.len());
            (sum / of.len() as f64, DenseGradient::new(&gradient, weights))
        }))
    }

    fn all(&self) -> Vec<usize> {
        (0..self.splits.train.len()).collect()
    }
}

/// ln sum e^logit, and the largest logit.
fn normaliser(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + libm::log(logits.iter().map(|logit| libm::exp(f64::from(*logit) - largest)).sum())
}

/// -log softmax(logits)[label]
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    normaliser(logits) - f64::from(logits[label])
}

/// The gradient of [`cross_entropy`]: softmax(logits) - 1 at the label.
fn cross_entropy_slope(logits: &[f32], label: usize) -> impl Iterator<Item = f64> {
    let normaliser = normaliser(logits);
    let share = move |logit: &f32| libm::exp(f64::from(*logit) - normaliser);
    logits.iter().map(share).enumerate().map(move |(digit, share)| share - f64::from(u8::from(digit == label)))
}

impl Objective for Classifier {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        self.meter.add(|cost| cost.evaluations += points.count() as u64);
        let points = Arc::new(points);
        let all = read_points(params.settle()?.at(&points))?;
        let sum = |weights: &Vec<f32>| self.losses(weights, &self.batch).iter().sum();
        Ok(all.iter().map(|weights| LossSum { sum: sum(weights), weight: self.batch.len() }).collect())
    }
}

impl Problem for Classifier {
    fn begin(&mut self, step: u64) {
        self.batch = self.batches.at(step.saturating_sub(1));
        self.meter.reset();
    }

    fn cost(&self) -> Cost {
        self.meter.cost()
    }

    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.splits.train.len()
    }

    fn batch(&self) -> &[usize] {
        &self.batch
    }

    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        let (points, all) = (read_points(weights)?, self.all());
        self.meter.add(|cost| cost.example_evaluations += (points.len() * all.len()) as u64);
        Ok(points.iter().map(|weights| self.losses(weights, &all)).collect())
    }

    fn count_replayed(&mut self) {
        let forwards = self.batch.len().div_ceil(CHUNK) as u64;
        self.meter.add(|cost| {
            cost.evaluations += 1;
            cost.forwards += forwards;
        });
    }

    fn count_replayed_full(&mut self) {
        let count = self.num_examples();
        self.meter.add(|cost| {
            cost.example_evaluations += count as u64;
            cost.forwards += count.div_ceil(CHUNK) as u64;
        });
    }

    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)> {
        self.meter.count_backward();
        let (loss, gradient) = self.counted_gradient(weights, &self.batch)?;
        Ok((loss as f32, Box::new(gradient)))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        let count = self.num_examples() as u64;
        self.meter.count_full_backward(count, self.batch.len());
        let (_, gradient) = self.counted_gradient(weights, &self.all())?;
        gradient.add_to(add);
        Ok(count)
    }
}

impl Function for Classifier {
    fn name(&self) -> &str {
        "mnist"
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        [("network".into(), self.network.name().into()), ("loss".into(), "cross-entropy".into())].into()
    }

    fn data(&self) -> Data {
        self.splits.data.clone()
    }

    fn start(&self, seed: u64) -> Result<Vec<Start>> {
        Ok(self.network.start(seed))
    }

    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let images = match split {
            Split::Dev => &self.splits.dev,
            Split::Eval => &self.splits.eval,
        };
        let theta = read_points(weights.at_theta())?.pop().unwrap_or_default();
        let (mut sum, mut answers, mut activation_peak) = (0.0, Vec::with_capacity(images.len()), 0);
        let all: Vec<usize> = (0..images.len()).collect();
        for of in all.chunks(CHUNK) {
            let (logits, held) = memory::peak_of(|| logits(self.network, &theta, images.values(of)));
            activation_peak = activation_peak.max(held);
            for (logits, &i) in logits.chunks_exact(CLASSES).zip(of) {
                sum += cross_entropy(logits, images.label(i));
                answers.push((prediction(logits), images.label(i)));
            }
            proceed()?;
        }
        let loss = sum / all.len() as f64;
        if !loss.is_finite() {
            return Err(NotFinite { place: "in an evaluation".into(), losses: vec![loss], say: None }.into());
        }
        let answers = Answers::of(&answers);
        let accuracy = Some(answers.correct as f64 / all.len() as f64);
        Ok(Score { accuracy, answers: Some(answers), activation_peak, ..Score::of_loss(loss) })
    }

    fn num_choices(&self) -> usize {
        CLASSES
    }
}
