//! Transposition in register blocks: packs activations for products, and unpacks the results.

use super::simd::{self, Level};
use super::tile::Rows;

/// to[c][r] = from[r][c] for `rows` x `cols` numbers, plus residual[c][r] if given. Without `residual`, bits are copied
/// unchanged.
///
/// # Safety
/// The matrices have these sizes, `residual` that of `to`; no other thread accesses `to` meanwhile.
pub unsafe fn transpose(
    rows: usize,
    cols: usize,
    from: Rows<f32>,
    to: *mut f32,
    stride: usize,
    residual: Option<*const f32>,
) {
    let block = match simd::level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 8,
        _ => 1,
    };
    let (whole_rows, whole_cols) = (rows - rows % block, cols - cols % block);
    for r in (0..whole_rows).step_by(block) {
        for c in (0..whole_cols).step_by(block) {
            let from = Rows { start: from.at(r, c), ..from };
            let offset = c * stride + r;
            let residual = residual.map(|residual| residual.wrapping_add(offset));
            // SAFETY: the block is within the matrices; its size implies the CPU's features.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                match block {
                    16 => block_of_16(from, to.wrapping_add(offset), stride, residual),
                    8 => block_of_8(from, to.wrapping_add(offset), stride, residual),
                    _ => scalar(1, 1, from, to.wrapping_add(offset), stride, residual),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            // SAFETY: the same.
            unsafe {
                scalar(1, 1, from, to.wrapping_add(offset), stride, residual);
            }
        }
    }
    let rest = |first_row: usize, first_col: usize, rows: usize, cols: usize| {
        let (from, offset) = (Rows { start: from.at(first_row, first_col), ..from }, first_col * stride + first_row);
        let residual = residual.map(|residual| residual.wrapping_add(offset));
        // SAFETY: within the matrices.
        unsafe { scalar(rows, cols, from, to.wrapping_add(offset), stride, residual) }
    };
    rest(whole_rows, 0, rows - whole_rows, cols);
    rest(0, whole_cols, whole_rows, cols - whole_cols);
}

/// # Safety
/// As for [`transpose`].
unsafe fn scalar(rows: usize, cols: usize, from: Rows<f32>, to: *mut f32, stride: usize, residual: Option<*const f32>) {
    for r in 0..rows {
        for c in 0..cols {
            let offset = c * stride + r;
            // SAFETY: by the function's contract.
            unsafe {
                let x = *from.at(r, c);
                *to.add(offset) = residual.map_or(x, |residual| x + *residual.add(offset));
            }
        }
    }
}

/// # Safety
/// As for [`transpose`], for 16 x 16 numbers; the CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn block_of_16(from: Rows<f32>, to: *mut f32, stride: usize, residual: Option<*const f32>) {
    use std::arch::x86_64::*;
    // SAFETY: within the block.
    let x: [__m512; 16] = std::array::from_fn(|r| unsafe { _mm512_loadu_ps(from.at(r, 0)) });
    let mut pairs = x;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    // fours[4 g + j] holds, in each quarter q, column 4 q + j of the rows 4 g .. 4 g + 4.
    let mut fours = x;
    for g in 0..4 {
        for j in 0..2 {
            let (a, b) = (_mm512_castps_pd(pairs[4 * g + j]), _mm512_castps_pd(pairs[4 * g + 2 + j]));
            fours[4 * g + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[4 * g + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for j in 0..4 {
        // Even and odd quarters of two groups: 0x88 takes lanes 0 and 2 of each, 0xdd lanes 1 and 3.
        let even = [0, 8].map(|g| _mm512_shuffle_f32x4::<0x88>(fours[g + j], fours[g + 4 + j]));
        let odd = [0, 8].map(|g| _mm512_shuffle_f32x4::<0xdd>(fours[g + j], fours[g + 4 + j]));
        for (c, column) in [
            (j, _mm512_shuffle_f32x4::<0x88>(even[0], even[1])),
            (4 + j, _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1])),
            (8 + j, _mm512_shuffle_f32x4::<0xdd>(even[0], even[1])),
            (12 + j, _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1])),
        ] {
            // SAFETY: within the block.
            unsafe {
                let column = match residual {
                    Some(residual) => _mm512_add_ps(column, _mm512_loadu_ps(residual.add(c * stride))),
                    None => column,
                };
                _mm512_storeu_ps(to.add(c * stride), column);
            }
        }
    }
}

/// # Safety
/// As for [`transpose`], for 8 x 8 numbers; the CPU has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn block_of_8(from: Rows<f32>, to: *mut f32, stride: usize, residual: Option<*const f32>) {
    use std::arch::x86_64::*;
    // SAFETY: within the block.
    let x: [__m256; 8] = std::array::from_fn(|r| unsafe { _mm256_loadu_ps(from.at(r, 0)) });
    let mut pairs = x;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    // fours[4 g + j] holds, in each half h, column 4 h + j of the rows 4 g .. 4 g + 4.
    let mut fours = x;
    for g in 0..2 {
        for j in 0..2 {
            let (a, b) = (_mm256_castps_pd(pairs[4 * g + j]), _mm256_castps_pd(pairs[4 * g + 2 + j]));
            fours[4 * g + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            fours[4 * g + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    }
    for j in 0..4 {
        let (low, high) = (fours[j], fours[4 + j]);
        for (c, column) in
            [(j, _mm256_permute2f128_ps::<0x20>(low, high)), (4 + j, _mm256_permute2f128_ps::<0x31>(low, high))]
        {
            // SAFETY: within the block.
            unsafe {
                let column = match residual {
                    Some(residual) => _mm256_add_ps(column, _mm256_loadu_ps(residual.add(c * stride))),
                    None => column,
                };
                _mm256_storeu_ps(to.add(c * stride), column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_transposed_on_every_instruction_set() {
        for (rows, cols) in [(1, 1), (16, 16), (8, 24), (33, 50), (5, 40), (48, 17)] {
            let from: Vec<f32> = (0..rows * (cols + 3)).map(|i| i as f32).collect();
            let residual: Vec<f32> = (0..cols * (rows + 2)).map(|i| 0.25 * i as f32).collect();
            for machine in simd::machines() {
                for residual in [None, Some(&residual)] {
                    let (stride, mut to) = (rows + 2, vec![-1f32; cols * (rows + 2)]);
                    let run = || {
                        let rows_of = Rows { start: from.as_ptr(), stride: cols + 3 };
                        // SAFETY: the buffers have these sizes.
                        unsafe { transpose(rows, cols, rows_of, to.as_mut_ptr(), stride, residual.map(|o| o.as_ptr())) };
                    };
                    simd::on(machine, 1, run).unwrap();
                    for (offset, x) in to.iter().enumerate() {
                        let (c, r) = (offset / stride, offset % stride);
                        let added = residual.map_or(0.0, |residual| residual[offset]);
                        let expected = if r < rows { from[r * (cols + 3) + c] + added } else { -1.0 };
                        assert_eq!(*x, expected, "{machine:?}, {rows} x {cols}, row {r}, column {c}");
                    }
                }
            }
        }
    }
}
