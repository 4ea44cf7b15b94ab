//! Products with standardised features, with the same bits for any number of threads.
//!
//! A row z has width + 1 elements: (x_j - mean_j) / deviation_j, and a 1 for the intercept. Rows are standardised as they are read, in
//! f64, so nothing but the features is stored.

use rayon::prelude::*;

use super::features::Features;

/// Columns of a block that one thread sums over all rows.
const COLUMNS: usize = 64;

/// Mean and standard deviation of each feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Standard {
    /// [width]
    pub mean: Vec<f64>,
    /// 1 / the standard deviation (with a denominator of n); 0 for a feature that is constant up to its rounding to f32 [width].
    pub inverse: Vec<f64>,
}

impl Standard {
    /// Of these rows.
    pub fn of(rows: &Features) -> Self {
        let mean = by_columns(rows, |x, _| x);
        let variance = by_columns(rows, |x, j| (x - mean[j]) * (x - mean[j]));
        let inverse = variance.iter().zip(&mean).map(|(variance, mean)| {
            let deviation = variance.sqrt();
            if deviation <= f64::from(f32::EPSILON) * mean.abs() { 0.0 } else { 1.0 / deviation }
        });
        Standard { inverse: inverse.collect(), mean }
    }

    /// Standardises columns from `first` of a row.
    fn standardise(&self, row: &[f32], first: usize, z: &mut [f64]) {
        let (mean, inverse) = (&self.mean[first..], &self.inverse[first..]);
        for (j, z) in z.iter_mut().enumerate() {
            *z = (f64::from(row[first + j]) - mean[j]) * inverse[j];
        }
    }
}

/// The mean of `of(x, column)` over the rows, for each column.
fn by_columns(rows: &Features, of: impl Fn(f64, usize) -> f64 + Sync) -> Vec<f64> {
    let (mut means, width) = (vec![0.0; rows.width], rows.width);
    means.par_chunks_mut(COLUMNS).enumerate().for_each(|(block, means)| {
        let first = block * COLUMNS;
        for row in rows.values.chunks(width) {
            means.iter_mut().enumerate().for_each(|(j, mean)| *mean += of(f64::from(row[first + j]), first + j));
        }
        means.iter_mut().for_each(|mean| *mean /= rows.rows() as f64);
    });
    means
}

/// z . theta_k of each row and class: [rows, classes], for theta [classes, width + 1].
pub fn products(rows: &Features, standard: &Standard, theta: &[f64]) -> Vec<f64> {
    let classes = theta.len() / (rows.width + 1);
    let mut out = vec![0.0; rows.rows() * classes];
    let of_row = |z: &mut Vec<f64>, (row, out): (&[f32], &mut [f64])| {
        standard.standardise(row, 0, z);
        for (out, theta) in out.iter_mut().zip(theta.chunks(rows.width + 1)) {
            *out = dot(z, &theta[..rows.width]) + theta[rows.width];
        }
    };
    let rows_of = rows.values.par_chunks(rows.width).zip(out.par_chunks_mut(classes));
    rows_of.for_each_init(|| vec![0.0; rows.width], of_row);
    out
}

/// The mean over the rows of factor_k z: [classes, width + 1], for `factors` [rows, classes].
pub fn mean_of(rows: &Features, standard: &Standard, factors: &[f64]) -> Vec<f64> {
    let (width, classes) = (rows.width, factors.len() / rows.rows());
    let block = |block: usize| {
        let first = block * COLUMNS;
        let columns = COLUMNS.min(width - first);
        let (mut z, mut sums) = ([0.0; COLUMNS], vec![0.0; classes * columns]);
        for (row, factors) in rows.values.chunks(width).zip(factors.chunks(classes)) {
            standard.standardise(row, first, &mut z[..columns]);
            for (sums, factor) in sums.chunks_mut(columns).zip(factors) {
                sums.iter_mut().zip(&z).for_each(|(sum, z)| *sum += factor * z);
            }
        }
        sums
    };
    let blocks: Vec<Vec<f64>> = (0..width.div_ceil(COLUMNS)).into_par_iter().map(block).collect();
    let count = rows.rows() as f64;
    let mut out = Vec::with_capacity(classes * (width + 1));
    for class in 0..classes {
        for sums in &blocks {
            let columns = sums.len() / classes;
            out.extend(sums[class * columns..(class + 1) * columns].iter().map(|sum| sum / count));
        }
        out.push(factors.iter().skip(class).step_by(classes).sum::<f64>() / count);
    }
    out
}

/// The inner product, in 8 partial sums.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (whole, rest) = (a.chunks_exact(8).zip(b.chunks_exact(8)), a.len() / 8 * 8);
    for (a, b) in whole {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f64 = a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
