//! How much of a displacement half precision loses.

use std::sync::Arc;

use anyhow::Result;

use super::points::Points;
use super::role::ParamSet;
use super::store::Params;
use crate::device::View;
use crate::direction::Term;

impl Params {
    /// The share of the way from theta to theta + coeff z that the weights of `set` make when they are rounded to the precision they are held
    /// in: 1 in f32, less if coeff is small beside the spacing of half precision's numbers. The first numbers of each weight stand for all.
    pub fn displaced_share(&mut self, term: Term, set: ParamSet) -> Result<f64> {
        let points = Arc::new(Points::new(set, &[vec![term]]));
        let weights = self.settle()?.at(&points);
        let (mut made, mut whole) = (0.0, 0.0);
        for (id, _) in weights.ids() {
            let leaf = weights.leaf(id);
            let Some(displaced) = leaf.displaced() else { continue };
            let (a, b) = each_precision!(View, leaf.array().view(), numbers => displaced.way_made(numbers));
            (made, whole) = (made + a, whole + b);
        }
        Ok(if whole > 0.0 { made / whole } else { 1.0 })
    }
}
