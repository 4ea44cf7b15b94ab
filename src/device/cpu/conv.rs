//! 3 x 3 convolutions with stride 1 and without padding, and 2 x 2 maximum pooling: one image on one thread.
//!
//! A convolution is a product of the weight with the image's patches, which are gathered a panel of positions at a time.

use std::cell::RefCell;
use std::ops::Range;

use gemm::Parallelism;

use super::math;
use super::matrix::{Matrix, multiply};
use super::tile::{Rows, VectorUnit};

/// Side of the kernel.
const KERNEL: usize = 3;

/// Positions in a panel: whole vectors of every instruction set.
const PANEL: usize = 48;

// Per thread: patches, and the sums of a panel.
thread_local!(static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) });

/// y = W * x + b for square images: x [inputs, side, side], W [outputs, inputs, 3, 3], b [outputs],
/// y [outputs, side - 2, side - 2].
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    /// Channels of x.
    pub inputs: usize,
    /// Channels of y.
    pub outputs: usize,
    /// Side of x.
    pub side: usize,
}

impl Convolution {
    /// Elements of x.
    pub fn input_len(self) -> usize {
        self.inputs * self.side * self.side
    }

    /// Side of y.
    pub fn output_side(self) -> usize {
        self.side + 1 - KERNEL
    }

    /// Elements of y.
    pub fn output_len(self) -> usize {
        self.outputs * self.positions()
    }

    /// Elements of a row of the weight.
    pub fn patch(self) -> usize {
        self.inputs * KERNEL * KERNEL
    }

    fn positions(self) -> usize {
        self.output_side() * self.output_side()
    }

    /// Writes y. Each element is one chain of fused multiply-adds: the same bits on every instruction set.
    pub fn forward(self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let (unit, k, n) = (VectorUnit::best(), self.patch(), self.positions());
        assert!(weight.len() == self.outputs * k && bias.len() == self.outputs && y.len() == self.output_len());
        SCRATCH.with_borrow_mut(|(patches, sums)| {
            patches.resize(patches.len().max(k * PANEL), 0.0);
            sums.resize(sums.len().max(self.outputs * PANEL), 0.0);
            for first in (0..n).step_by(PANEL) {
                let count = PANEL.min(n - first);
                self.gather(x, first..first + count, patches, PANEL);
                sums.chunks_exact_mut(PANEL).zip(bias).for_each(|(row, bias)| row.fill(*bias));
                let vectors = count.div_ceil(unit.lanes());
                let a = Rows { start: weight.as_ptr(), stride: k };
                let b = Rows { start: patches.as_ptr(), stride: PANEL };
                // SAFETY: the weight is [outputs, k], the patches [k, PANEL], the sums [outputs, PANEL] and of this thread.
                unsafe { unit.tile(self.outputs, k, vectors, a, b, sums.as_mut_ptr(), PANEL, 0) };
                for (row, y) in sums.chunks_exact(PANEL).zip(y.chunks_exact_mut(n)) {
                    y[first..first + count].copy_from_slice(&row[..count]);
                }
            }
        });
    }

    /// dW += dy x^T over the patches of x, and db += dy, summed over positions.
    pub fn add_weight_gradient(self, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
        let (k, n) = (self.patch(), self.positions());
        assert!(dy.len() == self.output_len() && dw.len() == self.outputs * k && db.len() == self.outputs);
        SCRATCH.with_borrow_mut(|(patches, _)| {
            patches.resize(patches.len().max(k * n), 0.0);
            self.gather(x, 0..n, patches, n);
            let (size, patches) = ((self.outputs, n, k), Matrix::of(patches, n).transposed());
            // SAFETY: dy is [outputs, n], the patches [k, n]; dW is [outputs, k] and borrowed mutably.
            unsafe { multiply(size, dw.as_mut_ptr(), k, true, Matrix::of(dy, n), patches, 1.0, Parallelism::None) };
        });
        db.iter_mut().zip(dy.chunks_exact(n)).for_each(|(db, dy)| *db += sum(dy));
    }

    /// Writes dx, for dy of the shape of y.
    pub fn input_gradient(self, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (k, n, out) = (self.patch(), self.positions(), self.output_side());
        assert!(dy.len() == self.output_len() && weight.len() == self.outputs * k && dx.len() == self.input_len());
        dx.fill(0.0);
        SCRATCH.with_borrow_mut(|(patches, _)| {
            patches.resize(patches.len().max(k * n), 0.0);
            let (size, weight) = ((k, self.outputs, n), Matrix::of(weight, k).transposed());
            // SAFETY: the weight is [outputs, k], dy [outputs, n]; the patches are [k, n] and of this thread.
            unsafe { multiply(size, patches.as_mut_ptr(), n, false, weight, Matrix::of(dy, n), 1.0, Parallelism::None) };
            for (i, patch) in patches[..k * n].chunks_exact(n).enumerate() {
                let offset = self.offset(i);
                for (row, from) in patch.chunks_exact(out).enumerate() {
                    let to = &mut dx[offset + row * self.side..][..out];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                }
            }
        });
    }

    /// Where element `i` of a patch at position 0 is in x.
    fn offset(self, i: usize) -> usize {
        let (channel, row, column) = (i / (KERNEL * KERNEL), i / KERNEL % KERNEL, i % KERNEL);
        (channel * self.side + row) * self.side + column
    }

    /// Writes the patches of these positions as columns: to [patch, positions], its rows `stride` apart.
    fn gather(self, x: &[f32], positions: Range<usize>, to: &mut [f32], stride: usize) {
        assert!(x.len() == self.input_len());
        let out = self.output_side();
        let mut at = positions.start;
        while at < positions.end {
            // Positions in a row of y are adjacent in x too.
            let (row, column) = (at / out, at % out);
            let len = (out - column).min(positions.end - at);
            for i in 0..self.patch() {
                let from = &x[self.offset(i) + row * self.side + column..][..len];
                copy(from, &mut to[i * stride + at - positions.start..][..len]);
            }
            at += len;
        }
    }
}

/// A short copy without a call.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    const STEP: usize = 8;
    let len = from.len();
    if len < STEP {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        return;
    }
    // The last step overlaps the one before it.
    for at in (0..len - STEP).step_by(STEP).chain([len - STEP]) {
        to[at..at + STEP].copy_from_slice(&from[at..at + STEP]);
    }
}

vectorize! {
    fn sum(x: &[f32]) -> f32 {
        math::sum(x, #[inline(always)] |x| x)
    }
}

/// max(0, maximum) of each 2 x 2 block of y [channels, side, side], with an even side, into `pooled` [channels, side / 2, side / 2],
/// and which of the four it is, row by row, into `chosen`.
pub fn max_pool(y: &[f32], side: usize, pooled: &mut [f32], chosen: &mut [u8]) {
    assert!(side.is_multiple_of(2) && pooled.len() == y.len() / 4 && chosen.len() == pooled.len());
    let half = side / 2;
    let rows = pooled.chunks_exact_mut(half).zip(chosen.chunks_exact_mut(half));
    for (rows, (pooled, chosen)) in y.chunks_exact(2 * side).zip(rows) {
        let (upper, lower) = rows.split_at(side);
        for i in 0..half {
            let (mut best, mut which) = (upper[2 * i], 0);
            for (other, x) in [(1, upper[2 * i + 1]), (2, lower[2 * i]), (3, lower[2 * i + 1])] {
                // NaN wins.
                (best, which) = if x > best || x.is_nan() { (x, other) } else { (best, which) };
            }
            pooled[i] = if best < 0.0 { 0.0 } else { best };
            chosen[i] = which;
        }
    }
}

/// Writes dy, given the gradient of `pooled`: it goes to the elements that [`max_pool`] chose, where they are above 0.
pub fn max_pool_gradient(gradient: &[f32], pooled: &[f32], chosen: &[u8], side: usize, dy: &mut [f32]) {
    assert!(gradient.len() == pooled.len() && chosen.len() == pooled.len() && dy.len() == 4 * pooled.len());
    dy.fill(0.0);
    let half = side / 2;
    for (i, ((gradient, pooled), chosen)) in gradient.iter().zip(pooled).zip(chosen).enumerate() {
        let (row, column, chosen) = (i / half, i % half, usize::from(*chosen));
        if *pooled > 0.0 {
            dy[(2 * row + chosen / 2) * side + 2 * column + chosen % 2] = *gradient;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd::{machines, on};

    fn numbers(n: usize, by: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * by).sin()).collect()
    }

    /// The convolution by its definition, in f64: y[o][r][c] = b[o] + sum W[o][i][u][v] x[i][r + u][c + v].
    fn by_definition(conv: Convolution, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let (out, side) = (conv.output_side(), conv.side);
        let element = |at: usize| {
            let (o, r, c) = (at / (out * out), at / out % out, at % out);
            let of_patch = |i: usize| {
                let (channel, u, v) = (i / 9, i / 3 % 3, i % 3);
                f64::from(weight[o * conv.patch() + i]) * f64::from(x[channel * side * side + (r + u) * side + c + v])
            };
            f64::from(bias[o]) + (0..conv.patch()).map(of_patch).sum::<f64>()
        };
        (0..conv.output_len()).map(element).collect()
    }

    /// The same bits on every instruction set, and the definition's values. Its gradients are those of sum dy y, which is linear in
    /// the weight and in x: the inner product of a gradient with any change is the change of the sum.
    #[test]
    fn a_convolution_and_its_gradients_are_those_of_the_definition() -> anyhow::Result<()> {
        for (inputs, outputs, side) in [(1, 3, 5), (2, 7, 9), (3, 20, 28)] {
            let conv = Convolution { inputs, outputs, side };
            let (x, weight) = (numbers(conv.input_len(), 0.37), numbers(outputs * conv.patch(), 1.3));
            let (bias, dy) = (numbers(outputs, 0.9), numbers(conv.output_len(), 0.71));
            let exact = by_definition(conv, &x, &weight, &bias);
            let mut bits = Vec::new();
            for machine in machines() {
                let mut y = vec![0f32; conv.output_len()];
                on(machine, 1, || conv.forward(&x, &weight, &bias, &mut y))?;
                assert!(y.iter().zip(&exact).all(|(y, exact)| (f64::from(*y) - exact).abs() < 1e-5), "{machine:?}");
                bits.push(y);
            }
            assert!(bits.iter().all(|y| *y == bits[0]));

            let (mut dw, mut db, mut dx) = (vec![0f32; weight.len()], vec![0f32; outputs], vec![0f32; x.len()]);
            conv.add_weight_gradient(&x, &dy, &mut dw, &mut db);
            conv.input_gradient(&weight, &dy, &mut dx);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let changed = |x: &[f32], weight: &[f32], bias: &[f32]| {
                by_definition(conv, x, weight, bias).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
            };
            let (no_bias, by) = (vec![0f32; outputs], 0.23);
            let changes = [
                ("W", dot(&dw, &numbers(dw.len(), by)), changed(&x, &numbers(dw.len(), by), &no_bias)),
                ("b", dot(&db, &numbers(outputs, by)), changed(&x, &vec![0.0; dw.len()], &numbers(outputs, by))),
                ("x", dot(&dx, &numbers(dx.len(), by)), changed(&numbers(dx.len(), by), &weight, &no_bias)),
            ];
            for (name, found, expected) in changes {
                assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{name}: {found}, not {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn pooling_chooses_the_largest_of_four() {
        let y = [1.0, 5.0, -1.0, -2.0, 3.0, 2.0, -3.0, -4.0, 0.5, 0.25, 7.0, 8.0, 0.75, 0.5, 9.0, 6.0];
        let (mut pooled, mut chosen, mut dy) = ([0.0; 4], [0; 4], [1.0; 16]);
        max_pool(&y, 4, &mut pooled, &mut chosen);
        assert_eq!((pooled, chosen), ([5.0, 0.0, 0.75, 9.0], [1, 0, 2, 2]));
        max_pool_gradient(&[10.0, 20.0, 30.0, 40.0], &pooled, &chosen, 4, &mut dy);
        let expected = [0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 30.0, 0.0, 40.0, 0.0];
        assert_eq!(dy, expected);
        max_pool(&[f32::NAN, 1.0, 0.0, 2.0], 2, &mut pooled[..1], &mut chosen[..1]);
        assert!(pooled[0].is_nan());
    }
}
