//! Gated activations: activation(gate) * up.

use rayon::prelude::*;

use super::activation::{activate, multiply_by_slope};
use super::math;
use crate::device::Activation;

/// activation(gate) * up: gate and up side by side, x [tokens, 2 * inner] -> [tokens, inner].
pub fn gated(x: &[f32], inner: usize, activation: Activation) -> Vec<f32> {
    let mut y = vec![0f32; x.len() / 2];
    y.par_chunks_mut(inner).zip(x.par_chunks(2 * inner)).for_each(|(y, x)| match activation {
        Activation::Silu => swiglu(y, &x[..inner], &x[inner..]),
        other => {
            y.copy_from_slice(&x[..inner]);
            activate(y, other);
            y.iter_mut().zip(&x[inner..]).for_each(|(y, up)| *y *= up);
        }
    });
    y
}

/// dx [tokens, 2 * inner]: on entry x, on return its gradient, given dy [tokens, inner].
pub fn differentiate_gated(dx: &mut [f32], dy: &[f32], inner: usize, activation: Activation) {
    dx.par_chunks_mut(2 * inner).zip(dy.par_chunks(inner)).for_each(|(dx, dy)| {
        let (gate, up) = dx.split_at_mut(inner);
        match activation {
            Activation::Silu => differentiate_swiglu(gate, up, dy),
            other => differentiate(gate, up, dy, other),
        }
    });
}

/// On entry gate and up, on return their gradients.
fn differentiate(gate: &mut [f32], up: &mut [f32], dy: &[f32], activation: Activation) {
    let (mut activated, mut dgate): (Vec<f32>, Vec<f32>) =
        (gate.to_vec(), dy.iter().zip(&*up).map(|(dy, up)| dy * up).collect());
    activate(&mut activated, activation);
    multiply_by_slope(&mut dgate, gate, activation);
    gate.copy_from_slice(&dgate);
    up.iter_mut().zip(&activated).zip(dy).for_each(|((up, activated), dy)| *up = dy * activated);
}

vectorize! {
    /// silu(gate) * up in one pass.
    fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for i in 0..y.len() {
            let x = gate[i];
            y[i] = x / (1.0 + math::exp(-x)) * up[i];
        }
    }
}

vectorize! {
    /// On entry gate and up, on return their gradients.
    fn differentiate_swiglu(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for i in 0..dy.len() {
            let (x, u) = (gate[i], up[i]);
            let sigmoid = 1.0 / (1.0 + math::exp(-x));
            gate[i] = dy[i] * u * (sigmoid * (1.0 + x * (1.0 - sigmoid)));
            up[i] = dy[i] * (x * sigmoid);
        }
    }
}
