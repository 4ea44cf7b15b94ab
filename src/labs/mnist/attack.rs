//! The black-box attack on a classifier of digits: a perturbation of an image that makes the network see another digit.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use super::bound::{BOUND, Bounded};
use super::images::{CLASSES, Files, IMAGE, Images};
use super::network::Network;
use super::passes::{input_gradient, logits, prediction, trace};
use super::{picture, victim};
use crate::base::Digest;
use crate::labs::function::{Function, Start};
use crate::labs::numbers::read_points;
use crate::params::Weights;
use crate::zo::{Data, Score, Split};

/// What is attacked, and to what end.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Index of the image among the test images.
    pub image: usize,
    /// The digit that the network shall see. None: the one after the image's.
    pub digit: Option<usize>,
}

impl Target {
    /// The digit that the network shall see in an image of the digit `label`. A digit that it is already is a usage error.
    fn digit_for(self, label: usize) -> Result<usize> {
        let digit = self.digit.unwrap_or((label + 1) % CLASSES);
        if digit >= CLASSES {
            bail!(usage!("`target` {digit}: it must be a digit, 0 to 9"));
        }
        if digit == label {
            bail!(usage!("`target` {digit}: image {} is a {label} already; name another digit", self.image));
        }
        Ok(digit)
    }

    /// Fails with a usage error if the image is not there, or is the target already.
    fn check(self, tests: &Images) -> Result<()> {
        if self.image >= tests.len() {
            bail!(usage!("`image` {}: there are {} test images, counted from 0", self.image, tests.len()));
        }
        self.digit_for(tests.label(self.image)).map(drop)
    }
}

/// Fails with a usage error if the image is not in `folder`, or is the target already.
pub fn check(folder: &Path, target: Target) -> Result<()> {
    target.check(&Images::read(folder, Files::Test)?)
}

/// f(delta) = max_{j != t} log p_j - log p_t for the image clamp(x + clamp(delta, -0.2, 0.2), 0, 1), with t the target: the attack of
/// R-AdaZO's Table 1 (Shu et al. 2025, arXiv 2502.01014). It has succeeded where f < 0.
///
/// The optimiser moves delta without bounds; gradients pass through both clamps as if they were not there.
#[derive(Clone)]
pub struct Attack {
    network: Network,
    /// All weights of the network.
    weights: Vec<f32>,
    /// The file that they are from, and its SHA-256.
    source: BTreeMap<String, String>,
    bounded: Bounded,
    index: usize,
    label: usize,
    target: usize,
}

impl Attack {
    /// On the network that the run in `run` trained, and a test image in `folder`.
    pub fn open(run: &Path, folder: &Path, target: Target) -> Result<Self> {
        let weights = victim::read(run)?;
        let tests = Images::read(folder, Files::Test)?;
        target.check(&tests)?;
        let attack = Self::new(Network::Cnn, weights, tests.values(&[target.image]), tests.label(target.image), target)?;
        Ok(Attack { source: victim::source(run)?, ..attack })
    }

    /// On a network's weights [d] and an image [784] in [0, 1]. An image that the network takes for another digit than its `label` is
    /// a usage error.
    pub fn new(network: Network, weights: Vec<f32>, image: Vec<f32>, label: usize, target: Target) -> Result<Self> {
        let index = target.image;
        let target = target.digit_for(label)?;
        let seen = prediction(&logits(network, &weights, image.clone()));
        if seen != label {
            bail!(usage!(
                "`image` {index}: it is a {label}, and the network takes it for a {seen} already; choose another image"
            ));
        }
        Ok(Attack { network, weights, source: BTreeMap::new(), bounded: Bounded::new(image), index, label, target })
    }

    /// The image for a perturbation delta [784].
    pub fn image(&self, delta: &[f32]) -> Vec<f32> {
        self.bounded.moved(delta)
    }

    /// f at each delta, and the digits that the network sees.
    fn values(&self, deltas: &[Vec<f32>]) -> Vec<(f64, usize)> {
        let images: Vec<f32> = deltas.iter().flat_map(|delta| self.image(delta)).collect();
        let logits = logits(self.network, &self.weights, images);
        logits.chunks_exact(CLASSES).map(|logits| (self.margin(logits).0, prediction(logits))).collect()
    }

    /// max_{j != t} z_j - z_t, and the digit j. Differences of log-probabilities are those of logits z.
    fn margin(&self, logits: &[f32]) -> (f64, usize) {
        let target = self.target;
        let others = (0..CLASSES).filter(|digit| *digit != target);
        let larger = |best: usize, digit: usize| if logits[digit] > logits[best] { digit } else { best };
        let best = others.reduce(larger).unwrap_or_default();
        (f64::from(logits[best]) - f64::from(logits[target]), best)
    }
}

/// Those of the test images in `folder` on which no attack can begin, and why: the network of the run in `run` takes them for another
/// digit than they are, or they are the target `digit` already. Images that are not there are none of these.
pub fn unfit(run: &Path, folder: &Path, images: &[usize], digit: Option<usize>) -> Result<Vec<(usize, String)>> {
    let (weights, tests) = (victim::read(run)?, Images::read(folder, Files::Test)?);
    let why = |i: usize| {
        let label = tests.label(i);
        let seen = prediction(&logits(Network::Cnn, &weights, tests.values(&[i])));
        match () {
            _ if seen != label => Some(format!("it is a {label}, and the network takes it for a {seen}")),
            _ if digit == Some(label) => Some(format!("it is a {label} already")),
            _ => None,
        }
    };
    let there = images.iter().copied().filter(|image| *image < tests.len());
    Ok(there.filter_map(|i| Some((i, why(i)?))).collect())
}

impl Function for Attack {
    fn name(&self) -> &str {
        "attack"
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        let Attack { network, index, label, target, .. } = self;
        [
            ("network".into(), network.name().into()),
            ("image".into(), (*index).into()),
            ("label".into(), (*label).into()),
            ("target".into(), (*target).into()),
            ("bound".into(), BOUND.into()),
        ]
        .into()
    }

    fn source_files(&self) -> BTreeMap<String, String> {
        self.source.clone()
    }

    fn data(&self) -> Data {
        let Attack { weights, bounded, target, .. } = self;
        let [network, image] = [weights, bounded.image()].map(|numbers| Digest::of(bytemuck::cast_slice(numbers)));
        let digest = Digest::of_digests(&[network, image, Digest::of(&[*target as u8])]);
        Data { train: 1, dev: 1, eval: 1, max_length: 0, digest, train_rows: None, eval_rows: None }
    }

    /// All points in one pass over the network's weights.
    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>> {
        self.values(points).into_iter().map(|(value, _)| vec![value; of.len()]).collect()
    }

    fn mean_and_gradient(&self, x: &[f32], _: &[usize]) -> (f64, Vec<f32>) {
        let trace = trace(self.network, &self.weights, self.image(x));
        let (value, best) = self.margin(&trace.logits);
        let mut slope = [0f32; CLASSES];
        (slope[best], slope[self.target]) = (1.0, -1.0);
        (value, input_gradient(self.network, &self.weights, &trace, &slope))
    }

    fn start(&self, _: u64) -> Result<Vec<Start>> {
        Ok(vec![Start { name: "delta".into(), shape: vec![IMAGE], values: vec![0.0; IMAGE] }])
    }

    fn score(&self, weights: Weights, _: Split, _: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let loss = self.values(&read_points(weights.at_theta())?).first().map_or(f64::NAN, |(value, _)| *value);
        Ok(Score { accuracy: Some(f64::from(u8::from(loss < 0.0))), ..Score::of_loss(loss) })
    }

    fn show(&self, weights: Weights, folder: &Path) -> Result<BTreeMap<String, Value>> {
        let bounded = &self.bounded;
        let deltas = read_points(weights.at_theta())?;
        let (Some(delta), Some((value, seen))) = (deltas.first(), self.values(&deltas).pop()) else { bail!("no weights") };
        let after = self.image(delta);
        // From black, -0.2, to white, 0.2.
        let grey = |(a, b): (&f32, &f32)| 0.5 + (a - b) / (2.0 * BOUND as f32);
        let perturbation: Vec<f32> = after.iter().zip(bounded.image()).map(grey).collect();
        picture::write(bounded.image(), &folder.join("before.png"))?;
        picture::write(&after, &folder.join("after.png"))?;
        picture::write(&perturbation, &folder.join("perturbation.png"))?;
        Ok([
            ("success".into(), (value < 0.0).into()),
            ("label".into(), self.label.into()),
            ("target".into(), self.target.into()),
            ("prediction".into(), seen.into()),
            ("max_perturbation".into(), bounded.distance(&after).into()),
        ]
        .into())
    }
}
