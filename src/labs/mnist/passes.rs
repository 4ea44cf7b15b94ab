//! Forward and backward passes of a network over a batch of images.

use std::cell::RefCell;

use rayon::prelude::*;

use super::images::{CLASSES, IMAGE};
use super::network::{CONV, HIDDEN, LayerOf, Network};
use crate::device::cpu::activation::{activate, multiply_by_slope};
use crate::device::cpu::conv::{max_pool, max_pool_gradient};
use crate::device::cpu::linear::{add_input_gradient, add_weight_gradient};
use crate::device::cpu::matrix::Columns;
use crate::device::cpu::norm::add_rows;
use crate::device::cpu::product::apply_layers;
use crate::device::cpu::{Layer, Panels, SmallWeight};
use crate::device::{Activation, View};

/// Mean and standard deviation of the training pixels.
const PIXELS: [f32; 2] = [0.1307, 0.3081];

/// Images whose weight gradients one thread adds up: a fixed number, so that the order of additions is too.
const GROUP: usize = 8;

/// Activations of an image in the convolutional part.
#[derive(Default)]
struct ConvTrace {
    /// After the first convolution and ReLU.
    first: Vec<f32>,
    /// See [`max_pool`].
    chosen: Vec<u8>,
}

// Per thread: the activations of an image that are not kept, and of the second convolution before pooling.
thread_local!(static SCRATCH: RefCell<(ConvTrace, Vec<f32>)> = RefCell::default());

/// The activations of a batch, for a backward pass.
pub struct Trace {
    /// [images, 784], normalised.
    x: Vec<f32>,
    /// [images]; none without convolutions.
    conv: Vec<ConvTrace>,
    /// Inputs of the hidden layer: [images, features].
    features: Vec<f32>,
    /// [images, 128], after ReLU.
    hidden: Vec<f32>,
    /// [images, 10]
    pub logits: Vec<f32>,
}

/// The logits [images, 10] of pixels x [images, 784] in [0, 1], for all `weights`.
pub fn logits(network: Network, weights: &[f32], x: Vec<f32>) -> Vec<f32> {
    forward(network, weights, x, false).logits
}

/// [`logits`], with what a backward pass needs.
pub fn trace(network: Network, weights: &[f32], x: Vec<f32>) -> Trace {
    forward(network, weights, x, true)
}

fn forward(network: Network, weights: &[f32], mut x: Vec<f32>, is_kept: bool) -> Trace {
    let layers = network.layers(weights);
    x.iter_mut().for_each(|pixel| *pixel = (*pixel - PIXELS[0]) / PIXELS[1]);
    let (mut features, mut conv) = (Vec::new(), Vec::new());
    if let Some(weights) = &layers.conv {
        features = vec![0f32; x.len() / IMAGE * network.features()];
        let images = features.par_chunks_mut(network.features()).zip(x.par_chunks(IMAGE));
        let traces = images.map(|(features, x)| {
            SCRATCH.with_borrow_mut(|(scratch, second)| {
                convolve(x, weights, features, scratch, second);
                if is_kept { std::mem::take(scratch) } else { ConvTrace::default() }
            })
        });
        conv = traces.collect();
    }
    let input = if layers.conv.is_some() { &features } else { &x };
    let hidden = layer(input, network.features(), &layers.hidden, Activation::Relu);
    let logits = layer(&hidden, HIDDEN, &layers.last, Activation::None);
    Trace { x, conv, features, hidden, logits }
}

/// The features of an image.
fn convolve(x: &[f32], weights: &[LayerOf<&[f32]>; 2], features: &mut [f32], trace: &mut ConvTrace, second: &mut Vec<f32>) {
    trace.first.resize(CONV[0].output_len(), 0.0);
    trace.chosen.resize(features.len(), 0);
    second.resize(CONV[1].output_len(), 0.0);
    CONV[0].forward(x, weights[0].weight, weights[0].bias, &mut trace.first);
    activate(&mut trace.first, Activation::Relu);
    CONV[1].forward(&trace.first, weights[1].weight, weights[1].bias, second);
    max_pool(second, CONV[1].output_side(), features, &mut trace.chosen);
}

/// act(x W^T + b): x [images, inputs] -> [images, outputs].
fn layer(x: &[f32], inputs: usize, weights: &LayerOf<&[f32]>, activation: Activation) -> Vec<f32> {
    let outer = weights.bias.len();
    let bias = Some(SmallWeight { values: weights.bias.to_vec(), len: outer });
    let layer = Layer { weight: View::F32(weights.weight), outer, bias, displaced: None };
    apply_layers(&[Panels::new(x, x.len() / inputs, inputs, false)], &[layer], activation, None)
}

/// Adds to `gradient` [d] that of all weights, for the gradient `slope` [images, 10] of the logits.
pub fn add_gradient(network: Network, weights: &[f32], trace: &Trace, slope: &[f32], gradient: &mut [f32]) {
    let (layers, to) = (network.layers(weights), network.layers_mut(gradient));
    let hidden_slope = hidden_slope(&layers.last, trace, slope);
    add_layer_gradient(&trace.hidden, HIDDEN, slope, to.last);
    let input = if layers.conv.is_some() { &trace.features } else { &trace.x };
    add_layer_gradient(input, network.features(), &hidden_slope, to.hidden);
    let (Some(conv), Some(to)) = (&layers.conv, to.conv) else { return };
    let feature_slope = through(&layers.hidden, network.features(), &hidden_slope);
    let groups: Vec<usize> = (0..trace.conv.len()).step_by(GROUP).collect();
    let of_group = |first: usize| {
        let mut sums =
            conv.map(|layer| LayerOf { weight: vec![0f32; layer.weight.len()], bias: vec![0f32; layer.bias.len()] });
        let (mut second, mut slope) = (Vec::new(), vec![0f32; CONV[0].output_len()]);
        for i in first..trace.conv.len().min(first + GROUP) {
            conv_slopes(network, trace, i, conv[1].weight, &feature_slope, &mut second, &mut slope);
            let [a, b] = &mut sums;
            CONV[1].add_weight_gradient(&trace.conv[i].first, &second, &mut b.weight, &mut b.bias);
            CONV[0].add_weight_gradient(image(&trace.x, i, IMAGE), &slope, &mut a.weight, &mut a.bias);
        }
        sums
    };
    let mut to = to;
    for sums in groups.into_par_iter().map(of_group).collect::<Vec<_>>() {
        for (to, sum) in to.iter_mut().zip(&sums) {
            add_rows(to.weight, &sum.weight, sum.weight.len(), None);
            add_rows(to.bias, &sum.bias, sum.bias.len(), None);
        }
    }
}

/// The gradient of the pixels [images, 784], for the gradient `slope` [images, 10] of the logits.
pub fn input_gradient(network: Network, weights: &[f32], trace: &Trace, slope: &[f32]) -> Vec<f32> {
    let layers = network.layers(weights);
    let hidden_slope = hidden_slope(&layers.last, trace, slope);
    let feature_slope = through(&layers.hidden, network.features(), &hidden_slope);
    let mut dx = match &layers.conv {
        None => feature_slope,
        Some(conv) => {
            let mut dx = vec![0f32; trace.x.len()];
            dx.par_chunks_mut(IMAGE).enumerate().for_each(|(i, dx)| {
                let (mut second, mut slope) = (Vec::new(), vec![0f32; CONV[0].output_len()]);
                conv_slopes(network, trace, i, conv[1].weight, &feature_slope, &mut second, &mut slope);
                CONV[0].input_gradient(conv[0].weight, &slope, dx);
            });
            dx
        }
    };
    dx.iter_mut().for_each(|dx| *dx /= PIXELS[1]);
    dx
}

/// The gradients of both convolutions' outputs for image `i`: the second's in `second`, the first's in `first`.
fn conv_slopes(
    network: Network,
    trace: &Trace,
    i: usize,
    weight: &[f32],
    feature_slope: &[f32],
    second: &mut Vec<f32>,
    first: &mut [f32],
) {
    let (features, conv) = (network.features(), &trace.conv[i]);
    second.resize(CONV[1].output_len(), 0.0);
    let (slope, pooled) = (image(feature_slope, i, features), image(&trace.features, i, features));
    max_pool_gradient(slope, pooled, &conv.chosen, CONV[1].output_side(), second);
    CONV[1].input_gradient(weight, second, first);
    multiply_by_slope(first, &conv.first, Activation::Relu);
}

/// The gradient of the hidden layer before ReLU: [images, 128].
fn hidden_slope(last: &LayerOf<&[f32]>, trace: &Trace, slope: &[f32]) -> Vec<f32> {
    let mut hidden_slope = through(last, HIDDEN, slope);
    multiply_by_slope(&mut hidden_slope, &trace.hidden, Activation::Relu);
    hidden_slope
}

/// The gradient of a layer's input [images, inputs], for that of its output.
fn through(layer: &LayerOf<&[f32]>, inputs: usize, slope: &[f32]) -> Vec<f32> {
    let outputs = layer.bias.len();
    let images = slope.len() / outputs;
    let mut dx = vec![0f32; images * inputs];
    let slope = Columns { all: slope, first: 0, width: outputs, count: outputs };
    add_input_gradient(slope, View::F32(layer.weight), &mut dx, (images, inputs));
    dx
}

fn add_layer_gradient(x: &[f32], inputs: usize, slope: &[f32], to: LayerOf<&mut [f32]>) {
    let outputs = to.bias.len();
    let columns = Columns { all: slope, first: 0, width: outputs, count: outputs };
    add_weight_gradient(to.weight, columns, x, (slope.len() / outputs, inputs));
    add_rows(to.bias, slope, outputs, None);
}

fn image(all: &[f32], i: usize, len: usize) -> &[f32] {
    &all[i * len..(i + 1) * len]
}

/// The digit of the largest logit, the first on ties.
pub fn prediction(logits: &[f32]) -> usize {
    (1..CLASSES).fold(0, |best, digit| if logits[digit] > logits[best] { digit } else { best })
}
