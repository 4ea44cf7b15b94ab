//! The linear layer: one product over all tokens of the batch, of one weight or of several side by side; bias, activation and the
//! stream that it adds to are fused into it.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::activation::activated;
use super::norm::add_rows;
use super::tensors::{floats, rows_a_point, small, with_floats};
use crate::device::cpu::convert::convert;
use crate::device::cpu::matrix::{multiply, threads};
use crate::device::cpu::product::by_weights;
use crate::device::cpu::{Displaced, Layer, Matrix, Panels, Small};
use crate::device::numbers::{numbers, with_weight};
use crate::device::{Activation, Element, Numbers};
use crate::params::Leaf;

/// A weight [out, in] and a bias [out].
pub struct Part {
    /// As it is held.
    pub weight: Leaf,
    /// If there is one.
    pub bias: Option<Leaf>,
}

/// act(x W^T + b): x [tokens, in] f32 -> [tokens, out] f32, the parts' columns side by side.
pub fn linear(x: &Tensor, parts: Vec<Part>, activation: Activation) -> Result<Tensor> {
    if !x.track_op() || activation == Activation::None {
        return Ok(x.apply_op1(Linear { parts, activation })?);
    }
    // Going back, an activation wants to see what it was applied to.
    let before = x.apply_op1(Linear { parts, activation: Activation::None })?;
    activated(&before, activation)
}

/// onto + x W^T + b: what a block adds to its stream, [tokens, out] f32.
pub fn linear_onto(onto: &Tensor, x: &Tensor, part: Part) -> Result<Tensor> {
    Ok(x.apply_op2(onto, Linear { parts: vec![part], activation: Activation::None })?)
}

struct Linear {
    parts: Vec<Part>,
    activation: Activation,
}

/// Weight rows that a thread widens at a time, going back, where they are held in half precision.
const TILE: usize = 64;

impl Linear {
    fn forward(&self, x: &CpuStorage, lx: &Layout, onto: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, inner) = lx.shape().dims2()?;
        let guards: Vec<_> = self.parts.iter().map(|part| part.weight.tensor().storage_and_layout()).collect();
        let mut layers = Vec::new();
        for (part, (storage, layout)) in self.parts.iter().zip(&guards) {
            let (outer, w_inner) = layout.shape().dims2()?;
            let bias = part.bias.as_ref().map(small).transpose()?;
            if inner != w_inner || bias.as_ref().is_some_and(|b| b.len != outer) {
                candle_core::bail!("linear: {tokens} x {inner} by {outer} x {w_inner}");
            }
            layers.push(Layer { weight: numbers(storage, layout)?, outer, bias, displaced: part.weight.displaced() });
        }
        let width = layers.iter().map(|layer| layer.outer).sum();
        if onto.is_some_and(|onto| onto.len() != tokens * width) {
            candle_core::bail!("linear: {tokens} x {width} onto something else");
        }
        let halves = layers.iter().all(|layer| matches!(layer.weight, Numbers::Bf16(_)));
        let points =
            |layer: &Layer| layer.displaced.map_or(1, Displaced::points).max(layer.bias.as_ref().map_or(1, Small::points));
        let rows = rows_a_point(tokens, layers.iter().map(points).max().unwrap_or(1))?;
        let of_point = |x| Panels::new(x, rows, inner, halves);
        let x: Vec<Panels> = floats(x, lx)?.chunks((rows * inner).max(1)).map(of_point).collect();
        let y = by_weights(&x, &layers, self.activation, onto);
        Ok((CpuStorage::F32(y), (tokens, width).into()))
    }

    /// dx = dy W, dW += dy^T x, db += the sum of dy's rows; dx is the sum over the parts.
    fn backward(&self, x: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let ((tokens, inner), width) = (x.dims2()?, upstream.dim(1)?);
        let mut dx = vec![0f32; tokens * inner];
        with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let x = Matrix::of(x, inner);
            let mut column = 0;
            for part in &self.parts {
                let outer = part.weight.tensor().dim(0)?;
                let dy = Columns { all: dy, first: column, width, count: outer };
                with_weight(part.weight.tensor(), |w| {
                    match w {
                        Numbers::F32(w) => {
                            let w = Matrix::of(w, inner);
                            // SAFETY: dy is [tokens, outer], W [outer, inner], dx [tokens, inner] and ours.
                            unsafe {
                                multiply(
                                    (tokens, outer, inner),
                                    dx.as_mut_ptr(),
                                    inner,
                                    true,
                                    dy.matrix(0),
                                    w,
                                    1.0,
                                    threads(),
                                )
                            }
                        }
                        Numbers::Bf16(w) => backward_widened(dy, w, &mut dx, (tokens, inner)),
                        Numbers::F16(w) => backward_widened(dy, w, &mut dx, (tokens, inner)),
                    }
                    Ok(())
                })?;
                let (dy_t, size) = (dy.matrix(0).transposed(), (outer, tokens, inner));
                // SAFETY: dy^T is [outer, tokens], x [tokens, inner], dW [outer, inner] and lent to us alone.
                part.weight
                    .add_gradient(|dw| unsafe { multiply(size, dw.as_mut_ptr(), inner, true, dy_t, x, 1.0, threads()) });
                if let Some(bias) = &part.bias {
                    bias.add_gradient(|db| add_rows(db, &dy.all[column..], width, None));
                }
                column += outer;
            }
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(dx, (tokens, inner), x.device())?))
    }
}

/// Neighbouring columns of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub all: &'a [f32],
    pub first: usize,
    pub width: usize,
    pub count: usize,
}

impl Columns<'_> {
    /// From the `skip`-th of them on.
    pub fn matrix(&self, skip: usize) -> Matrix {
        Matrix::of(&self.all[self.first + skip..], self.width)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(x, lx, None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.backward(x, upstream)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear onto"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, o: &CpuStorage, lo: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(x, lx, Some(floats(o, lo)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.backward(x, upstream)?, Some(upstream.clone())))
    }
}

/// dx += dy W with W held in half precision: all threads on one tile after the other, for each adds to all of dx.
fn backward_widened<T: Element>(dy: Columns, w: &[T], dx: &mut [f32], (tokens, inner): (usize, usize)) {
    const TILES: usize = 8 * TILE;
    let mut tile = vec![0f32; TILES.min(dy.count) * inner];
    for (i, rows) in w.chunks(TILES * inner).enumerate() {
        let tile = &mut tile[..rows.len()];
        tile.par_chunks_mut(TILE * inner).zip(rows.par_chunks(TILE * inner)).for_each(|(to, from)| convert(from, to));
        let b = Matrix::of(tile, inner);
        let size = (tokens, rows.len() / inner, inner);
        // SAFETY: the tile's columns of dy, [tokens, inner] of dx, which is lent to us alone.
        unsafe { multiply(size, dx.as_mut_ptr(), inner, true, dy.matrix(i * TILES), b, 1.0, threads()) }
    }
}
