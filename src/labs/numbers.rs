//! Weights and gradients as vectors in R^d.

use anyhow::Result;

use crate::device::{Element, View};
use crate::params::{Gradient, Leaf, ParamId, Role, Weights};
use crate::zo::Gradients;

/// All elements of all weights, in order, at each point of `weights`: [points][d].
pub fn at_points(weights: Weights) -> Result<Vec<Vec<f64>>> {
    Ok(read_points(weights)?.iter().map(|x| widened(x)).collect())
}

/// In f64.
pub fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// [`at_points`] in f32.
pub fn read_points(weights: Weights) -> Result<Vec<Vec<f32>>> {
    fn append<T: Element>(numbers: &[T], leaf: &Leaf, all: &mut [Vec<f32>]) {
        match leaf.displaced() {
            Some(displaced) => {
                let mut at_points = Vec::new();
                displaced.read(numbers, 0, &mut at_points);
                let at_points: Vec<f32> = at_points.into_iter().map(Element::widen).collect();
                match all {
                    // One weight at one point, as most labs have it: no copy.
                    [only] if only.is_empty() => *only = at_points,
                    _ => all.iter_mut().zip(at_points.chunks_exact(numbers.len().max(1))).for_each(|(all, x)| all.extend(x)),
                }
            }
            None => all.iter_mut().for_each(|all| all.extend(numbers.iter().map(|x| x.widen()))),
        }
    }
    let mut all = vec![Vec::new(); weights.points()];
    for (id, _) in weights.ids() {
        let leaf = weights.leaf(id);
        each_precision!(View, leaf.array().view(), numbers => append(numbers, &leaf, &mut all));
    }
    Ok(all)
}

/// All elements of all weights at theta, in order: [d].
pub fn flat(weights: Weights) -> Result<Vec<f64>> {
    Ok(at_points(weights.at_theta())?.pop().unwrap_or_default())
}

/// A gradient in R^d, returned weight by weight from the last.
pub struct DenseGradient(Vec<(ParamId, Gradient)>);

impl DenseGradient {
    /// `gradient` [d], restricted to the weights that are differentiated.
    pub fn new<T: Copy + Into<f64>>(gradient: &[T], weights: Weights) -> Self {
        let (mut start, mut all) = (0, Vec::new());
        for (id, _) in weights.ids() {
            let end = start + weights.get(id).len();
            if weights.role(id) == Role::Differentiated {
                let mut of_weight = Gradient::zeros(end - start);
                of_weight.iter_mut().zip(&gradient[start..end]).for_each(|(to, g)| *to = (*g).into() as f32);
                all.push((id, of_weight));
            }
            start = end;
        }
        DenseGradient(all)
    }

    /// Passes each weight's gradient to `add`, from the last.
    pub fn add_to(self, add: &mut dyn FnMut(ParamId, &[f32])) {
        self.0.iter().rev().for_each(|(id, gradient)| add(*id, gradient));
    }
}

impl Gradients for DenseGradient {
    fn next(&mut self, _: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>> {
        Ok(self.0.pop().map(|last| vec![last]))
    }
}
