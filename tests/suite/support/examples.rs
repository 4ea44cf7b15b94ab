//! Examples, steps and points to evaluate at.

use anyhow::Result;
use zotune::base::Digest;
use zotune::data::{Candidate, Example};
use zotune::direction::Term;
use zotune::params::{Params, Points, Weights};
use zotune::zo::StepContext;

/// An example made of a prompt and answers, as tokens.
pub fn example(label: usize, prompt: &[u32], answers: &[&[u32]]) -> Example {
    let candidates = answers
        .iter()
        .map(|a| Candidate { tokens: prompt.iter().chain(*a).copied().collect(), option_len: a.len() })
        .collect();
    Example { index: 0, label, candidates, cut: false, shortened: false, row: Digest(0) }
}

/// The `step`-th step, from 1, of a run seeded 5.
pub fn at(step: u64, learning_rate: f32) -> StepContext {
    StepContext { step, run_seed: 5, learning_rate }
}

/// A function's values at points near the weights: at copies that walk there.
pub fn at_copies(params: &mut Params, points: &Points, mut loss: impl FnMut(Weights) -> Result<f32>) -> Result<Vec<f32>> {
    params.settle()?;
    let look = |terms: Vec<Term>| {
        let mut there = params.copy()?;
        there.perturb_over(points.set(), &terms);
        loss(there.settle()?)
    };
    points.each().map(look).collect()
}
