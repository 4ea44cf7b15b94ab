//! Networks that classify images, and the layout of their weights.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::images::{CLASSES, IMAGE, SIDE};
use crate::device::cpu::conv::Convolution;
use crate::direction::seed::mix;
use crate::direction::uniform::uniform;
use crate::labs::function::Start;

/// Units of the hidden layer.
pub const HIDDEN: usize = 128;

/// The convolutions of [`Network::Cnn`].
pub const CONV: [Convolution; 2] =
    [Convolution { inputs: 1, outputs: 32, side: SIDE }, Convolution { inputs: 32, outputs: 64, side: SIDE - 2 }];

/// A network that ends in a layer of 128 units with ReLU and one of 10 units, on pixels (x - 0.1307) / 0.3081.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The two layers on the pixels: 784-128-10.
    Mlp,
    /// Before them two 3 x 3 convolutions with 32 and 64 channels, each with ReLU, and 2 x 2 maximum pooling: the network of R-AdaZO's
    /// attack (Shu et al. 2025, arXiv 2502.01014).
    Cnn,
}

/// A layer's weights.
#[derive(Clone, Copy)]
pub struct LayerOf<T> {
    /// [outputs, inputs] or [outputs, inputs, 3, 3].
    pub weight: T,
    /// [outputs]
    pub bias: T,
}

/// The weights of all layers.
pub struct Layers<T> {
    /// Those of [`CONV`].
    pub conv: Option<[LayerOf<T>; 2]>,
    /// The hidden layer.
    pub hidden: LayerOf<T>,
    /// The last layer.
    pub last: LayerOf<T>,
}

impl Network {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Network::Mlp => "mlp",
            Network::Cnn => "cnn",
        }
    }

    /// Inputs of the hidden layer.
    pub fn features(self) -> usize {
        match self {
            Network::Mlp => IMAGE,
            Network::Cnn => CONV[1].output_len() / 4,
        }
    }

    /// Names and shapes of its weights, as PyTorch has them.
    pub fn shapes(self) -> Vec<(&'static str, Vec<usize>)> {
        let conv = |conv: Convolution| vec![conv.outputs, conv.inputs, 3, 3];
        let mut shapes = match self {
            Network::Mlp => Vec::new(),
            Network::Cnn => vec![
                ("conv1.weight", conv(CONV[0])),
                ("conv1.bias", vec![CONV[0].outputs]),
                ("conv2.weight", conv(CONV[1])),
                ("conv2.bias", vec![CONV[1].outputs]),
            ],
        };
        shapes.extend([
            ("fc1.weight", vec![HIDDEN, self.features()]),
            ("fc1.bias", vec![HIDDEN]),
            ("fc2.weight", vec![CLASSES, HIDDEN]),
            ("fc2.bias", vec![CLASSES]),
        ]);
        shapes
    }

    /// Number of weights.
    pub fn num_weights(self) -> usize {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// PyTorch's default: weights and biases of a layer with n inputs (of a patch) are uniform in +-1 / sqrt(n).
    pub fn start(self, seed: u64) -> Vec<Start> {
        let (shapes, mut inputs) = (self.shapes(), 1);
        let start = |(name, shape): (&str, Vec<usize>)| {
            if shape.len() > 1 {
                inputs = shape[1..].iter().product();
            }
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut values = uniform(mix(seed ^ mix(0x006d_6e69_7374)), name, shape.iter().product());
            values.iter_mut().for_each(|value| *value *= bound);
            Start { name: name.into(), shape, values }
        };
        shapes.into_iter().map(start).collect()
    }

    /// The layers in all weights [d], in the order of [`Network::shapes`].
    pub fn layers(self, weights: &[f32]) -> Layers<&[f32]> {
        let mut rest = weights;
        self.split(|len| rest.split_off(..len).unwrap_or_default())
    }

    /// [`Network::layers`] for writing.
    pub fn layers_mut(self, weights: &mut [f32]) -> Layers<&mut [f32]> {
        let mut rest = weights;
        self.split(|len| rest.split_off_mut(..len).unwrap_or_default())
    }

    fn split<T>(self, mut next: impl FnMut(usize) -> T) -> Layers<T> {
        let mut layer = |inputs: usize, outputs: usize| LayerOf { weight: next(outputs * inputs), bias: next(outputs) };
        let conv = (self == Network::Cnn).then(|| CONV.map(|conv| layer(conv.patch(), conv.outputs)));
        Layers { conv, hidden: layer(self.features(), HIDDEN), last: layer(HIDDEN, CLASSES) }
    }
}
