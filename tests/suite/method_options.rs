//! What a method prints, which options it has, and what they do.

use anyhow::Result;
use candle_core::DType;
use zotune::config::{RawArgs, RunConfig};
use zotune::device::cpu::drawn::direction;
use zotune::params::Role;
use zotune::zo::methods::{METHODS, method};
use zotune::zo::{Method, Order, Settings};

use crate::methods::{D, drive, estimate, first_order, make, params, regression_params};
use crate::support::flat;

/// A step's directions: the slope along each, and its numbers.
type Drawn = Vec<(f64, Vec<f64>)>;

/// What is printed of a method's rule, with its numbers, is what the rule does: the definition is evaluated here as it is written.
#[test]
fn a_printed_rule_is_what_is_done() -> Result<()> {
    let (lr, steps) = (1e-2f32, 6);
    let other = |method: &Method, knob: &str| -> Option<Settings> {
        let mut settings = Settings::default();
        match knob {
            "weight-decay" => settings.weight_decay = Some(0.5),
            "momentum" => settings.momentum = Some(0.8),
            "beta1" => settings.beta1 = Some(0.7),
            "beta2" => settings.beta2 = Some(0.95),
            "zeta" => settings.zeta = Some(1e-2),
            "amsgrad" => settings.amsgrad = Some(true),
            _ => return None,
        }
        method.options().any(|own| own == knob).then_some(settings)
    };
    let mut tried = 0;
    for method in METHODS {
        let varied = ["weight-decay", "momentum", "beta1", "beta2", "zeta", "amsgrad"];
        for settings in varied.iter().filter_map(|knob| other(method, knob)).chain([Settings::default()]) {
            let mut params = params(DType::F32, method)?;
            let start: Vec<f64> = flat(params.settle()?)?;
            let mut optimizer = make(method, &settings, &params)?;
            let definition = optimizer.rule.definition();
            let mut printed = crate::printed::Printed::parse(&definition)?;
            let found = drive(method, optimizer.rule.as_mut(), &mut params, lr, steps)?;
            let drawn = |seed| -> Vec<f64> { direction(seed, "w", D).into_iter().map(f64::from).collect() };
            let estimates: Vec<(Vec<f64>, Drawn)> = (1..=steps)
                .map(|step| {
                    let estimate = estimate(method, step);
                    let zeroth = method.order == Order::Zeroth;
                    let terms = if zeroth { estimate.terms } else { estimate.correction };
                    let q = terms.len() as f64;
                    let directions = terms.iter().map(|t| (q * f64::from(t.coeff), drawn(t.seed))).collect();
                    (if zeroth { vec![0.0; D] } else { first_order(step) }, directions)
                })
                .collect();
            for i in (0..D).step_by(997) {
                let mut theta = start[i];
                printed.begin();
                for (t, (g, directions)) in (1..).zip(&estimates) {
                    let directions: Vec<(f64, f64)> = directions.iter().map(|(c, z)| (*c, z[i])).collect();
                    let along = directions.iter().map(|(c, z)| c * z).sum::<f64>() / directions.len() as f64;
                    theta = printed.step(theta, g[i] + along, &directions, f64::from(lr), t)?;
                }
                assert!(
                    (f64::from(found[i]) - theta).abs() < 5e-5,
                    "{}: \"{definition}\" gives {theta}, and the rule {}",
                    method.name,
                    found[i]
                );
            }
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
    Ok(())
}

/// On the sphere of d weights the radius goes as far as eps goes along z, whose length is about sqrt d; R-AdaZO's own radius is a number.
#[test]
fn the_default_radius_goes_equally_far_on_the_sphere() -> Result<()> {
    use zotune::zo::Distribution;
    use zotune::zo::Preset;
    let eps = |name: &str, settings: Settings| -> Result<f64> {
        Ok(method(name)?.resolve(&settings, 1e-3, 40_000, 40_000, 3).zo_eps.unwrap())
    };
    let along = |distribution| Settings { distribution: Some(distribution), ..Settings::default() };
    assert_eq!(eps("zo-sgd", Settings::default())?, 1e-3);
    assert_eq!(eps("zo-sgd", along(Distribution::Rademacher))?, 1e-3);
    assert!((eps("zo-sgd", along(Distribution::Sphere))? - 0.2).abs() < 1e-12);
    assert!((eps("vamo", Settings::default())? - 0.2).abs() < 1e-12);
    assert_eq!(eps("r-adazo", Settings { preset: Some(Preset::Paper), ..Settings::default() })?, 5e-3);
    Ok(())
}

/// Options of methods and values for them. The last line is the option; a line before it is one that it needs.
const KNOBS: &[&str] = &[
    "preset = \"paper\"",
    "second-moment-warmup = 29",
    "perturbation-mode = \"one-side\"",
    "perturbation-mode = \"two-side\"",
    "num-directions = 23",
    "distribution = \"sphere\"",
    "distribution = \"gaussian\"",
    "distribution = \"rademacher\"",
    "zo-eps = 7e-3",
    "fresh-batch-per-direction = true",
    "weight-decay = 0.5",
    "momentum = 0.5",
    "beta1 = 0.5",
    "beta2 = 0.5",
    "zeta = 0.5",
    "amsgrad = true",
    "state-dtype = \"bf16\"",
    "alpha = 0.5",
    "snapshot-steps = 57",
    "max-directions = 57",
    "max-directions = 57\ndirection-tolerance = 0.3",
    "fo-params = \"last:1\"",
];

/// Every knob that a method has shows in what is printed of it.
#[test]
fn every_knob_shows_in_what_is_printed() -> Result<()> {
    for method in METHODS {
        let printed = |toml: &str| -> Result<String> {
            let mut settings = RunConfig::check(RawArgs::from_toml(toml, "test")?)?.settings;
            if method.order == Order::Mixed && settings.fo_params.is_none() {
                // So that something is left to estimate.
                settings.fo_params = Some(zotune::zo::Selection::Last(2));
            }
            let mut params = regression_params(method, DType::F32, false)?;
            if method.order == Order::Mixed {
                params.set_role(params.id("b").unwrap(), Role::Estimated);
            }
            let optimizer = make(method, &settings, &params)?;
            Ok(format!("{}; {}", optimizer.rule.definition(), optimizer.estimator.definition()))
        };
        let plain = printed("")?;
        let mut shown = std::collections::BTreeSet::new();
        for toml in KNOBS {
            let last = toml.lines().last().unwrap().split(' ').next().unwrap();
            if method.options().any(|knob| knob == last) {
                let found = printed(toml)?;
                // What a method has anyhow says nothing new.
                if found != plain {
                    shown.insert(last);
                }
            }
        }
        let missing: Vec<&str> = method.options().filter(|knob| !shown.contains(knob)).collect();
        assert!(missing.is_empty(), "{}: {missing:?} do not show in {plain}", method.name);
    }
    // VAMO's snapshot looks along what is asked for, and what it estimates beside is MeZO's.
    let method = method("vamo")?;
    let settings = Settings {
        distribution: Some(zotune::zo::Distribution::Rademacher),
        fo_params: Some(zotune::zo::Selection::Last(1)),
        ..Settings::default()
    };
    let definition = make(method, &settings, &params(DType::F32, method)?)?.estimator.definition();
    let (beside, snapshot) = definition.split_once(", corrected by").unwrap();
    assert!(beside.contains("N(0, I)") && snapshot.contains("z of signs, +1 or -1"), "{definition}");
    Ok(())
}

/// `--help` lists the methods in prose; the table is what is true.
#[test]
fn help_names_every_method() {
    use clap::Args;
    let mut train = zotune::config::RawArgs::augment_args(clap::Command::new("train"));
    let help = train.render_long_help().to_string();
    let listed: Vec<&str> = help.split([' ', ',', ':', '\n']).collect();
    for method in METHODS {
        assert!(listed.contains(&method.name), "--help does not name {}", method.name);
        for knob in method.options() {
            assert!(
                [" ", "["].iter().any(|end| help.contains(&format!("--{knob}{end}"))),
                "--help has no --{knob}, which {} has",
                method.name
            );
        }
    }
}

#[test]
fn a_knob_that_the_method_does_not_have_is_refused() -> Result<()> {
    for method in METHODS {
        for toml in KNOBS.iter().filter(|toml| toml.lines().count() == 1) {
            let knob = toml.split(' ').next().unwrap();
            let mut settings = RunConfig::check(RawArgs::from_toml(toml, "test")?)?.settings;
            assert_eq!(settings.given()?, [knob]);
            if method.name == "sgd"
                && method.options().any(|own| own == knob)
                && knob != "fo-params"
                && knob != "weight-decay"
            {
                // It has a two-point estimate only where something is left to estimate.
                assert!(method.check(&settings).unwrap_err().to_string().contains("with `fo_params all`"));
                settings.fo_params = Some(zotune::zo::Selection::Last(1));
            }
            let outcome = method.check(&settings);
            if method.options().any(|own| own == knob) {
                outcome?;
            } else {
                let expected = format!("`{}` does not apply to {}; its options are: ", knob.replace('-', "_"), method.name);
                assert!(outcome.unwrap_err().to_string().starts_with(&expected));
            }
        }
    }
    Ok(())
}

/// In a warm-up of three steps r-adazo moves by lr m, afterwards by lr m / sqrt(v + zeta), with v as if there had been none.
#[test]
fn a_warm_up_of_the_second_moment_puts_one_in_its_place() -> Result<()> {
    let method = method("r-adazo")?;
    let settings = Settings { second_moment_warmup: Some(3), ..Settings::default() };
    let (lr, steps) = (1e-2f32, 5);
    let mut params = params(DType::F32, method)?;
    let start: Vec<f64> = flat(params.settle()?)?;
    let mut optimizer = make(method, &settings, &params)?;
    assert!(optimizer.rule.definition().ends_with("; 1 in place of v in steps 1 to 3"), "{}", optimizer.rule.definition());
    let found = drive(method, optimizer.rule.as_mut(), &mut params, lr, steps)?;
    for i in (0..D).step_by(499) {
        let (mut theta, mut m, mut v) = (start[i], 0.0, 0.0);
        for step in 1..=steps {
            let terms = estimate(method, step).terms;
            let g: f64 = terms.iter().map(|t| f64::from(t.coeff) * f64::from(direction(t.seed, "w", D)[i])).sum();
            m = 0.9 * m + 0.1 * g;
            v = 0.99 * v + 0.01 * m * m;
            theta -= f64::from(lr) * m / if step <= 3 { 1.0 } else { (v + 1e-8f64).sqrt() };
        }
        assert!((f64::from(found[i]) - theta).abs() < 5e-5, "{i}: {} is not {theta}", found[i]);
    }
    Ok(())
}
