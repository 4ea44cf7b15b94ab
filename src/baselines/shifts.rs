//! A shift for each class, added to its scores.

use serde::Serialize;

use crate::base::numbers::log_sum_exp;
use crate::prompt::Scored;

/// A shift for each class, in nats, added to its scores. What counts is their differences.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Shifts(pub Vec<f64>);

impl Shifts {
    /// The shifts that give the most right answers on `rows`, found one class at a time.
    ///
    /// All shifts begin at 0. In each round each class gets, the others held, the shift with the most right answers; rounds are
    /// repeated until one changes nothing. For two classes that is one threshold on the difference of the scores, and no threshold has
    /// more right answers. For more classes, no shift of a single class has. A shift lies in the middle between the scores of
    /// neighbouring rows, or 1 nat outside of all rows. Among equally good ones the nearest to the one before counts, then the lower.
    /// At the end the first class is shifted by 0.
    pub fn threshold(rows: &[Scored]) -> Self {
        let classes = rows.first().map_or(0, |row| row.scores.len());
        let mut shifts = Shifts(vec![0.0; classes]);
        let mut right = shifts.count_right(rows);
        loop {
            let before = right;
            for class in (1..classes).chain([0]) {
                let mut moved = shifts.clone();
                moved.0[class] = shifts.best_of(class, rows);
                // What counts is the answers, whatever the sums round to.
                let found = moved.count_right(rows);
                if found > right {
                    (shifts, right) = (moved, found);
                }
            }
            if right == before {
                break;
            }
        }
        let first = shifts.0.first().copied().unwrap_or_default();
        Shifts(shifts.0.iter().map(|shift| shift - first).collect())
    }

    /// Minus ln of the mean probability of each class over `inputs`, the scores of inputs without content.
    ///
    /// Source: Zhao et al. 2021, arXiv 2102.09690, section 5. Their diagonal matrix of 1 / p is this shift of the logarithms.
    pub fn content_free(inputs: &[Vec<f64>]) -> Self {
        let classes = inputs.first().map_or(0, Vec::len);
        let mean = |class: usize| {
            let probability = |scores: &Vec<f64>| libm::exp(scores[class] - log_sum_exp(scores.iter().copied()));
            inputs.iter().map(probability).sum::<f64>() / inputs.len() as f64
        };
        Shifts((0..classes).map(|class| -libm::log(mean(class))).collect())
    }

    /// The rows with their scores shifted, and what these predict.
    pub fn applied(&self, rows: &[Scored]) -> Vec<Scored> {
        rows.iter().map(|row| self.of(row)).collect()
    }

    fn of(&self, row: &Scored) -> Scored {
        let shifted = row.scores.iter().zip(&self.0).map(|(score, shift)| score + shift);
        Scored::of(row.index, row.label, shifted.collect())
    }

    fn count_right(&self, rows: &[Scored]) -> usize {
        rows.iter().map(|row| self.of(row)).filter(|row| row.prediction == row.label).count()
    }

    /// The shift of `class` with the most right answers, the others held.
    fn best_of(&self, class: usize, rows: &[Scored]) -> f64 {
        // A row answers `class` if the shift is above its gap; each shift between two gaps gives the same answers.
        let mut gaps: Vec<(f64, i64)> = rows.iter().map(|row| self.gap(class, row)).collect();
        gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some((lowest, _)), Some((highest, _))) = (gaps.first(), gaps.last()) else { return self.0[class] };
        let mut cuts = vec![(lowest - 1.0, 0)];
        let mut gain = 0;
        for (i, (gap, change)) in gaps.iter().enumerate() {
            gain += change;
            let next = gaps.get(i + 1).map_or(highest + 2.0, |(next, _)| *next);
            let middle = gap + (next - gap) / 2.0;
            if *gap < middle && middle < next {
                cuts.push((middle, gain));
            }
        }
        let distance = |cut: f64| (cut - self.0[class]).abs();
        let better = |best: (f64, i64), cut: (f64, i64)| {
            if cut.1 > best.1 || cut.1 == best.1 && distance(cut.0) < distance(best.0) { cut } else { best }
        };
        cuts.into_iter().reduce(better).map_or(self.0[class], |(cut, _)| cut)
    }

    /// The shift above which `row` answers `class`, and how many right answers that adds: 1, 0 or -1.
    fn gap(&self, class: usize, row: &Scored) -> (f64, i64) {
        let mut without = self.of(row).scores;
        without[class] = f64::NEG_INFINITY;
        let other = Scored::of(row.index, row.label, without);
        let gap = other.scores[other.prediction] - row.scores[class];
        (gap, i64::from(row.label == class) - i64::from(row.label == other.prediction))
    }
}
