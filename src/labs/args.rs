//! The options of labs.

use clap::Args;
use serde::{Deserialize, Serialize};

/// The options that select a lab. None: not given.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct LabArgs {
    /// Train the weights of this function instead of a language model: quadratic, cubic, levy, rosenbrock, least-squares
    #[arg(long, value_name = "NAME", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// Number of variables d of a function in R^d [default: 10000; least-squares: 100]
    #[arg(long, value_name = "D", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
}
