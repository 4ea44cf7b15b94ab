//! Methods that look at the whole training set now and then: VAMO, SVRG, MeZO-SVRG.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::device::Array;
use zotune::device::cpu::drawn::direction;
use zotune::direction::Term;
use zotune::direction::seed::direction_seed;
use zotune::params::{ParamSet, Params, Role};
use zotune::zo::estimators::TwoPoint;
use zotune::zo::methods::method;
use zotune::zo::{Distribution, Estimate, Optimizer, Problem, Settings, Sides};

use crate::support::{LeastSquares, at, flat};

const N: usize = 12;
const D: usize = 30;

fn params() -> Result<Params> {
    params_in(DType::F32)
}

fn params_in(dtype: DType) -> Result<Params> {
    let mut params = Params::new(dtype);
    let x: Vec<f32> = (0..D).map(|i| (i as f32 * 0.3).cos()).collect();
    let id = params.insert("x", Array::of(&Tensor::new(x, &Device::Cpu)?.to_dtype(dtype)?)?)?;
    params.set_role(id, Role::Differentiated);
    Ok(params)
}

fn vamo(params: &Params, settings: Settings) -> Result<Optimizer> {
    let method = method("vamo")?;
    let settings = method.resolve(&settings, 1e-3, params.count_over(ParamSet::Trained), 0, 4);
    method.make(&settings, params)
}

/// sum of coeff * z over dense vectors.
fn dense(terms: &[Term]) -> Vec<f64> {
    let mut sum = vec![0.0; D];
    for term in terms {
        let z = direction(term.seed, "x", D);
        sum.iter_mut().zip(z).for_each(|(s, z)| *s += f64::from(term.coeff) * f64::from(z));
    }
    sum
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// A look at the whole training set leaves theta where it is, to the bit, in half precision too.
#[test]
fn a_snapshot_moves_no_weight() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for name in ["vamo", "svrg", "mezo-svrg"] {
            let (method, mut params) = (method(name)?, params_in(dtype)?);
            if name == "mezo-svrg" {
                params
                    .ids()
                    .map(|(id, _)| id)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|id| params.set_role(id, Role::Estimated));
            }
            let estimated = params.count_over(ParamSet::Estimated);
            let mut optimizer = method.make(&method.resolve(&Settings::default(), 1e-2, D, estimated, 4), &params)?;
            let before = flat(params.settle()?)?;
            let mut problem = LeastSquares::new(N, D, 4);
            let (estimate, gradients) = optimizer.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
            assert!(estimate.snapshot.is_some(), "{name}");
            drop(gradients);
            assert!(flat(params.settle()?)? == before, "{name}, {dtype:?}");
        }
    }
    Ok(())
}

/// The correction of every mini-batch, from its definition; they add up to nothing, and the log's length is theirs.
#[test]
fn vamos_correction_is_its_definition_and_has_mean_zero() -> Result<()> {
    for distribution in [Distribution::Sphere, Distribution::Gaussian] {
        for sides in [Sides::One, Sides::Two] {
            let mut params = params()?;
            let x = flat(params.settle()?)?;
            let (alpha, mu, q) = (0.7, 1e-2, 3);
            let settings = Settings {
                alpha: Some(alpha),
                zo_eps: Some(mu),
                num_directions: Some(q),
                snapshot_steps: Some(100),
                distribution: Some(distribution),
                perturbation_mode: Some(sides),
                ..Settings::default()
            };
            let mut optimizer = vamo(&params, settings)?;
            let mut problem = LeastSquares::new(N, D, 4);
            let mut sum = vec![0.0; D];
            for step in 1..=3 {
                problem.turn_to_step(step);
                let (estimate, gradients) = optimizer.estimator.estimate(&at(step, 0.1), &mut params, &mut problem)?;
                assert!(gradients.is_some() && estimate.terms.is_empty());
                drop(gradients);
                assert_eq!(estimate.snapshot.is_some(), step == 1);
                if let Some(report) = estimate.snapshot {
                    let looks = if sides == Sides::One { q + 1 } else { 2 * q };
                    assert_eq!((report.num_directions, report.example_evaluations), (q, (looks * N) as u64));
                }
                // ZOgrad f_i(x) = (d/mu) [f_i(x + mu u) - f_i(x)] u, the mean over q directions.
                let mut expected = vec![0.0; D];
                for k in 0..q as u64 {
                    let z = direction(direction_seed(5, 1, (1 << 32) + k), "x", D);
                    let norm = z.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>().sqrt();
                    let (length, factor) = match distribution {
                        Distribution::Sphere => (norm, D as f64),
                        _ => (1.0, 1.0),
                    };
                    let u: Vec<f64> = z.iter().map(|z| f64::from(*z) / length).collect();
                    let ahead: Vec<f64> = x.iter().zip(&u).map(|(x, u)| x + mu * u).collect();
                    let behind: Vec<f64> = x.iter().zip(&u).map(|(x, u)| x - mu * u).collect();
                    let slope = |i: usize| match sides {
                        Sides::One => (problem.value(i, &ahead) - problem.value(i, &x)) / mu,
                        Sides::Two => (problem.value(i, &ahead) - problem.value(i, &behind)) / (2.0 * mu),
                    };
                    let of_batch = problem.batch.iter().map(|&i| slope(i)).sum::<f64>() / 4.0;
                    let of_all = (0..N).map(slope).sum::<f64>() / N as f64;
                    let coeff = -alpha * factor / q as f64 * (of_batch - of_all);
                    expected.iter_mut().zip(&u).for_each(|(e, u)| *e += coeff * u);
                }
                let found = dense(&estimate.correction);
                let off: Vec<f64> = found.iter().zip(&expected).map(|(f, e)| f - e).collect();
                assert!(
                    largest(&off) < 1e-3 * largest(&expected),
                    "{distribution:?} {sides:?}: {found:?}, not {expected:?}"
                );
                let norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!((estimate.correction_norm.unwrap() - norm).abs() < 1e-4 * norm);
                sum.iter_mut().zip(&found).for_each(|(s, f)| *s += f / 3.0);
            }
            assert!(largest(&sum) < 1e-5, "{distribution:?} {sides:?}: the mean correction is {sum:?}");
        }
    }
    Ok(())
}

/// With many directions and mu -> 0 the ZO gradients become the gradients and, at alpha = 1, v becomes SVRG's. The mean over q
/// Gaussian directions errs by sqrt((d+1)/q) of the correction's length.
#[test]
fn with_many_directions_vamo_becomes_svrg() -> Result<()> {
    let mut params = params()?;
    let x = flat(params.settle()?)?;
    let q = 3000;
    let settings = Settings {
        alpha: Some(1.0),
        zo_eps: Some(1e-2),
        num_directions: Some(q),
        perturbation_mode: Some(Sides::Two),
        distribution: Some(Distribution::Sphere),
        ..Settings::default()
    };
    let mut problem = LeastSquares::new(N, D, 4);
    let (estimate, _) = vamo(&params, settings)?.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
    let all: Vec<usize> = (0..N).collect();
    let (of_batch, of_all) = (problem.gradient(&[0, 1, 2, 3], &x), problem.gradient(&all, &x));
    let svrg: Vec<f64> = of_all.iter().zip(&of_batch).map(|(all, batch)| all - batch).collect();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off: Vec<f64> = dense(&estimate.correction).iter().zip(&svrg).map(|(f, e)| f - e).collect();
    let expected = (D as f64 / q as f64).sqrt();
    let found = norm(&off) / norm(&svrg);
    assert!((0.5 * expected..1.5 * expected).contains(&found), "{found}, expected about {expected}");
    Ok(())
}

/// q = d directions along the coordinates: on the one weight that is not frozen, the unit sphere is its axis. VAMO's correction
/// is then SVRG's, coordinate by coordinate.
#[test]
fn with_the_coordinates_as_directions_vamo_is_svrg() -> Result<()> {
    const SIDE: usize = 6;
    let mut problem = LeastSquares::new(N, SIDE, 4);
    let x: Vec<f64> = (0..SIDE).map(|i| (i as f64 * 0.3).cos()).collect();
    let all: Vec<usize> = (0..N).collect();
    let svrg: Vec<f64> =
        problem.gradient(&all, &x).iter().zip(problem.gradient(&[0, 1, 2, 3], &x)).map(|(all, batch)| all - batch).collect();
    for mu in [1e-1, 1e-2] {
        for (axis, expected) in svrg.iter().enumerate() {
            let mut params = Params::new(DType::F32);
            for (i, x) in x.iter().enumerate() {
                let id = params.insert(&format!("x{i}"), Array::of(&Tensor::new(&[*x as f32], &Device::Cpu)?)?)?;
                params.set_role(id, if i == axis { Role::Differentiated } else { Role::Frozen });
            }
            let settings = Settings { alpha: Some(1.0), zo_eps: Some(mu), ..Settings::default() };
            let (estimate, _) = vamo(&params, settings)?.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
            let term = estimate.correction[0];
            let found = f64::from(term.coeff) * f64::from(direction(term.seed, &format!("x{axis}"), 1)[0]);
            // One-sided: what is left is mu/2 times a difference of curvatures, at most 1.
            assert!((found - expected).abs() < 0.5 * mu + 1e-5, "mu {mu}, coordinate {axis}: {found}, not {expected}");
        }
    }
    Ok(())
}

/// The first number of directions, from the least to the most, at which the standard error of the slopes' means, relative to the means, is
/// no more than the tolerance. Here from the functions' values in f64, for every tolerance that tells two numbers apart.
#[test]
fn adaptive_q_stops_where_the_slopes_are_known() -> Result<()> {
    const MOST: usize = 7;
    let mu = 1e-2;
    let problem = LeastSquares::new(N, D, 4);
    let x = flat(params()?.settle()?)?;
    // Over the directions: sums of squared means and of squared standard errors of n slopes.
    let (mut squares, mut errors, mut relative) = (0.0, 0.0, Vec::new());
    for k in 0..MOST as u64 {
        let z: Vec<f64> = direction(direction_seed(5, 1, (1 << 32) + k), "x", D).into_iter().map(f64::from).collect();
        let norm = z.iter().map(|z| z * z).sum::<f64>().sqrt();
        let ahead: Vec<f64> = x.iter().zip(&z).map(|(x, z)| x + mu * z / norm).collect();
        let slopes: Vec<f64> = (0..N).map(|i| (problem.value(i, &ahead) - problem.value(i, &x)) / mu).collect();
        let mean = slopes.iter().sum::<f64>() / N as f64;
        let variance = slopes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (N - 1) as f64;
        // A slope is worth d / |z| along z, whose lengths differ.
        let worth = (D as f64 / norm).powi(2);
        squares += worth * mean * mean;
        errors += worth * variance / N as f64;
        relative.push((errors / squares).sqrt());
    }
    let chosen = |least: usize, tolerance: f64| -> Result<(usize, f64)> {
        let mut params = params()?;
        let settings = Settings {
            num_directions: Some(least),
            max_directions: Some(MOST),
            direction_tolerance: Some(tolerance),
            zo_eps: Some(mu),
            ..Settings::default()
        };
        let mut problem = LeastSquares::new(N, D, 4);
        let (estimate, _) = vamo(&params, settings)?.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
        let report = estimate.snapshot.unwrap();
        assert_eq!(estimate.correction.len(), report.num_directions);
        // One look at x, and one along each direction.
        assert_eq!(report.example_evaluations, ((1 + report.num_directions) * N) as u64);
        Ok((report.num_directions, report.standard_error.unwrap()))
    };
    let mut seen = [false; MOST + 1];
    for least in [1, 2, 4] {
        for tolerance in relative.iter().flat_map(|r| [0.99 * r, 1.01 * r]).chain([0.0, 1e6]) {
            // A tolerance that is another's neighbour tells nothing in f32.
            if relative.iter().any(|r| (r / tolerance - 1.0).abs() < 2e-3) {
                continue;
            }
            let expected = (least..=MOST).find(|q| relative[q - 1] <= tolerance).unwrap_or(MOST);
            let (found, error) = chosen(least, tolerance)?;
            assert_eq!(found, expected, "at least {least}, {tolerance}: {relative:?}");
            assert!((error / relative[found - 1] - 1.0).abs() < 1e-3, "{error}, not {}", relative[found - 1]);
            seen[found] = true;
        }
    }
    // The rule had something to choose.
    assert!(seen.iter().filter(|seen| **seen).count() >= 4, "{seen:?}, {relative:?}");
    Ok(())
}

/// VAMO's own snapshot costs no copy: q seeds, n q slopes, q^2 products.
#[test]
fn vamos_snapshot_is_scalars_and_svrgs_is_two_copies() -> Result<()> {
    let mut problem = LeastSquares::new(N, D, 4);
    let mut params = params()?;
    let settings = Settings { num_directions: Some(3), zo_eps: Some(1e-2), ..Settings::default() };
    let mut optimizer = vamo(&params, settings)?;
    optimizer.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
    assert_eq!(optimizer.bytes()?, (0, 8 * (3 + 3 * N + 9)));
    let mut optimizer = method("svrg")?.make(&Settings { snapshot_steps: Some(4), ..Settings::default() }, &params)?;
    optimizer.estimator.estimate(&at(1, 0.1), &mut params, &mut problem)?;
    assert_eq!(optimizer.bytes()?, (0, 2 * 4 * D));
    Ok(())
}

/// v = grad f_I(x) - grad f_I(x_hat) + grad f(x_hat), steps after the snapshot.
#[test]
fn svrg_is_its_definition() -> Result<()> {
    let mut params = params()?;
    let mut problem = LeastSquares::new(N, D, 4);
    let mut optimizer = method("svrg")?.make(&Settings { snapshot_steps: Some(3), ..Settings::default() }, &params)?;
    let all: Vec<usize> = (0..N).collect();
    let mut x = flat(params.settle()?)?;
    let mut x_hat = x.clone();
    for step in 1..=7 {
        problem.turn_to_step(step);
        let at = at(step, 0.05);
        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, &mut params, &mut problem)?;
        assert_eq!(estimate.snapshot.map(|s| s.example_evaluations), (step % 3 == 1).then_some(N as u64));
        let norm = optimizer.rule.step(&at, &mut params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);
        if step % 3 == 1 {
            x_hat = x.clone();
        }
        let (here, there) = (problem.gradient(&problem.batch, &x), problem.gradient(&problem.batch, &x_hat));
        let full = problem.gradient(&all, &x_hat);
        let v: Vec<f64> = (0..D).map(|j| here[j] - there[j] + full[j]).collect();
        x.iter_mut().zip(&v).for_each(|(x, v)| *x -= 0.05 * v);
        let found = flat(params.settle()?)?;
        let off: Vec<f64> = found.iter().zip(&x).map(|(f, x)| f - x).collect();
        assert!(largest(&off) < 2e-6, "step {step}: {off:?}");
        let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!((norm.unwrap() - length).abs() < 1e-5 * length);
    }
    Ok(())
}

/// g = ghat_I(theta) - ghat_I(x_hat) + ghat_full with the same directions, x_hat reached by walking back.
#[test]
fn mezo_svrg_is_its_definition() -> Result<()> {
    let mut params = params()?;
    params.set_role(params.id("x").unwrap(), Role::Estimated);
    let mut problem = LeastSquares::new(N, D, 4);
    let settings = Settings { snapshot_steps: Some(3), zo_eps: Some(1e-2), ..Settings::default() };
    let mut optimizer = method("mezo-svrg")?.make(&settings, &params)?;
    let (mut x, mut x_hat, mut full) = (flat(params.settle()?)?, Vec::new(), Vec::new());
    // The estimate along z, in f64: a two-sided difference of a quadratic is exact.
    let along = |problem: &LeastSquares, of: &[usize], x: &[f64], step: u64| -> Vec<f64> {
        let z: Vec<f64> = direction(direction_seed(5, step, 0), "x", D).into_iter().map(f64::from).collect();
        let slope: f64 = problem.gradient(of, x).iter().zip(&z).map(|(g, z)| g * z).sum();
        z.iter().map(|z| slope * z).collect()
    };
    let all: Vec<usize> = (0..N).collect();
    for step in 1..=7 {
        problem.turn_to_step(step);
        let at = at(step, 0.01);
        let (estimate, _) = optimizer.estimator.estimate(&at, &mut params, &mut problem)?;
        optimizer.rule.step(&at, &mut params, &estimate, None)?;
        let g = if step % 3 == 1 {
            x_hat = x.clone();
            full = along(&problem, &all, &x, step);
            full.clone()
        } else {
            let (here, there) = (along(&problem, &problem.batch, &x, step), along(&problem, &problem.batch, &x_hat, step));
            (0..D).map(|j| here[j] - there[j] + full[j]).collect()
        };
        x.iter_mut().zip(&g).for_each(|(x, g)| *x -= 0.01 * g);
        let found = flat(params.settle()?)?;
        let off: Vec<f64> = found.iter().zip(&x).map(|(f, x)| f - x).collect();
        assert!(largest(&off) < 2e-4, "step {step}: {}", largest(&off));
        x = found;
    }
    Ok(())
}

/// Of theta, theta - lr g and theta + lr g the one with the least loss, and nothing else.
#[test]
fn zo_conservative_keeps_the_best_of_three() -> Result<()> {
    let mut kept = [0; 3];
    for seed in 1..40 {
        let mut params = params()?;
        params.set_role(params.id("x").unwrap(), Role::Estimated);
        let mut problem = LeastSquares::new(N, D, 4);
        let settings = Settings { zo_eps: Some(1e-2), ..Settings::default() };
        let mut optimizer = method("zo-conservative")?.make(&settings, &params)?;
        let before = flat(params.settle()?)?;
        let at = at(seed, 0.15);
        let two = TwoPoint { zo_eps: 1e-2, ..TwoPoint::mezo(1e-2) };
        let plain: Estimate = two.along(&at.seeds(1), &mut params, problem.objective())?;
        params.settle()?;
        let (estimate, _) = optimizer.estimator.estimate(&at, &mut params, &mut problem)?;
        optimizer.rule.step(&at, &mut params, &estimate, None)?;
        let z = dense(&[Term::gaussian(plain.terms[0].seed, plain.terms[0].coeff)]);
        let points: Vec<Vec<f64>> =
            [0.0, -0.15, 0.15].iter().map(|s| before.iter().zip(&z).map(|(x, g)| x + s * g).collect()).collect();
        let loss = |x: &Vec<f64>| problem.batch.iter().map(|&i| problem.value(i, x)).sum::<f64>();
        let best = (0..3).min_by(|a, b| loss(&points[*a]).total_cmp(&loss(&points[*b]))).unwrap();
        // Which of two is less to a rounding is no matter.
        let near = |other: usize| other != best && loss(&points[other]) - loss(&points[best]) < 1e-4 * loss(&points[best]);
        if (0..3).any(near) {
            continue;
        }
        kept[best] += 1;
        let found = flat(params.settle()?)?;
        let off: Vec<f64> = found.iter().zip(&points[best]).map(|(f, x)| f - x).collect();
        assert!(largest(&off) < 1e-4, "seed {seed}: {}", largest(&off));
        let stay = (loss(&points[0]) / 4.0) as f32;
        assert!(problem.loss(params.settle()?)? <= stay + 1e-4);
    }
    assert!(kept[0] > 0 && kept[1] > 0, "{kept:?}");
    Ok(())
}
