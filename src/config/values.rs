//! The types of option values.

use std::fmt;

use candle_core::DType;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::base::numbers::number;

as_typed!(Fsync);

/// Number format of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes per weight.
    #[default]
    F32,
    /// 2 bytes per weight; more precise than bf16, smaller range.
    F16,
    /// 2 bytes per weight; the range of f32, fewer digits.
    Bf16,
}

impl Precision {
    /// The dtype in candle.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// Learning rate schedule after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// The same rate in every step.
    #[default]
    Constant,
    /// Linear decay to 0.
    Linear,
    /// Cosine decay to 0.
    Cosine,
}

impl Schedule {
    /// Its name as an option value.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Linear => "linear",
            Schedule::Cosine => "cosine",
        }
    }
}

/// A learning rate as typed: a number, or auto.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum LearningRate {
    /// Searched for by short trials.
    Auto,
    /// This one.
    Fixed(f64),
}

/// [`LearningRate`] in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be a number, or \"auto\"")]
enum Written {
    Number(f64),
    Word(String),
}

impl LearningRate {
    /// The rate; None if it is to be searched for.
    pub fn fixed(self) -> Option<f64> {
        match self {
            LearningRate::Auto => None,
            LearningRate::Fixed(rate) => Some(rate),
        }
    }
}

impl std::str::FromStr for LearningRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(LearningRate::Auto),
            text => number(text).map(LearningRate::Fixed).map_err(|_| "it must be a finite number, or auto".into()),
        }
    }
}

impl TryFrom<Written> for LearningRate {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(rate) => Ok(LearningRate::Fixed(rate)),
            Written::Word(word) if word == "auto" => Ok(LearningRate::Auto),
            Written::Word(word) => Err(format!("\"{word}\": it must be a number, or \"auto\"")),
        }
    }
}

impl From<LearningRate> for Written {
    fn from(rate: LearningRate) -> Self {
        rate.fixed().map_or(Written::Word("auto".into()), Written::Number)
    }
}

/// A tracker that a run reports to while it trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracker {
    /// No tracker.
    #[default]
    None,
    /// Event files in the run's folder, for tensorboard --logdir RUN.
    Tensorboard,
}

impl Tracker {
    /// Whether it is no tracker.
    pub fn is_none(&self) -> bool {
        *self == Tracker::None
    }
}

/// When the trajectory's log is synced to disk. Killing the process loses nothing in any mode; a power failure loses
/// what is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fsync {
    /// After every record.
    Every,
    /// Within so many seconds of each record.
    Seconds(f64),
    /// When the operating system decides, and before a checkpoint.
    Never,
}

impl Default for Fsync {
    fn default() -> Self {
        Fsync::Seconds(5.0)
    }
}

impl std::str::FromStr for Fsync {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "every" => Ok(Fsync::Every),
            "never" => Ok(Fsync::Never),
            text => match text.parse() {
                Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(Fsync::Seconds(seconds)),
                _ => Err("it must be every, never, or a number of seconds".into()),
            },
        }
    }
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fsync::Every => f.write_str("every"),
            Fsync::Seconds(seconds) => write!(f, "{seconds}"),
            Fsync::Never => f.write_str("never"),
        }
    }
}
