//! Gram matrices of directions.

use super::math;
use super::source::Source;
use crate::direction::Key;
use crate::direction::group::GROUP;

vectorize! {
    /// Adds to `products` [q, q], row-major, the inner products of the keys' directions over `len` elements.
    pub fn gram(keys: &[Key], len: usize, products: &mut [f64]) {
        let q = keys.len();
        let mut drawn = vec![[0f32; GROUP]; q];
        let mut sources: Vec<Source> = keys.iter().map(|key| Source::new(*key)).collect();
        for group in 0..len.div_ceil(GROUP) {
            let len_here = GROUP.min(len - group * GROUP);
            for k in 0..q {
                sources[k].draw(group as u64, &mut drawn[k]);
                for z in &mut drawn[k][len_here..] {
                    *z = 0.0;
                }
            }
            for a in 0..q {
                for b in 0..=a {
                    products[a * q + b] += f64::from(math::dot(&drawn[a], &drawn[b]));
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
