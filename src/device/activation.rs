//! Activation functions.

use serde::Serialize;

/// Activation functions of the supported checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x
    None,
    /// max(x, 0)
    Relu,
    /// x/2 (1 + erf(x / sqrt 2))
    Gelu,
    /// The tanh approximation of GELU.
    GeluNew,
    /// x sigmoid(x)
    Silu,
}

impl Activation {
    /// Parses the name used in config.json; None if unknown.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "relu" => Some(Activation::Relu),
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluNew),
            "silu" | "swish" => Some(Activation::Silu),
            _ => None,
        }
    }
}
