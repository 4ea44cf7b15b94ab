//! Calibration: the shifts from rows that chose nothing, applied to those that are reported.

use clap::ValueEnum;
use serde::Serialize;

use super::judgement::Judgement;
use super::shifts::Shifts;
use crate::prompt::Scored;

/// The inputs without content of Zhao et al. 2021 (arXiv 2102.09690).
pub const CONTENT_FREE: [&str; 3] = ["N/A", "[MASK]", ""];

/// Where the shifts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// No shifts.
    #[default]
    None,
    /// The shifts that give the most right answers on the training rows.
    Threshold,
    /// Minus ln of the mean probability of each class after prompts without content.
    ContentFree,
}

impl Calibration {
    /// Its name as an option value.
    pub fn name(self) -> &'static str {
        match self {
            Calibration::None => "none",
            Calibration::Threshold => "threshold",
            Calibration::ContentFree => "content-free",
        }
    }
}

/// The answers with shifted scores.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// Where the shifts come from.
    pub kind: Calibration,
    /// The shift of each class.
    pub shifts: Shifts,
    /// The number of rows or inputs that the shifts were found on.
    pub fitted_on: usize,
    /// The accuracy on the training rows without shifts and with them, if the shifts were found on training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<[f64; 2]>,
    /// How good the answers with the shifts are.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// The scores with them, in the order of the rows.
    #[serde(skip)]
    pub examples: Vec<Scored>,
}

impl Calibrated {
    /// Of `rows`, with the shifts that `kind` finds on the scores of `found_on`: training rows, or inputs without content.
    pub fn of(kind: Calibration, found_on: &[Scored], rows: &[Scored]) -> Self {
        let classes = rows.first().map_or(0, |row| row.scores.len());
        let shifts = match kind {
            Calibration::None => Shifts(vec![0.0; classes]),
            Calibration::Threshold => Shifts::threshold(found_on),
            Calibration::ContentFree => {
                Shifts::content_free(&found_on.iter().map(|row| row.scores.clone()).collect::<Vec<_>>())
            }
        };
        let on_train = |rows: &[Scored]| Judgement::of(rows).accuracy;
        let train_accuracy =
            (kind == Calibration::Threshold).then(|| [on_train(found_on), on_train(&shifts.applied(found_on))]);
        let examples = shifts.applied(rows);
        let judgement = Judgement::of(&examples);
        Calibrated { kind, shifts, fitted_on: found_on.len(), train_accuracy, judgement, examples }
    }
}
