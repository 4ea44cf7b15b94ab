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

use gemm::Parallelism;

/// A matrix inside a larger buffer: where it starts and how far apart its rows and columns are.
///
/// As free as a pointer: whoever multiplies promises that what it points to is there.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub(crate) start: *const f32,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl Matrix {
    /// Row by row, the rows `row_stride` apart.
    pub(crate) fn of(x: &[f32], row_stride: usize) -> Self {
        Matrix { start: x.as_ptr(), row_stride, col_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// dst [m, n] (row stride `dst_stride`) = (or += when `add`) scale * a [m, k] b [k, n].
///
/// # Safety
/// The pointers and strides must describe matrices inside live buffers; nobody else may touch `dst` meanwhile.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply(
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
pub struct Shared(pub *mut f32);

// SAFETY: whoever uses them promises that no two threads write the same element, and none reads what another writes.
unsafe impl Send for Shared {}

unsafe impl Sync for Shared {}

unsafe impl Send for Matrix {}

unsafe impl Sync for Matrix {}

impl Shared {
    pub(crate) fn at(&self, offset: usize) -> *mut f32 {
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

pub(crate) fn threads() -> Parallelism {
    Parallelism::Rayon(rayon::current_num_threads())
}

/// Neighbouring columns of a matrix.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// [rows, width]
    pub all: &'a [f32],
    /// The first of them.
    pub first: usize,
    /// Columns of the whole matrix.
    pub width: usize,
    /// How many they are.
    pub count: usize,
}

impl Columns<'_> {
    /// From the `skip`-th of them on.
    pub fn matrix(&self, skip: usize) -> Matrix {
        Matrix::of(&self.all[self.first + skip..], self.width)
    }
}
