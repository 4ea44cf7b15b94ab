//! Losses by whose cost runs are compared.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::runs::RunRecord;

/// A loss to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This loss.
    Loss(f64),
    /// This percentage of a run's dev loss before training.
    Percent(f64),
}

impl Goal {
    /// The loss that it is for a run; None if it is relative and the run has not logged its first loss.
    pub fn loss(self, run: &RunRecord) -> Option<f64> {
        match self {
            Goal::Loss(loss) => Some(loss),
            Goal::Percent(percent) => {
                let first = run.log.first().filter(|line| line.step == 0)?;
                Some(percent / 100.0 * first.dev_loss?)
            }
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Goal::Loss(loss) if *loss == 0.0 || (1e-4..1e6).contains(&loss.abs()) => write!(f, "{loss}"),
            Goal::Loss(loss) => write!(f, "{loss:e}"),
            Goal::Percent(percent) => write!(f, "{percent} % of the loss before training"),
        }
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        match text.strip_suffix('%') {
            Some(percent) => number(percent).filter(|x| *x > 0.0).map(Goal::Percent),
            None => number(text).map(Goal::Loss),
        }
        .ok_or_else(|| {
            format!("{text}: it must be a finite number, or a percentage of the loss before training such as 10%")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_loss_or_a_share_of_the_first_loss() {
        assert_eq!("0.5".parse(), Ok(Goal::Loss(0.5)));
        assert_eq!("-1e-3".parse(), Ok(Goal::Loss(-1e-3)));
        assert_eq!("10%".parse(), Ok(Goal::Percent(10.0)));
        for wrong in ["", "%", "0%", "nan", "inf%", "half", "10%%"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
    }
}
