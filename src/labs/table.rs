//! The table of labs: name, source, options, constructor.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::args::LabArgs;
use super::dataset::Dataset;
use super::function::Lab;
use super::mnist::{Attack, Classifier, DATASET, Draw, Network, Target};
use super::nonconvex::NonconvexLeastSquares;
use super::synthetic::{Form, Synthetic};
use super::trained::Trained;
use crate::base::text::nearest;

/// What a lab is made from.
pub struct LabConfig<'a> {
    /// The options of labs.
    pub args: &'a LabArgs,
    /// The folder of a data set's files: the one that is given, or else one with those of the hub.
    pub data: &'a dyn Fn(&Dataset) -> Result<PathBuf>,
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

    /// Whether its scores are the function that is minimised, rather than means over other examples.
    pub fn is_exact(&self) -> bool {
        !self.options.contains(&"num_eval")
    }
}

const R_ADAZO: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014, Figures 1 and 2";

const R_ADAZO_TABLE: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014, Table 1";

const VAMO: &str = "VAMO, Chen and Ma 2025, arXiv 2505.13954";

/// All labs.
#[rustfmt::skip]
pub const LABS: &[LabKind] = &[
    LabKind { name: "quadratic", source: R_ADAZO, options: &["dimension", "start"], open: |config| synthetic(Form::Quadratic, config) },
    LabKind { name: "cubic", source: R_ADAZO, options: &["dimension", "start"], open: |config| synthetic(Form::Cubic, config) },
    LabKind { name: "levy", source: R_ADAZO, options: &["dimension", "start"], open: |config| synthetic(Form::Levy, config) },
    LabKind { name: "rosenbrock", source: R_ADAZO, options: &["dimension", "start"], open: |config| synthetic(Form::Rosenbrock, config) },
    LabKind { name: "least-squares", source: VAMO, options: &["dimension", "num_train", "train_set_seed", "batch_size"], open: least_squares },
    LabKind { name: "mnist", source: VAMO, options: &["network", "data", "num_train", "num_dev", "num_eval", "train_set_seed", "batch_size"],
        open: mnist },
    LabKind { name: "attack", source: R_ADAZO_TABLE, options: &["model", "data", "image", "target"], open: attack },
];

fn synthetic(form: Form, config: &LabConfig) -> Result<Box<dyn Lab>> {
    Ok(Box::new(Trained(Synthetic::new(
        form,
        config.args.dimension.unwrap_or(10_000),
        config.args.start.unwrap_or_default(),
    )?)))
}

fn least_squares(config: &LabConfig) -> Result<Box<dyn Lab>> {
    let LabConfig { args, sizes, train_set_seed, batch_size, seed, .. } = *config;
    let (n, d) = (sizes[0].unwrap_or(1000), args.dimension.unwrap_or(100));
    Ok(Box::new(Trained(NonconvexLeastSquares::new(n, d, train_set_seed, batch_size, seed)?)))
}

fn mnist(config: &LabConfig) -> Result<Box<dyn Lab>> {
    let LabConfig { args, sizes, train_set_seed, batch_size, seed, .. } = *config;
    let draw = Draw { sizes, train_set_seed, batch_size, seed };
    Ok(Box::new(Trained(Classifier::open(args.network.unwrap_or(Network::Mlp), &(config.data)(&DATASET)?, draw)?)))
}

fn attack(config: &LabConfig) -> Result<Box<dyn Lab>> {
    let run = config.model.ok_or_else(|| {
        usage!("`lab` attack: `model` is missing; give the folder of a finished run of `lab mnist` with `network cnn`")
    })?;
    let target = Target { image: config.args.image.unwrap_or(0), digit: config.args.target };
    Ok(Box::new(Trained(Attack::open(run, &(config.data)(&DATASET)?, target)?)))
}

/// The lab of this name. An unknown name is a usage error.
pub fn kind(name: &str) -> Result<&'static LabKind> {
    LABS.iter().find(|lab| lab.name == name).ok_or_else(|| {
        let near = nearest(name, LABS.iter().map(|lab| lab.name));
        usage!("`lab` {name}: there is no lab of this name: {near}")
    })
}
