//! The table of labs: name, source, options, constructor.

use std::path::Path;

use anyhow::Result;

use super::args::LabArgs;
use super::function::Lab;
use super::least_squares::LeastSquares;
use super::synthetic::{Form, Synthetic};
use super::trained::Trained;
use crate::base::text::nearest;

/// What a lab is made from.
pub struct LabConfig<'a> {
    /// The options of labs.
    pub args: &'a LabArgs,
    /// The folder or file of its data.
    pub data: Option<&'a Path>,
    /// The run folder of the model that it is about.
    pub model: Option<&'a Path>,
    /// Examples in the training, dev and evaluation split. None: the lab's default.
    pub sizes: [Option<usize>; 3],
    /// Seed for drawing the splits.
    pub train_set_seed: u32,
    /// Examples per step.
    pub batch_size: usize,
    /// Seed for drawing batches.
    pub seed: u64,
}

/// A lab: name, what it takes, constructor.
#[derive(Clone, Copy)]
pub struct LabKind {
    /// The value of `lab`.
    pub name: &'static str,
    /// Paper.
    pub source: &'static str,
    /// Names of the options it takes beside those of methods and runs.
    pub options: &'static [&'static str],
    /// Constructs it.
    pub open: fn(&LabConfig) -> Result<Box<dyn Lab>>,
}

impl LabKind {
    /// Whether it is a mean over examples, of which a step takes some.
    pub fn is_finite_sum(&self) -> bool {
        self.options.contains(&"batch_size")
    }
}

const R_ADAZO: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014, Figures 1 and 2";

/// All labs.
#[rustfmt::skip]
pub const LABS: &[LabKind] = &[
    LabKind { name: "quadratic", source: R_ADAZO, options: &["dimension"], open: |config| synthetic(Form::Quadratic, config) },
    LabKind { name: "cubic", source: R_ADAZO, options: &["dimension"], open: |config| synthetic(Form::Cubic, config) },
    LabKind { name: "levy", source: R_ADAZO, options: &["dimension"], open: |config| synthetic(Form::Levy, config) },
    LabKind { name: "rosenbrock", source: R_ADAZO, options: &["dimension"], open: |config| synthetic(Form::Rosenbrock, config) },
    LabKind { name: "least-squares", source: "VAMO, Chen and Ma 2025, arXiv 2505.13954", options: &["dimension", "num_train", "batch_size", "micro_batch_size"],
        open: |config| Ok(Box::new(Trained(LeastSquares::new(config.sizes[0].unwrap_or(1000), config.args.dimension.unwrap_or(100), config.batch_size)))) },
];

fn synthetic(form: Form, config: &LabConfig) -> Result<Box<dyn Lab>> {
    Ok(Box::new(Trained(Synthetic::new(form, config.args.dimension.unwrap_or(10_000))?)))
}

/// The lab of this name. An unknown name is a usage error.
pub fn kind(name: &str) -> Result<&'static LabKind> {
    LABS.iter().find(|lab| lab.name == name).ok_or_else(|| {
        let near = nearest(name, LABS.iter().map(|lab| lab.name));
        usage!("`lab` {name}: there is no lab of this name: {near}")
    })
}
