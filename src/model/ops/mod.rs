//! The operations that models are made of, over packed tokens: activations in f32, weights in whatever they are held in.
//!
//! Each is a candle operation with a backward of its own. On plain tensors nothing is recorded; where an activation is a
//! variable, candle's graph records the activations, and walking it back adds the gradients of weights to where their
//! [`Leaf`] says. So the forward for zeroth order and the one that is differentiated are the same code.
//!
//! Where weights are read at several points, the rows of all activations are as many stretches of one length, one for each point.
//! Nothing is recorded there.
//!
//! Every loop over threads gives each output element to one thread and one fixed order of additions, so results have the
//! same bits for any number of threads.

mod activation;
mod attention;
mod cap;
mod embed;
mod gated;
mod head;
mod linear;
mod low_rank;
mod norm;
mod pairs;
mod prefix;
mod product;
mod rotary;
mod tile;
mod transpose;

use candle_core::{CpuStorage, Layout, Storage, Tensor};
use gemm::Parallelism;
use half::{bf16, f16};

use crate::element::{Element, convert};
use crate::params::{Displaced, Leaf};

pub use activation::{Activation, activated};
pub use attention::{Heads, PrefixRows, Scores, attention};
pub use cap::soft_cap;
pub use embed::embed;
pub use gated::gated;
pub use head::log_probs;
pub use linear::{Part, linear, linear_onto};
pub use low_rank::{LowRank, add_low_rank};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use prefix::{Place, with_prefix};
pub use rotary::rotate;

/// The f32 numbers of a contiguous tensor.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(x), Some((start, end))) => Ok(&x[start..end]),
        (_, None) => candle_core::bail!("a tensor is not contiguous"),
        _ => candle_core::bail!("activations are f32"),
    }
}

/// The same of tensors, lent to `read` together.
fn with_floats<const N: usize, R>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut all: [&[f32]; N] = [&[]; N];
    for (floats_of, (storage, layout)) in all.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("a tensor is not on the CPU") };
        *floats_of = floats(storage, layout)?;
    }
    read(all)
}

/// A weight's numbers as they are held.
enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

fn numbers<'a>(storage: &'a Storage, layout: &Layout) -> candle_core::Result<Numbers<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a weight is not contiguous") };
    match storage {
        Storage::Cpu(CpuStorage::F32(w)) => Ok(Numbers::F32(&w[start..end])),
        Storage::Cpu(CpuStorage::BF16(w)) => Ok(Numbers::Bf16(&w[start..end])),
        Storage::Cpu(CpuStorage::F16(w)) => Ok(Numbers::F16(&w[start..end])),
        _ => candle_core::bail!("weights are held in f32, f16 or bf16 on the CPU"),
    }
}

fn with_weight<R>(weight: &Tensor, read: impl FnOnce(Numbers) -> candle_core::Result<R>) -> candle_core::Result<R> {
    let (storage, layout) = weight.storage_and_layout();
    read(numbers(&storage, layout)?)
}

/// A small weight (a bias, a norm's) in f32, whatever it is held in, at all points that it is read at.
struct Small {
    /// [points, numbers]
    all: Vec<f32>,
    len: usize,
}

impl Small {
    fn of(leaf: &Leaf) -> candle_core::Result<Self> {
        fn all<T: Element>(numbers: &[T], displaced: Option<&Displaced>) -> Vec<f32> {
            let mut at_points = Vec::new();
            if let Some(displaced) = displaced {
                displaced.read(numbers, 0, &mut at_points);
            }
            let numbers = if displaced.is_some() { &at_points } else { numbers };
            let mut wide = vec![0f32; numbers.len()];
            convert(numbers, &mut wide);
            wide
        }
        let (tensor, displaced) = (leaf.tensor(), leaf.displaced());
        let all = with_weight(tensor, |numbers| {
            Ok(match numbers {
                Numbers::F32(w) => all(w, displaced),
                Numbers::Bf16(w) => all(w, displaced),
                Numbers::F16(w) => all(w, displaced),
            })
        })?;
        Ok(Small { all, len: tensor.elem_count() })
    }

    fn points(&self) -> usize {
        self.all.len() / self.len
    }

    /// The numbers at a point: one and the same where the weight is read as it stands.
    fn at(&self, point: usize) -> &[f32] {
        let first = if self.points() == 1 { 0 } else { point * self.len };
        &self.all[first..first + self.len]
    }
}

/// Of `rows` rows of activations those that stand for one of so many points.
fn rows_a_point(rows: usize, points: usize) -> candle_core::Result<usize> {
    if !rows.is_multiple_of(points) {
        candle_core::bail!("{rows} rows of activations for {points} points");
    }
    Ok(rows / points)
}

/// The rows of x [.., width], at most `many` together, each stretch with the point that it stands for.
fn by_points(x: &mut [f32], width: usize, points: usize, many: usize) -> candle_core::Result<Vec<(usize, &mut [f32])>> {
    let rows = rows_a_point(x.len() / width, points)?;
    let of_point = x.chunks_mut(rows.max(1) * width).enumerate();
    Ok(of_point.flat_map(|(point, x)| x.chunks_mut(many * width).map(move |x| (point, x))).collect())
}

/// A matrix inside a larger buffer: where it starts and how far apart its rows and columns are.
///
/// As free as a pointer: whoever multiplies promises that what it points to is there.
#[derive(Clone, Copy)]
struct Matrix {
    start: *const f32,
    row_stride: usize,
    col_stride: usize,
}

impl Matrix {
    /// Row by row, the rows `row_stride` apart.
    fn of(x: &[f32], row_stride: usize) -> Self {
        Matrix { start: x.as_ptr(), row_stride, col_stride: 1 }
    }

    fn transposed(self) -> Self {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// dst [m, n] (row stride `dst_stride`) = (or += when `add`) scale * a [m, k] b [k, n].
///
/// # Safety
/// The pointers and strides must describe matrices inside live buffers; nobody else may touch `dst` meanwhile.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(
    (m, k, n): (usize, usize, usize),
    dst: *mut f32,
    dst_stride: usize,
    add: bool,
    a: Matrix,
    b: Matrix,
    scale: f32,
    parallelism: Parallelism,
) {
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_stride as isize,
            add,
            a.start,
            a.col_stride as isize,
            a.row_stride as isize,
            b.start,
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        )
    }
}

/// A buffer that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever uses them promises that no two threads write the same element, and none reads what another writes.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}
unsafe impl Send for Matrix {}
unsafe impl Sync for Matrix {}

impl Shared {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Has every thread make the buffers that it keeps for products of gradients: so that nobody counts them as a step's.
pub fn warm_up() {
    rayon::broadcast(|_| {
        const N: usize = 256;
        let (a, mut c) = (vec![0f32; N * N], vec![0f32; N * N]);
        let m = Matrix::of(&a, N);
        // SAFETY: all are [N, N].
        unsafe { multiply((N, N, N), c.as_mut_ptr(), N, true, m.transposed(), m, 1.0, Parallelism::None) }
    });
}

fn threads() -> Parallelism {
    Parallelism::Rayon(rayon::current_num_threads())
}
