//! Curves of runs and of groups, and where a run reaches a loss.

use super::groups::Group;
use super::runs::RunRecord;
use crate::run::alignment::Alignment;

/// What the x axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Updates.
    Steps,
    /// Function evaluations; a backward pass counts as two.
    Evaluations,
    /// Tokens fed in forward passes.
    Tokens,
    /// Wall time since the start of training.
    Seconds,
}

/// All axes.
pub const AXES: [Axis; 4] = [Axis::Steps, Axis::Evaluations, Axis::Tokens, Axis::Seconds];

impl Axis {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Steps => "steps",
            Axis::Evaluations => "evaluations",
            Axis::Tokens => "tokens",
            Axis::Seconds => "seconds",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Axis::Steps => "steps",
            Axis::Evaluations => "function evaluations",
            Axis::Tokens => "tokens",
            Axis::Seconds => "seconds",
        }
    }
}

/// What the y axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The running mean of the training loss.
    TrainLoss,
    /// The loss on the dev split.
    DevLoss,
    /// The accuracy there, in percent.
    DevAccuracy,
    /// The norm of the gradient of the function that is minimised.
    GradientNorm,
    /// The norm of VAMO's correction divided by that of the mini-batch gradient.
    CorrectionRatio,
    /// The cosine between estimate and true gradient.
    GradientCosine,
    /// The cosine between the estimate's first moment and the true gradient.
    MomentCosine,
    /// The relative error of R-AdaZO's second moment.
    SquaredMomentError,
    /// The relative error of ZO-AdaMM's second moment.
    SquaredGradientError,
}

/// All measures.
pub const MEASURES: [Measure; 9] = [
    Measure::TrainLoss,
    Measure::DevLoss,
    Measure::DevAccuracy,
    Measure::GradientNorm,
    Measure::CorrectionRatio,
    Measure::GradientCosine,
    Measure::MomentCosine,
    Measure::SquaredMomentError,
    Measure::SquaredGradientError,
];

impl Measure {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Measure::TrainLoss => "train-loss",
            Measure::DevLoss => "dev-loss",
            Measure::DevAccuracy => "dev-accuracy",
            Measure::GradientNorm => "gradient-norm",
            Measure::CorrectionRatio => "correction-ratio",
            Measure::GradientCosine => "gradient-cosine",
            Measure::MomentCosine => "moment-cosine",
            Measure::SquaredMomentError => "squared-moment-error",
            Measure::SquaredGradientError => "squared-gradient-error",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Measure::TrainLoss => "training loss",
            Measure::DevLoss => "dev loss",
            Measure::DevAccuracy => "dev accuracy",
            Measure::GradientNorm => "gradient norm",
            Measure::CorrectionRatio => "VAMO's correction beside the mini-batch gradient",
            Measure::GradientCosine => "cosine of the estimate with the true gradient",
            Measure::MomentCosine => "cosine of the first moment with the true gradient",
            Measure::SquaredMomentError => "relative error of the mean of m^2",
            Measure::SquaredGradientError => "relative error of the mean of g^2",
        }
    }

    /// The label of its axis: the name with the unit.
    pub fn label(self) -> &'static str {
        match self {
            Measure::TrainLoss => "training loss (nats)",
            Measure::DevLoss => "dev loss (nats)",
            Measure::DevAccuracy => "dev accuracy (%)",
            Measure::GradientNorm => "|grad f(x)|",
            Measure::CorrectionRatio => "|correction| / |gradient|",
            Measure::GradientCosine => "cos(g, true gradient)",
            Measure::MomentCosine => "cos(m, true gradient)",
            Measure::SquaredMomentError | Measure::SquaredGradientError => "|v - V| / |V|",
        }
    }

    /// Whether it is known by step alone.
    pub fn is_by_step(self) -> bool {
        use Measure::{GradientCosine, MomentCosine, SquaredGradientError, SquaredMomentError};
        matches!(self, GradientCosine | MomentCosine | SquaredMomentError | SquaredGradientError)
    }
}

/// A point of one run's curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Updates made.
    pub step: u64,
    /// What was spent by then, in the order of [`AXES`].
    pub spent: [f64; 4],
    /// The measure.
    pub value: f64,
}

/// A point of a group's curve: the mean over its runs, the least and the largest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The mean of what was spent, in the order of [`AXES`].
    pub spent: [f64; 4],
    /// The mean of the measure.
    pub mean: f64,
    /// The least.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// The number of steps of a run's running mean: a tenth of the steps it is to make, as of its `train_loss`; at least one.
pub fn window(run: &RunRecord) -> u64 {
    run.config.max_steps.div_ceil(10).max(1)
}

/// The curve of a run. That of the training loss begins where its running mean is over the whole window, if it has come so far.
pub fn of_run(run: &RunRecord, measure: Measure) -> Vec<Point> {
    let point = |at: usize, value: f64| {
        let line = &run.log[at];
        let evaluations = run.evaluations(line.function_evaluations, line.backwards);
        Point { step: line.step, spent: [line.step as f64, evaluations, line.tokens as f64, line.seconds], value }
    };
    let all = 0..run.log.len();
    let compared = |of: fn(&Alignment) -> f64| {
        let point = |a: &Alignment| Point { step: a.step, spent: [a.step as f64, 0.0, 0.0, 0.0], value: of(a) };
        run.alignments.iter().map(point).filter(|point| point.value.is_finite()).collect()
    };
    match measure {
        Measure::GradientCosine => compared(|a| a.gradient_cosine),
        Measure::MomentCosine => compared(|a| a.moment_cosine),
        Measure::SquaredMomentError => compared(|a| a.error_of_squared_moment),
        Measure::SquaredGradientError => compared(|a| a.error_of_squared_gradient),
        Measure::TrainLoss => {
            let means = all.filter_map(|at| Some(point(at, running_mean(run, at)?)));
            let means: Vec<Point> = means.filter(|point| point.value.is_finite()).collect();
            let begin = means.partition_point(|point| point.step < window(run));
            if begin < means.len() { means[begin..].to_vec() } else { means }
        }
        Measure::DevLoss => all.filter_map(|at| Some(point(at, run.log[at].dev_loss?))).collect(),
        Measure::DevAccuracy => all.filter_map(|at| Some(point(at, 100.0 * run.log[at].dev_accuracy?))).collect(),
        Measure::GradientNorm => all.filter_map(|at| Some(point(at, run.log[at].gradient_norm?))).collect(),
        Measure::CorrectionRatio => all.filter_map(|at| Some(point(at, run.log[at].correction_ratio?))).collect(),
    }
}

/// The mean training loss of the last [`window`] steps up to line `at`, or of all steps if there are fewer. A line has the
/// mean over the steps since the line before; of the oldest line as many steps count as are in the window.
fn running_mean(run: &RunRecord, at: usize) -> Option<f64> {
    run.log[at].loss?;
    let begin = run.log[at].step.saturating_sub(window(run));
    let (mut sum, mut count) = (0.0, 0.0);
    for i in (0..=at).rev() {
        let line = &run.log[i];
        if line.step <= begin {
            break;
        }
        let before = if i == 0 { 0 } else { run.log[i - 1].step };
        let steps = (line.step - before.max(begin)) as f64;
        if let Some(loss) = line.loss {
            sum += steps * loss;
            count += steps;
        }
    }
    Some(sum / count)
}

/// The points at which the running mean is over its whole window; of a function that is scored exactly, its scores.
pub fn settled(run: &RunRecord) -> impl Iterator<Item = Point> {
    let (measure, begin) = if run.is_exact() { (Measure::DevLoss, 0) } else { (Measure::TrainLoss, window(run)) };
    of_run(run, measure).into_iter().filter(move |point| point.step >= begin)
}

/// What a run had spent at the first line of its log whose running mean, over its whole window, is at or below `loss`; of a
/// function that is scored exactly, at its first such score.
pub fn reaches(run: &RunRecord, loss: f64) -> Option<Point> {
    settled(run).find(|point| point.value <= loss)
}

/// The lowest loss that every run reaches in the sense of [`reaches`]; None if one has not got so far as to reach any. Rounded up to
/// four digits, unless a run begins below that.
pub fn common_loss<'a>(runs: impl Iterator<Item = &'a RunRecord>) -> Option<f64> {
    let (mut highest, mut least_begin) = (f64::NEG_INFINITY, f64::INFINITY);
    for run in runs {
        let mut points = settled(run).peekable();
        least_begin = least_begin.min(points.peek()?.value);
        let (lowest, last) = points.fold((f64::INFINITY, 0), |(lowest, _), point| (lowest.min(point.value), point.step));
        highest = highest.max((last > 0).then_some(lowest)?);
    }
    let rounded = highest.is_finite().then(|| rounded_up(highest))?;
    Some(if highest < least_begin && least_begin <= rounded { highest } else { rounded })
}

/// Rounded up to four significant digits.
fn rounded_up(x: f64) -> f64 {
    let nearest = format!("{x:.3e}");
    let number = |text: &str| text.parse().unwrap_or(x);
    match (number(&nearest), nearest.split_once('e')) {
        (below, Some((digits, exponent))) if below < x => number(&format!("{:.3}e{exponent}", number(digits) + 1e-3)),
        (above, _) => above,
    }
}

/// The curve of a group: at every step at which one of its runs has a point, from where all have one to where the shortest ends.
/// Between points a run's curve is a straight line. Runs without a point are left out.
pub fn of_group(group: &Group, measure: Measure) -> Vec<Band> {
    let curves: Vec<Vec<Point>> = group.runs.iter().map(|run| of_run(run, measure)).filter(|c| !c.is_empty()).collect();
    let first = curves.iter().filter_map(|curve| curve.first()).map(|point| point.step).max().unwrap_or(0);
    let last = curves.iter().filter_map(|curve| curve.last()).map(|point| point.step).min().unwrap_or(0);
    let mut steps: Vec<u64> = curves.iter().flatten().map(|p| p.step).filter(|s| (first..=last).contains(s)).collect();
    steps.sort_unstable();
    steps.dedup();
    steps.into_iter().filter_map(|step| band(&curves, step)).collect()
}

fn band(curves: &[Vec<Point>], step: u64) -> Option<Band> {
    let points: Vec<Point> = curves.iter().map(|curve| between(curve, step)).collect::<Option<_>>()?;
    let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let values = || points.iter().map(|point| point.value);
    Some(Band {
        spent: std::array::from_fn(|axis| mean(&|point| point.spent[axis])),
        mean: mean(&|point| point.value),
        low: values().reduce(f64::min)?,
        high: values().reduce(f64::max)?,
    })
}

/// A curve at a step between its first and its last.
fn between(curve: &[Point], step: u64) -> Option<Point> {
    let at = curve.partition_point(|point| point.step < step);
    let next = curve.get(at)?;
    if next.step == step {
        return Some(*next);
    }
    let before = curve.get(at.checked_sub(1)?)?;
    let share = (step - before.step) as f64 / (next.step - before.step) as f64;
    let mix = |a: f64, b: f64| a + share * (b - a);
    Some(Point {
        step,
        spent: std::array::from_fn(|axis| mix(before.spent[axis], next.spent[axis])),
        value: mix(before.value, next.value),
    })
}

/// At most `most` points, evenly spread by index, with the first and the last.
pub fn thinned<T: Copy>(points: &[T], most: usize) -> Vec<T> {
    let last = points.len().saturating_sub(1);
    if points.len() <= most || most < 2 {
        return points.to_vec();
    }
    (0..most).map(|i| points[i * last / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_rounded_up_to_four_digits() {
        for (x, expected) in [
            (0.61657, 0.6166),
            (4.18086, 4.181),
            (3.1841e-6, 3.185e-6),
            (-0.12345, -0.1234),
            (123_456.0, 123_500.0),
            (0.0, 0.0),
        ] {
            assert_eq!(rounded_up(x), expected);
            assert!(rounded_up(x) >= x);
        }
        for exact in [0.375, 0.3793, 0.4996, 9.999, 1e-320] {
            assert_eq!(rounded_up(exact), exact);
        }
        assert_eq!([rounded_up(0.49960000000000004), rounded_up(9.9991)], [0.4997, 10.0]);
    }
}
