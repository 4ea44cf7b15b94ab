//! Loss of small displacements in half precision.

use std::sync::Arc;

use anyhow::Result;

use super::points::Points;
use super::role::ParamSet;
use super::store::Params;
use crate::device::View;
use crate::direction::Term;

impl Params {
    /// The projection of the rounded displacement coeff z on the exact one, relative to it, over the weights of `set`: 1 in
    /// f32, less if coeff is small relative to the spacing of half precision. Estimated on the first elements of each
    /// weight.
    pub fn displaced_share(&mut self, term: Term, set: ParamSet) -> Result<f64> {
        let points = Arc::new(Points::new(set, &[vec![term]]));
        let weights = self.settle()?.at(&points);
        let (mut product, mut square) = (0.0, 0.0);
        for (id, _) in weights.ids() {
            let leaf = weights.leaf(id);
            let Some(displaced) = leaf.displaced() else { continue };
            let (a, b) = each_precision!(View, leaf.array().view(), numbers => displaced.rounded_projection(numbers));
            (product, square) = (product + a, square + b);
        }
        Ok(if square > 0.0 { product / square } else { 1.0 })
    }
}
