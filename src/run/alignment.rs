//! How well a lab's run knows its gradient: its estimates and their moments beside those of true gradients (Figure 2 of R-AdaZO,
//! Shu et al. 2025, arXiv 2502.01014). The run is replayed from its log.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

use super::lab_run::OpenedLab;
use super::setup::make_method;
use super::trajectory::Trajectory;
use crate::base::files;
use crate::device::cpu::drawn::drawn;
use crate::direction::Term;
use crate::params::Params;
use crate::zo::RecordedProblem;

/// The file of the comparison in a run's folder.
pub const FILE: &str = "alignment.jsonl";

/// The comparison after a step. With g_t the estimate of the true gradient G_t = grad f(theta_t), m_t = b1 m_{t-1} + (1 - b1) g_t,
/// and V_t = b2 V_{t-1} + (1 - b2) G_t^2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Updates made.
    pub step: u64,
    /// Cosine of the angle between g_t and G_t; NaN if one of them is 0, as null in the file.
    #[serde(deserialize_with = "nan_if_null")]
    pub gradient_cosine: f64,
    /// Cosine of the angle between m_t and G_t.
    #[serde(deserialize_with = "nan_if_null")]
    pub moment_cosine: f64,
    /// |v_t - V_t| / |V_t| with R-AdaZO's v_t = b2 v_{t-1} + (1 - b2) m_t^2.
    #[serde(deserialize_with = "nan_if_null")]
    pub error_of_squared_moment: f64,
    /// The same with ZO-AdaMM's v_t = b2 v_{t-1} + (1 - b2) g_t^2.
    #[serde(deserialize_with = "nan_if_null")]
    pub error_of_squared_gradient: f64,
}

fn nan_if_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Reads the comparison of a run, if there is one.
pub fn read(folder: &Path) -> Result<Vec<Alignment>> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line =
        |(i, line): (usize, &str)| serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1));
    text.lines().enumerate().map(line).collect()
}

/// Whether the comparison of a run can be read and reaches as far as the run does.
pub fn is_current(folder: &Path) -> Result<bool> {
    let Ok(compared) = read(folder) else { return Ok(false) };
    let trajectory = Trajectory::open(folder)?;
    let every = trajectory.config().logging_steps;
    let end = compared.last().map_or(0, |last| last.step);
    Ok(folder.join(FILE).is_file() && end == trajectory.steps() / every * every)
}

/// Compares at every logged step of the run in `folder`, and writes the file. The run must be a lab's that replays.
pub fn compare(folder: &Path) -> Result<Vec<Alignment>> {
    let trajectory = Trajectory::open(folder)?;
    let config = trajectory.config();
    if config.lab.lab.is_none() {
        return Err(usage!("{}: a language model's run; true gradients are compared for labs alone", folder.display()));
    }
    trajectory.check_replays()?;
    let every = config.logging_steps;
    let mut opened = OpenedLab::open(config)?;
    trajectory.header.check_continues(&mut opened.params, &*opened.lab)?;
    let OpenedLab { config, lab, mut params } = opened;
    let mut optimizer = make_method(&config, &mut params)?;
    let mut problem = lab.problem();
    let (b1, b2) = (config.settings.beta1.unwrap_or(0.9), config.settings.beta2.unwrap_or(0.99));
    let mut moments = Moments::default();
    let mut compared = Vec::new();
    for step in 1..=trajectory.steps() {
        let at = config.step_context(step);
        problem.begin(step);
        let truth = lab.gradient(params.settle()?)?.ok_or_else(|| unknown(folder))?;
        let evaluated = RefCell::default();
        let mut recorded = RecordedProblem::new(&mut *problem, trajectory.values(step), &evaluated);
        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, &mut params, &mut recorded)?;
        let terms = [&estimate.terms[..], &estimate.correction].concat();
        moments.add(&dense(&terms, &params), &truth, b1, b2);
        optimizer.rule.step(&at, &mut params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);
        trajectory.check(step, &mut params)?;
        if step.is_multiple_of(every) {
            compared.push(moments.alignment(step));
        }
    }
    let lines: String =
        compared.iter().map(|a| serde_json::to_string(a).map(|line| line + "\n")).collect::<Result<_, _>>()?;
    files::write_bytes(&folder.join(FILE), lines.as_bytes())?;
    Ok(compared)
}

fn unknown(folder: &Path) -> anyhow::Error {
    usage!("{}: the true gradient of this lab is not known exactly", folder.display())
}

/// sum of coeff * z(seed), all weights in order: [d].
fn dense(terms: &[Term], params: &Params) -> Vec<f64> {
    let mut gradient = Vec::new();
    for (id, name) in params.ids() {
        let start = gradient.len();
        gradient.resize(start + params.len(id), 0.0);
        for term in terms {
            let z = drawn(term.direction, term.seed, name, params.len(id));
            gradient[start..].iter_mut().zip(z).for_each(|(g, z)| *g += f64::from(term.coeff) * f64::from(z));
        }
    }
    gradient
}

/// Moments of estimates and of true gradients: each [d].
#[derive(Default)]
struct Moments {
    gradient: Vec<f64>,
    truth: Vec<f64>,
    first: Vec<f64>,
    of_moment: Vec<f64>,
    of_gradient: Vec<f64>,
    of_truth: Vec<f64>,
}

impl Moments {
    fn add(&mut self, gradient: &[f64], truth: &[f64], b1: f64, b2: f64) {
        let average = |mean: &mut Vec<f64>, values: &mut dyn Iterator<Item = f64>, keep: f64| {
            mean.resize(gradient.len(), 0.0);
            mean.iter_mut().zip(values).for_each(|(mean, value)| *mean = keep * *mean + (1.0 - keep) * value);
        };
        average(&mut self.first, &mut gradient.iter().copied(), b1);
        average(&mut self.of_moment, &mut self.first.iter().map(|m| m * m), b2);
        average(&mut self.of_gradient, &mut gradient.iter().map(|g| g * g), b2);
        average(&mut self.of_truth, &mut truth.iter().map(|g| g * g), b2);
        (self.gradient, self.truth) = (gradient.to_vec(), truth.to_vec());
    }

    fn alignment(&self, step: u64) -> Alignment {
        Alignment {
            step,
            gradient_cosine: cosine(&self.gradient, &self.truth),
            moment_cosine: cosine(&self.first, &self.truth),
            error_of_squared_moment: relative_error(&self.of_moment, &self.of_truth),
            error_of_squared_gradient: relative_error(&self.of_gradient, &self.of_truth),
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn relative_error(of: &[f64], truth: &[f64]) -> f64 {
    let off: f64 = of.iter().zip(truth).map(|(a, b)| (a - b).powi(2)).sum();
    (off / dot(truth, truth)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand with b1 = b2 = 1/2: m = (1/2, 1/2), then (1/4, 3/4).
    #[test]
    fn moments_are_running_means() {
        let mut moments = Moments::default();
        moments.add(&[1.0, 1.0], &[2.0, 0.0], 0.5, 0.5);
        moments.add(&[0.0, 1.0], &[0.0, 2.0], 0.5, 0.5);
        let found = moments.alignment(2);
        assert_eq!((found.step, found.gradient_cosine), (2, 1.0));
        assert!((found.moment_cosine - 0.75 / (0.625f64).sqrt()).abs() < 1e-15);
        // V: (2, 0), then (1, 2). Of m^2: (1/8, 1/8), then (3/32, 11/32). Of g^2: (1/2, 1/2), then (1/4, 3/4).
        let error = |v: [f64; 2]| ((v[0] - 1.0).powi(2) + (v[1] - 2.0).powi(2)).sqrt() / 5f64.sqrt();
        assert!((found.error_of_squared_moment - error([3.0 / 32.0, 11.0 / 32.0])).abs() < 1e-15);
        assert!((found.error_of_squared_gradient - error([0.25, 0.75])).abs() < 1e-15);
    }
}
