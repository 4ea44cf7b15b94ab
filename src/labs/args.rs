//! The options of labs.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::mnist::Network;
use super::synthetic::StartDistribution;

/// The options that select a lab. None: not given.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct LabArgs {
    /// Train the weights of this function instead of a language model: quadratic, cubic, levy, rosenbrock, least-squares, mnist,
    /// attack
    #[arg(long, value_name = "NAME", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// Number of variables d of a function in R^d [default: 10000; least-squares: 100]
    #[arg(long, value_name = "D", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
    /// quadratic, cubic, levy, rosenbrock: the distribution of x before the first step [default: gaussian]
    #[arg(long, help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StartDistribution>,
    /// mnist: the network, 784-128-10 (mlp) or two convolutions before two layers (cnn) [default: mlp]
    #[arg(long, help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// attack: the test image, counted from 0 [default: 0]
    #[arg(long, value_name = "N", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<usize>,
    /// attack: the digit that the network shall see [default: the one after the image's, 0 after 9]
    #[arg(long, value_name = "DIGIT", help_heading = "Labs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<usize>,
}
