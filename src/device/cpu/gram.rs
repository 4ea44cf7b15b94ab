//! Gram matrices of directions.

use super::math;
use super::source::Source;
use crate::direction::Key;
use crate::direction::group::GROUP;

/// Groups that are drawn before their products are taken. Products of one group, right after it was drawn, took as long as
/// drawing it.
const BLOCK: usize = 8;

vectorize! {
    /// Adds to `products` [q, q], row-major, the inner products of the keys' directions over `len` elements.
    pub fn gram(keys: &[Key], len: usize, products: &mut [f64]) {
        let q = keys.len();
        let mut drawn = vec![[[0f32; GROUP]; BLOCK]; q];
        let mut sources: Vec<Source> = keys.iter().map(|key| Source::new(*key)).collect();
        let groups = len.div_ceil(GROUP);
        for first in (0..groups).step_by(BLOCK) {
            let block = BLOCK.min(groups - first);
            for (source, drawn) in sources.iter_mut().zip(&mut drawn) {
                for (i, z) in drawn[..block].iter_mut().enumerate() {
                    source.draw((first + i) as u64, z);
                }
                if let Some(beyond) = ((first + block) * GROUP).checked_sub(len) {
                    drawn[block - 1][GROUP - beyond..].fill(0.0);
                }
            }
            for a in 0..q {
                for b in 0..=a {
                    let mut sum = products[a * q + b];
                    for (x, y) in drawn[a][..block].iter().zip(&drawn[b]) {
                        sum += f64::from(math::dot(x, y));
                    }
                    products[a * q + b] = sum;
                }
            }
        }
        for a in 0..q {
            for b in 0..a {
                products[b * q + a] = products[a * q + b];
            }
        }
    }
}
