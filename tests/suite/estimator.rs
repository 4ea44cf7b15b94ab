//! The two-point estimate against the true gradient of a function in closed form.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::device::Array;
use zotune::device::cpu::drawn::direction;
use zotune::direction::{Direction, Term};
use zotune::params::{ParamSet, Params, Points, Weights};
use zotune::zo::estimators::TwoPoint;
use zotune::zo::methods::method;
use zotune::zo::{Distribution, Estimate, LossSum, Objective, Settings, Sides};

use crate::support::{at, at_copies};

const D: usize = 200;

const TWO: TwoPoint = TwoPoint {
    sides: Sides::Two,
    distribution: Distribution::Gaussian,
    zo_eps: 1e-3,
    num_directions: 1,
    fresh_batches: false,
};

/// f(x) = sum of a_i x_i^2 / 2 + b_i x_i with gradient a_i x_i + b_i.
struct Quadratic;

fn curvature(i: usize) -> f64 {
    1.0 + (i % 3) as f64
}

fn slope(i: usize) -> f64 {
    (i as f64 * 0.37).cos()
}

fn values(weights: Weights) -> Result<Vec<f32>> {
    Ok(weights.iter().next().unwrap().1.tensor()?.to_vec1()?)
}

impl Quadratic {
    fn loss(&mut self, weights: Weights) -> Result<f32> {
        let x = values(weights)?;
        let terms = x.iter().enumerate().map(|(i, x)| (i, f64::from(*x)));
        Ok(terms.map(|(i, x)| 0.5 * curvature(i) * x * x + slope(i) * x).sum::<f64>() as f32)
    }
}

impl Objective for Quadratic {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        Ok(at_copies(params, &points, |weights| self.loss(weights))?.into_iter().map(LossSum::of_mean).collect())
    }
}

fn start() -> Result<(Params, Vec<f64>)> {
    let x: Vec<f32> = (0..D).map(|i| (i as f32 * 0.11).sin()).collect();
    let gradient = x.iter().enumerate().map(|(i, x)| curvature(i) * f64::from(*x) + slope(i)).collect();
    let mut params = Params::new(DType::F32);
    params.insert("x", Array::of(&Tensor::new(x, &Device::Cpu)?)?)?;
    Ok((params, gradient))
}

fn slope_of(estimate: &Estimate) -> f64 {
    estimate.projected_grad().unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn one_estimate_is_the_directional_derivative_with_its_sign_and_scale() -> Result<()> {
    let (mut params, gradient) = start()?;
    for seed in 0..20 {
        let estimate = TWO.along(&[seed], &mut params, &mut Quadratic)?;
        let z: Vec<f64> = direction(seed, "x", D).into_iter().map(f64::from).collect();
        // Two-sided differences of a quadratic are exact; what is left is f32: 2e-5 of the loss over 2 eps.
        let exact = dot(&gradient, &z);
        assert!((slope_of(&estimate) - exact).abs() < 0.05, "{} is not {exact}", slope_of(&estimate));
        assert!(estimate.losses_plus[0] > estimate.losses_minus[0] || exact < 0.05, "f(x + eps z) > f(x - eps z) uphill");
        assert_eq!((estimate.terms.len(), estimate.terms[0].seed, estimate.losses().count()), (1, seed, 2));
    }
    Ok(())
}

/// q directions are the mean of q estimates, on the weights from before; one-sided ones share f(theta) and differ from
/// the slope by eps/2 times the curvature along z.
#[test]
fn several_directions_are_averaged_and_one_side_shares_its_base() -> Result<()> {
    let seeds = [3, 4, 5];
    for (sides, evaluations) in [(Sides::Two, 6), (Sides::One, 4)] {
        let (mut params, gradient) = start()?;
        let before = values(params.settle()?)?;
        let base = Quadratic.loss(params.settle()?)?;
        let estimate = TwoPoint { sides, ..TWO }.along(&seeds, &mut params, &mut Quadratic)?;
        assert_eq!(estimate.losses().count(), evaluations);
        assert_eq!(estimate.loss_base, (sides == Sides::One).then_some(base));
        for (term, seed) in estimate.terms.iter().zip(seeds) {
            let z: Vec<f64> = direction(seed, "x", D).into_iter().map(f64::from).collect();
            let bend: f64 = z.iter().enumerate().map(|(i, z)| curvature(i) * z * z).sum::<f64>() * 0.5e-3;
            let exact = (dot(&gradient, &z) + if sides == Sides::One { bend } else { 0.0 }) / 3.0;
            assert_eq!(term.seed, seed);
            assert!((f64::from(term.coeff) - exact).abs() < 0.03, "{sides:?}: {} is not {exact}", term.coeff);
        }
        let after = values(params.settle()?)?;
        let moved = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved < 1e-6, "{sides:?}: the weights are {moved} from where they were");
    }
    Ok(())
}

/// On the sphere: u = z / ||z||, slope along u, factor d. With mu = eps ||z|| it is the Gaussian estimate times d / ||z||^2.
#[test]
fn the_sphere_is_normalised_exactly_and_signs_are_signs() -> Result<()> {
    let (mut params, gradient) = start()?;
    let z: Vec<f64> = direction(7, "x", D).into_iter().map(f64::from).collect();
    let norm = dot(&z, &z).sqrt();
    assert!((params.gram(Direction::Gaussian, &[7], ParamSet::Trained)[0].sqrt() - norm).abs() < 1e-5 * norm);
    let sphere = TwoPoint { distribution: Distribution::Sphere, zo_eps: 1e-2, ..TWO };
    let term = sphere.along(&[7], &mut params, &mut Quadratic)?.terms[0];
    // g = d (grad . u) u, written along z.
    let exact = D as f64 * dot(&gradient, &z) / (norm * norm);
    assert!((f64::from(term.coeff) - exact).abs() < 0.02 * exact.abs(), "{} is not {exact}", term.coeff);

    let (mut params, _) = start()?;
    let before = values(params.settle()?)?;
    params.perturb(&[Direction::Rademacher.term(7, 1.0)]);
    let moves: Vec<f32> = values(params.settle()?)?.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert!(moves.iter().all(|m| (m.abs() - 1.0).abs() < 1e-6));
    let up = moves.iter().filter(|m| **m > 0.0).count();
    assert!((D / 2 - 40..D / 2 + 40).contains(&up), "{up} of {D} go up");
    assert!((params.gram(Direction::Rademacher, &[7], ParamSet::Trained)[0].sqrt() - (D as f64).sqrt()).abs() < 1e-9);
    Ok(())
}

#[test]
fn the_mean_of_many_estimates_is_the_gradient() -> Result<()> {
    let (mut params, gradient) = start()?;
    let n = 20_000;
    let mut mean = vec![0f64; D];
    for seed in 0..n {
        let estimate = TwoPoint { zo_eps: 1e-2, ..TWO }.along(&[seed], &mut params, &mut Quadratic)?;
        let c = slope_of(&estimate);
        direction(seed, "x", D).iter().zip(&mut mean).for_each(|(z, m)| *m += c * f64::from(*z) / n as f64);
    }
    // Each coordinate's estimate has the variance ||g||^2 + g_i^2 or less.
    let norm = dot(&gradient, &gradient).sqrt();
    let error: Vec<f64> = mean.iter().zip(&gradient).map(|(m, g)| m - g).collect();
    let expected = norm * ((D + 1) as f64 / n as f64).sqrt();
    let found = dot(&error, &error).sqrt();
    assert!((0.8..1.2).contains(&(found / expected)), "error {found}, expected about {expected}");
    let cosine = dot(&mean, &gradient) / (dot(&mean, &mean).sqrt() * norm);
    assert!(cosine > 0.99, "cosine {cosine}");
    assert!((dot(&mean, &gradient) / (norm * norm) - 1.0).abs() < 0.05, "scale");
    Ok(())
}

#[test]
fn zo_sgd_moves_by_lr_times_the_estimate() -> Result<()> {
    let (mut params, _) = start()?;
    let before = values(params.settle()?)?;
    let estimate = TWO.along(&[5], &mut params, &mut Quadratic)?;
    let settings = Settings { weight_decay: Some(0.1), ..Settings::default() };
    let mut zo_sgd = method("zo-sgd")?.make(&settings, &params)?;
    zo_sgd.rule.step(&at(1, 1e-2), &mut params, &estimate, None)?;
    let after = values(params.settle()?)?;
    let c = slope_of(&estimate);
    for (i, z) in direction(5, "x", D).iter().enumerate() {
        // x is a vector, so weight decay passes it over.
        let exact = f64::from(before[i]) - 1e-2 * c * f64::from(*z);
        assert!((f64::from(after[i]) - exact).abs() < 2e-6, "element {i}");
    }
    Ok(())
}

/// theta <- theta - lr (g + wd theta) on a matrix.
#[test]
fn zo_sgd_decays_matrices() -> Result<()> {
    let mut params = Params::new(DType::F32);
    params.insert("w", Array::of(&Tensor::full(2f32, (4, 5), &Device::Cpu)?)?)?;
    let terms = vec![Term::gaussian(1, 0.5)];
    let estimate = Estimate { terms, ..Estimate::default() };
    let settings = Settings { weight_decay: Some(0.1), ..Settings::default() };
    method("zo-sgd")?.make(&settings, &params)?.rule.step(&at(1, 1e-2), &mut params, &estimate, None)?;
    let after: Vec<f32> = params.settle()?.iter().next().unwrap().1.tensor()?.flatten_all()?.to_vec1()?;
    for (w, z) in after.iter().zip(direction(1, "w", 20)) {
        let exact = 2.0 - 1e-2 * (0.5 * f64::from(z) + 0.1 * 2.0);
        assert!((f64::from(*w) - exact).abs() < 1e-6, "{w}, not {exact}");
    }
    Ok(())
}

#[test]
fn zo_sgd_descends_a_quadratic_to_its_minimum() -> Result<()> {
    let (mut params, _) = start()?;
    let minimum: f64 = (0..D).map(|i| -0.5 * slope(i).powi(2) / curvature(i)).sum();
    let mut rule = method("zo-sgd")?.make(&Settings::default(), &params)?.rule;
    let first = f64::from(Quadratic.loss(params.settle()?)?);
    for seed in 0..4000 {
        let estimate = TWO.along(&[seed], &mut params, &mut Quadratic)?;
        rule.step(&at(seed + 1, 1e-3), &mut params, &estimate, None)?;
    }
    let last = f64::from(Quadratic.loss(params.settle()?)?);
    assert!(last - minimum < 0.01 * (first - minimum), "{first} -> {last}, minimum {minimum}");
    Ok(())
}
