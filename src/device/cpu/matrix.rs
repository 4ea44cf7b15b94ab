//! Strided f32 matrices and their products.

use gemm::Parallelism;

/// A strided matrix inside a larger buffer.
///
/// A raw pointer without lifetime: the caller of a product guarantees that the memory is valid.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub(crate) start: *const f32,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl Matrix {
    /// A row-major matrix with rows `row_stride` apart.
    pub(crate) fn of(x: &[f32], row_stride: usize) -> Self {
        Matrix { start: x.as_ptr(), row_stride, col_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// dst [m, n] (row stride `dst_stride`) = (or += if `add`) scale * a [m, k] b [k, n].
///
/// # Safety
/// The pointers and strides describe matrices inside live buffers; no other thread accesses `dst` meanwhile.
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

/// A buffer of which threads write disjoint parts.
#[derive(Clone, Copy)]
pub struct SharedMut(pub *mut f32);

// SAFETY: users guarantee that no two threads write the same element, and none reads what another writes.
unsafe impl Send for SharedMut {}

unsafe impl Sync for SharedMut {}

unsafe impl Send for Matrix {}

unsafe impl Sync for Matrix {}

impl SharedMut {
    pub(crate) fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Makes every thread allocate its buffers for gradient products, so that they do not count as a step's memory.
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

/// Adjacent columns of a matrix.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// [rows, width]
    pub all: &'a [f32],
    /// Index of the first column.
    pub first: usize,
    /// Columns of the whole matrix.
    pub width: usize,
    /// Number of columns.
    pub count: usize,
}

impl Columns<'_> {
    /// The matrix of these columns from number `skip`.
    pub fn matrix(&self, skip: usize) -> Matrix {
        Matrix::of(&self.all[self.first + skip..], self.width)
    }
}
