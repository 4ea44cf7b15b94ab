//! The battery over the table of methods: each against a plain reference in f64 over dense vectors, the same bits for any
//! number of threads, descent, save and load, frozen weights, and no knob that it has not.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::data::Example;
use zotune::data::task::Loss;
use zotune::device::Array;
use zotune::device::cpu::drawn::{direction, drawn};
use zotune::direction::{Direction, Term};
use zotune::labs::numbers::DenseGradient;
use zotune::params::{ParamSet, Params, Role, StateDtype, Weights};
use zotune::prompt::PromptLoss;
use zotune::zo::methods::{METHODS, method};
use zotune::zo::rules::Rule;
use zotune::zo::{Batches, Estimate, Method, Optimizer, Order, Problem, Settings};

use crate::support::{LeastSquares, at, example, fixture_json, flat, numbers, open, tokens};

pub(crate) const D: usize = 40_000;

/// One step of a method's rule over dense vectors in f64, written from its equations: theta, gradient, terms, step from 1.
type Reference = Box<dyn FnMut(&mut [f64], &[f64], &[Term], i32)>;

/// The references. A method without one fails the battery.
fn reference(name: &str, lr: f64, amsgrad: bool) -> Reference {
    let (b1, b2, zeta) = (f64::from(0.9f32), f64::from(0.99f32), f64::from(1e-8f32));
    let (mut m, mut v, mut v_max, mut scalar) = (vec![0.0; D], vec![0.0; D], vec![0.0f64; D], 0.0);
    let name = name.to_string();
    Box::new(move |theta, g, terms, t| {
        let squares: f64 = terms.iter().map(|t| f64::from(t.coeff).powi(2)).sum::<f64>() * terms.len() as f64;
        scalar = b2 * scalar + (1.0 - b2) * squares;
        let along = |term: &Term| direction(term.seed, "w", D).into_iter().map(f64::from).collect::<Vec<_>>();
        for i in 0..D {
            theta[i] -= match name.as_str() {
                // What zo-conservative keeps and what mezo-svrg, vamo and svrg reduce is their estimators' (snapshots.rs).
                "zo-sgd" | "zo-conservative" | "mezo-svrg" | "sgd" | "vamo" | "svrg" => lr * g[i],
                "zo-sgd-momentum" => {
                    m[i] = b1 * m[i] + g[i];
                    lr * m[i]
                }
                "zo-sign" => lr * g[i].signum(),
                "zo-rmsprop" => {
                    v[i] = b2 * v[i] + (1.0 - b2) * g[i] * g[i];
                    lr * g[i] / (v[i] + zeta).sqrt()
                }
                "zo-adamm" => {
                    m[i] = b1 * m[i] + (1.0 - b1) * g[i];
                    v[i] = b2 * v[i] + (1.0 - b2) * g[i] * g[i];
                    v_max[i] = v_max[i].max(v[i]);
                    lr * m[i] / (if amsgrad { v_max[i] } else { v[i] } + zeta).sqrt()
                }
                "zo-adam" | "adamw" => {
                    let b2 = f64::from(0.999f32);
                    m[i] = b1 * m[i] + (1.0 - b1) * g[i];
                    v[i] = b2 * v[i] + (1.0 - b2) * g[i] * g[i];
                    lr * (m[i] / (1.0 - b1.powi(t))) / ((v[i] / (1.0 - b2.powi(t))).sqrt() + zeta)
                }
                "r-adazo" => {
                    m[i] = b1 * m[i] + (1.0 - b1) * g[i];
                    v[i] = b2 * v[i] + (1.0 - b2) * m[i] * m[i];
                    lr * m[i] / (v[i] + zeta).sqrt()
                }
                "meazo" => lr * g[i] / ((scalar / (1.0 - b2.powi(t))).sqrt() + zeta),
                "zo-sign-scalar" => 0.0,
                other => panic!("{other} has no reference: write its equations here"),
            };
        }
        if name == "zo-sign-scalar" {
            for term in terms {
                let step = lr / terms.len() as f64 * f64::from(term.coeff.signum());
                along(term).iter().zip(theta.iter_mut()).for_each(|(z, theta)| *theta -= step * z);
            }
        }
    })
}

/// One weight "w" of D numbers, in the role that it has in `method`.
pub(crate) fn params(dtype: DType, method: &Method) -> Result<Params> {
    let mut params = Params::new(dtype);
    let w: Vec<f32> = (0..D).map(|i| 0.5 * (i as f32 * 0.3).sin()).collect();
    let id = params.insert("w", Array::of(&Tensor::from_vec(w, (D / 100, 100), &Device::Cpu)?.to_dtype(dtype)?)?)?;
    params.set_role(id, role(method));
    Ok(params)
}

fn role(method: &Method) -> Role {
    if method.order == Order::Zeroth { Role::Estimated } else { Role::Differentiated }
}

fn values(weights: Weights) -> Result<Vec<f32>> {
    Ok(flat(weights)?.into_iter().map(|x| x as f32).collect())
}

/// Two terms a step, in the list that a method's weights go by.
pub(crate) fn estimate(method: &Method, step: u64) -> Estimate {
    let coeff = |k: u64| ((step * 7 + k * 3) as f32).sin() * 3.0;
    let terms = (0..2).map(|k| Term::gaussian(100 * step + k, coeff(k))).collect();
    match method.order {
        Order::Zeroth => Estimate { terms, ..Estimate::default() },
        _ => Estimate { correction: terms, ..Estimate::default() },
    }
}

/// A first-order gradient beside them.
pub(crate) fn first_order(step: u64) -> Vec<f64> {
    (0..D).map(|i| f64::from(((i as u64 + 13 * step) as f32 * 0.7).cos())).collect()
}

/// Steps of a rule alone. Of zeroth order: with the way back from -eps pending along the first term, as a two-point estimate
/// leaves it.
pub(crate) fn drive(method: &Method, rule: &mut dyn Rule, params: &mut Params, lr: f32, steps: u64) -> Result<Vec<f32>> {
    for step in 1..=steps {
        let estimate = estimate(method, step);
        if method.order == Order::Zeroth {
            let seed = estimate.terms[0].seed;
            params.perturb(&[Term::gaussian(seed, -1e-3)]);
            params.settle()?;
            params.perturb(&[Term::gaussian(seed, 1e-3)]);
            rule.step(&at(step, lr), params, &estimate, None)?;
        } else {
            let mut gradients = DenseGradient::new(&first_order(step), params.settle()?);
            rule.step(&at(step, lr), params, &estimate, Some(&mut gradients))?;
        }
    }
    values(params.settle()?)
}

/// Every method, and what some have besides.
fn cases() -> Vec<(&'static Method, Settings)> {
    let mut cases: Vec<_> = METHODS.iter().map(|m| (m, Settings::default())).collect();
    let has = |knob: &'static str| METHODS.iter().filter(move |m| m.options().any(|own| own == knob));
    cases.extend(has("amsgrad").map(|m| (m, Settings { amsgrad: Some(true), ..Settings::default() })));
    cases.extend(has("state-dtype").map(|m| (m, Settings { state_dtype: Some(StateDtype::Bf16), ..Settings::default() })));
    cases
}

pub(crate) fn make(method: &Method, settings: &Settings, params: &Params) -> Result<Optimizer> {
    let settings =
        method.resolve(settings, 1e-3, params.count_over(ParamSet::Trained), params.count_over(ParamSet::Estimated), 3);
    method.make(&settings, params)
}

#[test]
fn every_method_is_its_equations() -> Result<()> {
    let (lr, steps) = (1e-2f32, 12);
    for (method, settings) in cases() {
        let mut params = params(DType::F32, method)?;
        let mut theta: Vec<f64> = flat(params.settle()?)?;
        let mut optimizer = make(method, &settings, &params)?;
        let found = drive(method, optimizer.rule.as_mut(), &mut params, lr, steps)?;
        let mut reference = reference(method.name, f64::from(lr), settings.amsgrad == Some(true));
        for step in 1..=steps {
            let estimate = estimate(method, step);
            let terms = if method.order == Order::Zeroth { estimate.terms } else { estimate.correction };
            let mut g = if method.order == Order::Zeroth { vec![0f64; D] } else { first_order(step) };
            for term in &terms {
                direction(term.seed, "w", D)
                    .iter()
                    .zip(&mut g)
                    .for_each(|(z, g)| *g += f64::from(term.coeff) * f64::from(*z));
            }
            reference(&mut theta, &g, &terms, step as i32);
        }
        let differences = found.iter().zip(&theta).map(|(f, t)| (f64::from(*f) - t).abs());
        if settings.state_dtype == Some(StateDtype::Bf16) {
            // Moments in 8 bits, rounded at random: each step is off by a few thousandths of itself, and not one way.
            let moved: f64 = values(self::params(DType::F32, method)?.settle()?)?
                .iter()
                .zip(&theta)
                .map(|(start, t)| (f64::from(*start) - t).abs())
                .sum();
            let off: f64 = differences.sum();
            assert!(off < 0.01 * moved && off > 0.0, "{}: off by {off} of {moved}", method.name);
            continue;
        }
        // The sign of a gradient at rounding's distance from 0 may differ: a handful of coordinates, by 2 lr each.
        let off = differences.filter(|d| *d > 2e-5).count();
        let allowed = if method.name == "zo-sign" { 3 } else { 0 };
        assert!(off <= allowed, "{} {settings:?}: {off} of {D} coordinates differ", method.name);
    }
    Ok(())
}

/// Every rule moves the weights along the estimate's own directions, of whatever kind: a single one of signs moves each weight as far as
/// the others from a state of zeros, against its sign.
#[test]
fn every_zeroth_order_rule_moves_along_the_directions_that_were_looked_along() -> Result<()> {
    let signs = drawn(Direction::Rademacher, 7, "w", D);
    let mut tried = 0;
    for method in METHODS.iter().filter(|method| method.order == Order::Zeroth) {
        let mut params = Params::new(DType::F32);
        params.insert("w", Array::of(&Tensor::zeros(D, DType::F32, &Device::Cpu)?)?)?;
        let mut rule = method.make(&Settings::default(), &params)?.rule;
        let terms = vec![Direction::Rademacher.term(7, 0.5)];
        rule.step(&at(1, 1e-2), &mut params, &Estimate { terms, ..Estimate::default() }, None)?;
        let moved = values(params.settle()?)?;
        let length = moved[0].abs();
        assert!(length > 0.0, "{}: nothing moved", method.name);
        for (moved, sign) in moved.iter().zip(&signs) {
            assert!((moved + length * sign).abs() < 1e-5 * length, "{}: {moved} along {sign}", method.name);
        }
        tried += 1;
    }
    assert!(tried > 8, "{tried} methods");
    Ok(())
}

/// Whole trajectories, noise and all, against an independent NumPy program: scripts/reference_rules.py.
#[test]
fn r_adazo_and_zo_adamm_follow_numpys_trajectories() -> Result<()> {
    let reference = fixture_json("rules.json")?;
    let length = reference["length"].as_u64().unwrap() as usize;
    let (seeds, coeffs) = (reference["seeds"].as_array().unwrap(), reference["coeffs"].as_array().unwrap());
    for name in ["r-adazo", "zo-adamm"] {
        let mut params = Params::new(DType::F32);
        let start: Vec<f32> = (0..length).map(|i| (i as f64).sin() as f32).collect();
        params.insert("w", Array::of(&Tensor::new(start, &Device::Cpu)?)?)?;
        let mut rule = method(name)?.make(&Settings::default(), &params)?.rule;
        let lr = reference["learning_rate"].as_f64().unwrap() as f32;
        for (step, (seeds, coeffs)) in (1..).zip(seeds.iter().zip(coeffs)) {
            let terms = tokens(seeds).into_iter().zip(numbers(coeffs));
            let terms = terms.map(|(seed, c)| Term::gaussian(seed.into(), c as f32)).collect();
            rule.step(&at(step, lr), &mut params, &Estimate { terms, ..Estimate::default() }, None)?;
        }
        let expected = numbers(&reference["theta"][name]);
        assert_eq!(expected.len(), length);
        for (i, (found, expected)) in values(params.settle()?)?.iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{name}, weight {i}: {found}, not {expected}");
        }
    }
    Ok(())
}

#[test]
fn every_method_gives_the_same_bits_twice_and_for_any_number_of_threads() -> Result<()> {
    for (method, settings) in cases() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let run = |threads| -> Result<Vec<f32>> {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| {
                    let mut params = params(dtype, method)?;
                    let mut optimizer = make(method, &settings, &params)?;
                    drive(method, optimizer.rule.as_mut(), &mut params, 1e-2, 3)
                })
            };
            let one = run(1)?;
            assert!(run(1)? == one && run(3)? == one, "{} in {dtype:?}", method.name);
        }
    }
    Ok(())
}

/// Two weights over a regression's numbers, the second frozen if asked.
pub(crate) fn regression_params(method: &Method, dtype: DType, frozen: bool) -> Result<Params> {
    let mut params = Params::new(dtype);
    for (name, len) in [("a", 20), ("b", 10)] {
        let id = params.insert(name, Array::of(&Tensor::full(0.5f32, len, &Device::Cpu)?.to_dtype(dtype)?)?)?;
        params.set_role(id, if frozen && name == "b" { Role::Frozen } else { role(method) });
    }
    Ok(params)
}

/// A rate that suits the method over 30 numbers.
fn rate(method: &Method) -> f32 {
    match method.name {
        "sgd" | "vamo" | "svrg" => 2e-2,
        "zo-sgd-momentum" => 2e-4,
        "mezo-svrg" => 5e-4,
        "zo-sgd" | "zo-conservative" => 2e-3,
        _ => 5e-3,
    }
}

/// Whole steps, estimator and all, from `first` on.
fn steps(
    optimizer: &mut Optimizer,
    params: &mut Params,
    problem: &mut LeastSquares,
    lr: f32,
    these: std::ops::RangeInclusive<u64>,
) -> Result<()> {
    for step in these {
        problem.turn_to_step(step);
        let at = at(step, lr);
        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, params, problem)?;
        optimizer.rule.step(&at, params, &estimate, gradients.as_deref_mut())?;
    }
    params.settle()?;
    Ok(())
}

#[test]
fn every_method_descends_a_finite_sum_and_leaves_the_frozen_alone() -> Result<()> {
    for (method, settings) in cases() {
        for frozen in [false, true] {
            let mut params = regression_params(method, DType::F32, frozen)?;
            let mut problem = LeastSquares::new(12, 30, 12);
            let mut optimizer = make(method, &settings, &params)?;
            let first = problem.loss(params.settle()?)?;
            steps(&mut optimizer, &mut params, &mut problem, rate(method), 1..=800)?;
            let last = problem.loss(params.settle()?)?;
            assert!(last < 0.6 * first, "{} {settings:?}: {first} -> {last}", method.name);
            let still = values(params.settle()?)?[20..].iter().all(|x| *x == 0.5);
            assert_eq!(still, frozen, "{}", method.name);
        }
    }
    Ok(())
}

/// A run that is written down and read back in the middle goes on to the same bits: state, snapshots and all.
#[test]
fn saving_and_loading_in_mid_run_changes_nothing() -> Result<()> {
    for (method, settings) in cases() {
        for dtype in [DType::F32, DType::BF16] {
            let begin = || -> Result<_> {
                let params = regression_params(method, dtype, true)?;
                let optimizer = make(method, &settings, &params)?;
                Ok((params, optimizer, LeastSquares::new(12, 30, 4)))
            };
            let (mut params, mut optimizer, mut problem) = begin()?;
            steps(&mut optimizer, &mut params, &mut problem, rate(method), 1..=5)?;
            let mut saved = BTreeMap::new();
            params.visit(&mut |name, mut slot| {
                saved.insert(format!("weight.{name}"), slot.bytes().to_vec());
                Ok(())
            })?;
            optimizer.visit(&mut |name, mut slot| {
                assert!(saved.insert(name.to_string(), slot.bytes().to_vec()).is_none(), "{name} is there twice");
                Ok(())
            })?;
            steps(&mut optimizer, &mut params, &mut problem, rate(method), 6..=9)?;

            let (mut again, mut optimizer, mut problem) = begin()?;
            let load = |name: String, mut slot: zotune::params::Slot| -> Result<()> {
                let bytes = saved.get(&name).ok_or_else(|| anyhow::anyhow!("{name} was not saved"))?;
                assert!(slot.resize(bytes.len()), "{name}");
                slot.bytes().copy_from_slice(bytes);
                Ok(())
            };
            again.visit(&mut |name, slot| load(format!("weight.{name}"), slot))?;
            optimizer.visit(&mut |name, slot| load(name.to_string(), slot))?;
            steps(&mut optimizer, &mut again, &mut problem, rate(method), 6..=9)?;
            assert!(values(again.settle()?)? == values(params.settle()?)?, "{} in {dtype:?}", method.name);
        }
    }
    Ok(())
}

/// Four sentences of two kinds, and what a tiny OPT makes of them: the prompt loss falls by every method.
#[test]
fn every_method_lowers_a_tiny_opts_prompt_loss() -> Result<()> {
    let examples: Vec<Example> =
        (0..8).map(|i| example(i as usize % 2, &[2, 10 + i % 2, 12 + i, 13, 14 + i, 15], &[&[20], &[21]])).collect();
    for (method, settings) in cases() {
        let (model, mut params) = open("opt-tiny")?;
        let ids: Vec<_> = params.ids().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| params.set_role(id, role(method)));
        let mut optimizer = make(method, &settings, &params)?;
        let mut problem = PromptLoss::new(&model, Loss::Classification, &examples, Batches::new(8, 8, 0), 4);
        let first = problem.loss(params.settle()?)?;
        for step in 1..=120 {
            problem.begin(step);
            let at = at(step, rate(method) / if method.order == Order::Zeroth { 4.0 } else { 1.0 });
            let (estimate, mut gradients) = optimizer.estimator.estimate(&at, &mut params, &mut problem)?;
            optimizer.rule.step(&at, &mut params, &estimate, gradients.as_deref_mut())?;
        }
        let last = problem.loss(params.settle()?)?;
        assert!(last < 0.95 * first, "{} {settings:?}: {first} -> {last}", method.name);
    }
    Ok(())
}

#[test]
fn state_is_counted() -> Result<()> {
    for (method, settings) in cases() {
        let params = params(DType::F32, method)?;
        let mut optimizer = make(method, &settings, &params)?;
        let moments = match (method.name, settings.amsgrad) {
            ("zo-adamm", Some(true)) => 3,
            ("zo-adamm" | "zo-adam" | "r-adazo" | "adamw", _) => 2,
            ("zo-rmsprop" | "zo-sgd-momentum", _) => 1,
            _ => 0,
        };
        let size = if settings.state_dtype == Some(StateDtype::Bf16) { 2 } else { 4 };
        let scalar = if method.name == "meazo" { 8 } else { 0 };
        assert_eq!(optimizer.bytes()?.0, size * moments * D + scalar, "{}", method.name);
    }
    Ok(())
}

/// Weights whose gradient is estimated and weights that are differentiated, side by side in one step of SGD.
#[test]
fn a_hybrid_step_is_both_gradients() -> Result<()> {
    let sgd = method("sgd")?;
    let mut params = regression_params(sgd, DType::F32, false)?;
    params.set_role(params.id("b").unwrap(), Role::Estimated);
    let mut problem = LeastSquares::new(12, 30, 4);
    let settings = Settings { zo_eps: Some(1e-2), ..Settings::default() };
    let mut optimizer = make(sgd, &settings, &params)?;
    let before = flat(params.settle()?)?;
    let exact = problem.gradient(&[4, 5, 6, 7], &before);
    steps(&mut optimizer, &mut params, &mut problem, 0.1, 1..=1)?;
    let after = flat(params.settle()?)?;
    let z = direction(at(1, 0.1).seed(0), "b", 10);
    let slope: f64 = exact[20..].iter().zip(&z).map(|(g, z)| g * f64::from(*z)).sum();
    for i in 0..30 {
        let g = if i < 20 { exact[i] } else { slope * f64::from(z[i - 20]) };
        assert!((after[i] - (before[i] - 0.1 * g)).abs() < 2e-4, "number {i}: {} from {}, g = {g}", after[i], before[i]);
    }
    Ok(())
}
