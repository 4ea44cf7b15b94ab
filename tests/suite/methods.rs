//! The battery over the table of methods: each against a plain reference in f64 over dense vectors, the same bits for any
//! number of threads, descent, and no knob that it has not.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::config::{Distribution, Sides};
use zotune::estimator::{Estimate, Estimator};
use zotune::noise::{Term, direction};
use zotune::objective::Objective;
use zotune::optim::{METHODS, Rule, Settings, method};
use zotune::params::{Params, Weights};

use crate::support::{fixture_json, numbers, tokens};

const D: usize = 40_000;

/// One step of a method over dense vectors in f64, written from its equations: theta, gradient, terms, step from 1.
type Reference = Box<dyn FnMut(&mut [f64], &[f64], &[Term], i32)>;

/// The references. A method without one fails the battery.
fn reference(name: &str, lr: f64, amsgrad: bool) -> Reference {
    let (b1, b2, zeta) = (f64::from(0.9f32), f64::from(0.99f32), f64::from(1e-8f32));
    let (mut m, mut v, mut v_max, mut scalar) = (vec![0.0; D], vec![0.0; D], vec![0.0f64; D], 0.0);
    let name = name.to_string();
    Box::new(move |theta, g, terms, t| {
        let squares: f64 = terms.iter().map(|t| f64::from(t.coeff).powi(2)).sum::<f64>() / terms.len() as f64;
        scalar = b2 * scalar + (1.0 - b2) * squares;
        let along = |term: &Term| direction(term.seed, "w", D).into_iter().map(f64::from).collect::<Vec<_>>();
        for i in 0..D {
            theta[i] -= match name.as_str() {
                "zo-sgd" => lr * g[i],
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
                "zo-adam" => {
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

fn params(dtype: DType) -> Result<Params> {
    let mut params = Params::new(dtype);
    let w: Vec<f32> = (0..D).map(|i| 0.5 * (i as f32 * 0.3).sin()).collect();
    params.insert("w", Tensor::from_vec(w, (D / 100, 100), &Device::Cpu)?.to_dtype(dtype)?)?;
    Ok(params)
}

fn values(weights: Weights) -> Result<Vec<f32>> {
    Ok(weights.iter().next().unwrap().1.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

/// Two directions a step, and the way back from -eps pending along the first of them, as a two-point estimate leaves it.
fn estimate(step: u64) -> Estimate {
    let coeff = |k: u64| ((step * 7 + k * 3) as f32).sin() * 3.0;
    let terms = (0..2).map(|k| Term { seed: 100 * step + k, coeff: coeff(k) }).collect();
    Estimate { terms, losses_plus: vec![1.0], losses_minus: vec![1.0], loss_base: None }
}

fn drive(rule: &mut dyn Rule, params: &mut Params, lr: f32, steps: u64) -> Result<Vec<f32>> {
    for step in 1..=steps {
        let estimate = estimate(step);
        let seed = estimate.terms[0].seed;
        params.walk(&[Term { seed, coeff: -1e-3 }]);
        params.settle()?;
        params.walk(&[Term { seed, coeff: 1e-3 }]);
        rule.step(lr, params, &estimate)?;
    }
    values(params.settle()?)
}

fn cases() -> Vec<(&'static zotune::optim::Method, Settings)> {
    let mut cases: Vec<_> = METHODS.iter().map(|m| (m, Settings::default())).collect();
    let adamm = METHODS.iter().find(|m| m.knobs.contains(&"amsgrad")).unwrap();
    cases.push((adamm, Settings { amsgrad: Some(true), ..Settings::default() }));
    cases
}

#[test]
fn every_method_is_its_equations() -> Result<()> {
    let (lr, steps) = (1e-2f32, 12);
    for (method, settings) in cases() {
        let mut params = params(DType::F32)?;
        let mut theta: Vec<f64> = values(params.settle()?)?.into_iter().map(f64::from).collect();
        let mut rule = (method.build)(&settings, &params);
        let found = drive(rule.as_mut(), &mut params, lr, steps)?;
        let mut reference = reference(method.name, f64::from(lr), settings.amsgrad == Some(true));
        for step in 1..=steps {
            let estimate = estimate(step);
            let mut g = vec![0f64; D];
            for term in &estimate.terms {
                direction(term.seed, "w", D)
                    .iter()
                    .zip(&mut g)
                    .for_each(|(z, g)| *g += f64::from(term.coeff) * f64::from(*z));
            }
            reference(&mut theta, &g, &estimate.terms, step as i32);
        }
        // The sign of a gradient at rounding's distance from 0 may differ: a handful of coordinates, by 2 lr each.
        let off = found.iter().zip(&theta).filter(|(f, t)| (f64::from(**f) - **t).abs() > 2e-5).count();
        let allowed = if method.name == "zo-sign" { 3 } else { 0 };
        assert!(off <= allowed, "{} {settings:?}: {off} of {D} coordinates differ", method.name);
    }
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
        params.insert("w", Tensor::new(start, &Device::Cpu)?)?;
        let mut rule = (method(name)?.build)(&Settings::default(), &params);
        for (seeds, coeffs) in seeds.iter().zip(coeffs) {
            let terms = tokens(seeds).into_iter().zip(numbers(coeffs));
            let terms = terms.map(|(seed, c)| Term { seed: seed.into(), coeff: c as f32 }).collect();
            let estimate = Estimate { terms, losses_plus: vec![1.0], losses_minus: vec![1.0], loss_base: None };
            rule.step(reference["learning_rate"].as_f64().unwrap() as f32, &mut params, &estimate)?;
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
                    let mut params = params(dtype)?;
                    let mut rule = (method.build)(&settings, &params);
                    drive(rule.as_mut(), &mut params, 1e-2, 3)
                })
            };
            let one = run(1)?;
            assert!(run(1)? == one && run(3)? == one, "{} in {dtype:?}", method.name);
        }
    }
    Ok(())
}

struct Quadratic;

impl Objective for Quadratic {
    fn loss(&mut self, weights: Weights) -> Result<f32> {
        Ok((values(weights)?.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 2.0) as f32)
    }
}

#[test]
fn every_method_descends_a_quadratic() -> Result<()> {
    for (method, settings) in cases() {
        let mut params = Params::new(DType::F32);
        params.insert("x", Tensor::ones((10, 5), DType::F32, &Device::Cpu)?)?;
        let mut rule = (method.build)(&settings, &params);
        let estimator = Estimator { sides: Sides::Two, distribution: Distribution::Gaussian, zo_eps: 1e-3 };
        let first = Quadratic.loss(params.settle()?)?;
        for seed in 0..1500 {
            let estimate = estimator.estimate(&[seed], &mut params, &mut Quadratic)?;
            rule.step(2e-4 * method.rate.min(10.0) as f32, &mut params, &estimate)?;
        }
        let last = Quadratic.loss(params.settle()?)?;
        assert!(last < 0.6 * first, "{}: {first} -> {last}", method.name);
    }
    Ok(())
}

#[test]
fn state_is_counted_and_definitions_name_their_numbers() -> Result<()> {
    let params = params(DType::F32)?;
    for (method, settings) in cases() {
        let rule = (method.build)(&settings, &params);
        let moments = match (method.name, settings.amsgrad) {
            ("zo-adamm", Some(true)) => 3,
            ("zo-adamm" | "zo-adam" | "r-adazo", _) => 2,
            ("zo-rmsprop" | "zo-sgd-momentum", _) => 1,
            _ => 0,
        };
        let scalar = if method.name == "meazo" { 8 } else { 0 };
        assert_eq!(rule.state_bytes(), 4 * moments * D + scalar, "{}", method.name);
        assert!(rule.definition().contains("theta -= lr"), "{}: {}", method.name, rule.definition());
    }
    Ok(())
}

/// `--help` lists the methods in prose; the table is what is true.
#[test]
fn help_names_every_method() {
    use clap::Args;
    let mut train = zotune::config::Knobs::augment_args(clap::Command::new("train"));
    let help = train.render_long_help().to_string();
    let listed: Vec<&str> = help.split([' ', ',', '\n']).collect();
    for method in METHODS {
        assert!(listed.contains(&method.name), "--help does not name {}", method.name);
    }
}

#[test]
fn a_knob_that_the_method_does_not_have_is_refused() -> Result<()> {
    let settings = [
        ("momentum", Settings { momentum: Some(0.5), ..Settings::default() }),
        ("beta1", Settings { beta1: Some(0.5), ..Settings::default() }),
        ("beta2", Settings { beta2: Some(0.5), ..Settings::default() }),
        ("zeta", Settings { zeta: Some(0.5), ..Settings::default() }),
        ("amsgrad", Settings { amsgrad: Some(true), ..Settings::default() }),
        ("weight-decay", Settings { weight_decay: Some(0.5), ..Settings::default() }),
    ];
    for method in METHODS {
        for (knob, settings) in &settings {
            let outcome = method.check(settings);
            if method.knobs.contains(knob) {
                outcome?;
            } else {
                let expected = format!("--{knob}: {} has no such knob; its knobs are: ", method.name);
                assert!(outcome.unwrap_err().to_string().starts_with(&expected));
            }
        }
    }
    Ok(())
}
