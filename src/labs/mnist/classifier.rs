//! The classifier of digits as a finite sum over images.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use super::images::{CLASSES, Files, Images};
use super::network::Network;
use super::passes::{add_gradient, logits, prediction, trace};
use crate::base::numbers::log_sum_exp;
use crate::base::permutation::permutation;
use crate::base::{Digest, NotFinite, memory};
use crate::labs::function::{Function, Start};
use crate::labs::numbers::read_points;
use crate::params::Weights;
use crate::zo::{Answers, Batches, Data, Score, Split};

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

/// 1/n sum of the cross-entropies of n images, and the accuracy on other images.
pub struct Classifier {
    network: Network,
    train: Images,
    dev: Images,
    eval: Images,
    data: Data,
    draw: Draw,
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
        if count < 2 || num_tests < 1 {
            bail!(usage!(
                "`data`: there are {count} training images and {num_tests} test images; it takes two or more of the one (for training and \
                 dev) and one or more of the other"
            ));
        }
        let num_dev = num_dev.unwrap_or(NUM_DEV.min(count / 2));
        let num_train = num_train.unwrap_or(count.saturating_sub(num_dev));
        let num_eval = num_eval.unwrap_or(num_tests);
        if num_train == 0 && draw.sizes[0].is_none() {
            bail!(usage!("`num_dev` {num_dev}: it leaves none of the {count} training images for training"));
        }
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
        Ok(Classifier { network, train, dev, eval, data, draw })
    }

    /// The losses of training images at the weights [d].
    fn losses_of(&self, weights: &[f32], of: &[usize]) -> Vec<f64> {
        let images = &self.train;
        let chunk = |of: &[usize]| {
            let logits = logits(self.network, weights, images.values(of));
            let losses = logits.chunks_exact(CLASSES).zip(of).map(|(logits, i)| cross_entropy(logits, images.label(*i)));
            losses.collect::<Vec<f64>>()
        };
        of.chunks(CHUNK).flat_map(chunk).collect()
    }
}

/// ln sum e^logit
fn normaliser(logits: &[f32]) -> f64 {
    log_sum_exp(logits.iter().map(|logit| f64::from(*logit)))
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

impl Function for Classifier {
    fn name(&self) -> &str {
        "mnist"
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        [("network".into(), self.network.name().into()), ("loss".into(), "cross-entropy".into())].into()
    }

    fn data(&self) -> Data {
        self.data.clone()
    }

    fn batches(&self) -> Batches {
        Batches::new(self.train.len(), self.draw.batch_size, self.draw.seed)
    }

    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>> {
        points.iter().map(|weights| self.losses_of(weights, of)).collect()
    }

    fn mean_and_gradient(&self, weights: &[f32], of: &[usize]) -> (f64, Vec<f32>) {
        let (images, mut gradient, mut sum) = (&self.train, vec![0f32; weights.len()], 0.0);
        for chunk in of.chunks(CHUNK) {
            let trace = trace(self.network, weights, images.values(chunk));
            let mut slopes = Vec::with_capacity(trace.logits.len());
            for (logits, &i) in trace.logits.chunks_exact(CLASSES).zip(chunk) {
                sum += cross_entropy(logits, images.label(i));
                let slope = cross_entropy_slope(logits, images.label(i));
                slopes.extend(slope.map(|slope| (slope / of.len() as f64) as f32));
            }
            add_gradient(self.network, weights, &trace, &slopes, &mut gradient);
        }
        (sum / of.len() as f64, gradient)
    }

    fn start(&self, seed: u64) -> Result<Vec<Start>> {
        Ok(self.network.start(seed))
    }

    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let images = match split {
            Split::Dev => &self.dev,
            Split::Eval => &self.eval,
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
