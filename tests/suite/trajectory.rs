//! The trajectory: replays of every method that has one, and what damage does to its files.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use zotune::base::Digest;
use zotune::config::{Fsync, RawArgs, RunConfig};
use zotune::device::Array;
use zotune::params::{ParamSet, Params};
use zotune::run::trajectory::export::{Exported, export};
use zotune::run::trajectory::{Done, Header, Log, Record, Scored, Trajectory, Weight};
use zotune::zo::Data;
use zotune::zo::methods::METHODS;
use zotune::zo::{Distribution, Method, Optimizer, Order, RecordedProblem, ReplayOnly, Settings, Sides, StepContext};

use crate::support::{LeastSquares, at, flat};

fn params(dtype: DType) -> Result<Params> {
    let mut params = Params::new(dtype);
    for (name, shape) in [("a", vec![5, 4]), ("b", vec![10])] {
        params.insert(name, Array::of(&Tensor::full(0.5f32, shape, &Device::Cpu)?.to_dtype(dtype)?)?)?;
    }
    Ok(params)
}

/// Every method that replays, with every estimator that it can have.
fn cases() -> Vec<(&'static Method, Settings)> {
    let mut cases = Vec::new();
    for method in METHODS.iter().filter(|m| m.order == Order::Zeroth) {
        let has_fresh = method.options().any(|knob| knob == "fresh-batch-per-direction");
        for (sides, q, distribution, fresh) in [
            (Sides::Two, 1, Distribution::Gaussian, false),
            (Sides::Two, 3, Distribution::Rademacher, has_fresh),
            (Sides::One, 3, Distribution::Sphere, false),
            (Sides::One, 2, Distribution::Gaussian, has_fresh),
        ] {
            cases.push((
                method,
                Settings {
                    perturbation_mode: Some(sides),
                    num_directions: Some(q),
                    distribution: Some(distribution),
                    fresh_batch_per_direction: has_fresh.then_some(fresh),
                    ..Settings::default()
                },
            ));
        }
    }
    cases
}

fn make(method: &Method, settings: &Settings, params: &mut Params) -> Result<Optimizer> {
    let settings =
        method.resolve(settings, 1e-3, params.count_over(ParamSet::Trained), params.count_over(ParamSet::Estimated), 3);
    method.make(&settings, params)
}

/// Told what its functions gave, or only what condensing leaves of it, every zeroth-order method makes the same weights again, in
/// every precision; and reading in between changes nothing.
#[test]
fn every_zeroth_order_method_replays_to_the_bit() -> Result<()> {
    const STEPS: u64 = 25;
    for (method, settings) in cases() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (mut theta, mut problem) = (params(dtype)?, LeastSquares::new(12, 30, 4));
            let mut optimizer = make(method, &settings, &mut theta)?;
            let mut values = Vec::new();
            for step in 1..=STEPS {
                problem.turn_to_step(step);
                let heard = RefCell::default();
                let at = at(step, 1e-3);
                let mut tape = RecordedProblem::new(&mut problem, None, &heard);
                let before = flat(theta.settle()?)?;
                let (estimate, _) = optimizer.estimator.estimate(&at, &mut theta, &mut tape)?;
                assert!(flat(theta.settle()?)? == before, "{}: to look moves theta in {dtype:?}", method.name);
                optimizer.rule.step(&at, &mut theta, &estimate, None)?;
                values.push(heard.into_inner());
            }
            let end = flat(theta.settle()?)?;
            assert!(end != flat(params(dtype)?.settle()?)?, "{}: it stands still", method.name);

            for condensed in [false, true] {
                let mut again = params(dtype)?;
                let mut optimizer = make(method, &settings, &mut again)?;
                for step in 1..=STEPS {
                    let mut told = values[step as usize - 1].clone();
                    if condensed {
                        optimizer.estimator.condense(&mut told);
                        assert!(told.contains(&0.0), "{}: nothing is left out of {told:?}", method.name);
                    }
                    let (at, heard, mut untold): (StepContext, _, _) = (at(step, 1e-3), RefCell::default(), ReplayOnly);
                    let mut tape = RecordedProblem::new(&mut untold, Some(&told), &heard);
                    let (estimate, _) = optimizer.estimator.estimate(&at, &mut again, &mut tape)?;
                    optimizer.rule.step(&at, &mut again, &estimate, None)?;
                    assert_eq!(heard.into_inner().len(), told.len(), "{} asked for fewer values", method.name);
                    if step % 7 == 0 {
                        again.settle()?;
                    }
                }
                assert!(flat(again.settle()?)? == end, "{} {settings:?} in {dtype:?}, condensed: {condensed}", method.name);
            }
        }
    }
    Ok(())
}

/// A log of 40 steps with everything in it that a log can have.
fn log() -> Result<(tempfile::TempDir, Vec<u8>, Trajectory)> {
    let folder = tempfile::tempdir()?;
    let digest = Digest::of(b"w");
    let header = Header {
        zotune: "test".into(),
        instruction_set: "any".into(),
        config: RunConfig::check(RawArgs::from_toml("lr = 1e-4\nmax_steps = 20", "test")?)?,
        method: "as tested".into(),
        model: [("model.safetensors".to_string(), "00".to_string())].into(),
        weights: vec![Weight { name: "w".into(), shape: vec![3, 4], digest }],
        data: Data { train: 3, dev: 2, eval: 1, max_length: 7, digest, train_rows: None, eval_rows: None },
        function: [("task loss".to_string(), "classification".into())].into(),
        replays: true,
    };
    let scored = |x: u64| Scored { loss: 1.0 / (x as f64 + 0.1), accuracy: Some(0.5), digest: Digest(x) };
    let mut log = Log::begin(Log::lock(folder.path())?, folder.path(), header, Fsync::Never)?;
    log.untrained(scored(1))?;
    log.dev(scored(0))?;
    for step in 1..=40u64 {
        let before = log.bytes();
        log.step(step, &[(step as f32).sin(), (step as f32).cos()])?;
        assert_eq!(log.bytes() - before, 16, "a two-point step with one direction");
        if step % 10 == 0 {
            log.dev(scored(step))?;
        }
        if step == 20 {
            log.done(Done { best_step: 20, digests: vec![digest] })?;
            log.extend(40)?;
        }
    }
    log.done(Done { best_step: 40, digests: vec![digest] })?;
    let trajectory = log.trajectory().clone();
    let bytes = std::fs::read(folder.path().join("trajectory.bin"))?;
    Ok((folder, bytes, trajectory))
}

/// A step that is made again, as after a checkpoint, must give the values that are written down, to the bit and as many.
#[test]
fn a_step_that_comes_out_otherwise_is_an_error() -> Result<()> {
    let (folder, bytes, trajectory) = log()?;
    let mut log = Log::resume(folder.path())?;
    let known = trajectory.values(7).unwrap().to_vec();
    log.step(7, &known)?;
    let moved = [known[0], f32::from_bits(known[1].to_bits() ^ 1)];
    for other in [&moved[..], &known[..1], &[]] {
        let error = log.step(7, other).unwrap_err().to_string();
        assert!(error.starts_with("step 7 gives other values than before: "), "{error}");
    }
    assert!(std::fs::read(folder.path().join("trajectory.bin"))? == bytes, "something was written");
    Ok(())
}

fn same(a: &Trajectory, b: &Trajectory) -> Result<bool> {
    let steps = (1..=a.steps()).all(|s| a.values(s) == b.values(s));
    Ok(a.steps() == b.steps() && steps && serde_json::to_value(a)? == serde_json::to_value(b)?)
}

/// Whether `part` says nothing of its steps that `whole` does not say.
fn is_prefix(part: &Trajectory, whole: &Trajectory) -> bool {
    part.steps() <= whole.steps()
        && (1..=part.steps()).all(|s| part.values(s) == whole.values(s))
        && part.dev.iter().all(|(step, scored)| whole.dev.get(step) == Some(scored))
        && part.untrained.is_none_or(|scored| whole.untrained == Some(scored))
}

/// A run that was made longer keeps the best of all its scores, the one at the cut among them; one that ended, what it ended with.
#[test]
fn the_score_at_a_cut_is_a_candidate_for_the_best() -> Result<()> {
    let (_folder, _, whole) = log()?;
    let mut trajectory =
        Trajectory::new(Header { config: RunConfig { eval_steps: 4, ..whole.header.config.clone() }, ..whole.header });
    let scored = |loss: f64| Scored { loss, accuracy: None, digest: Digest(1) };
    for step in 1..=30u64 {
        trajectory.push(Record::Step(vec![0.0, 1.0]))?;
        match step {
            4 | 8 | 12 | 16 => trajectory.push(Record::Dev(scored(2.0 - step as f64 / 100.0)))?,
            18 => trajectory.push(Record::Dev(scored(0.5)))?,
            _ => {}
        }
        if step == 18 {
            trajectory.max_steps = 18;
            trajectory.push(Record::Extended(30))?;
        }
    }
    assert_eq!((trajectory.best(30).map(|(step, _)| step), trajectory.kept()), (Some(18), 18));
    trajectory.push(Record::Done(Done { best_step: 16, digests: Vec::new() }))?;
    assert_eq!(trajectory.kept(), 16, "a log of a version that kept another");
    Ok(())
}

#[test]
fn a_log_reads_back_as_it_was_written_and_a_torn_tail_is_left_out() -> Result<()> {
    let (_folder, bytes, written) = log()?;
    let (read, torn) = Trajectory::read(&bytes)?;
    assert!(same(&read, &written)? && torn.is_none());
    assert_eq!(read.best(40).map(|(step, _)| step), Some(40));
    assert_eq!((read.config().max_steps, read.config().stages[0].last, read.config().stages[0].max_steps), (40, 20, 20));
    let header = 8 + 4 + u32::from_le_bytes(bytes[8..12].try_into()?) as usize + 4;
    let mut whole = 0;
    for cut in 0..bytes.len() {
        match Trajectory::read(&bytes[..cut]) {
            Ok((part, torn)) => {
                assert!(cut >= header && is_prefix(&part, &written), "cut at {cut}");
                whole += usize::from(torn.is_none());
            }
            Err(e) => assert!(cut < header && e.to_string().contains("its beginning is incomplete"), "cut at {cut}: {e}"),
        }
    }
    assert_eq!(whole, 49, "a cut before each of the 49 records");
    // A machine that lost its power may leave zeros where data never came.
    for zeros in [1, 16, 4096] {
        let (part, torn) = Trajectory::read(&[&bytes[..bytes.len() - 20], &vec![0; zeros][..]].concat())?;
        assert!(torn.is_some() && is_prefix(&part, &written));
    }
    Ok(())
}

#[test]
fn damage_in_the_middle_is_an_error_that_names_the_step() -> Result<()> {
    let (_folder, bytes, _) = log()?;
    let header = 8 + 4 + u32::from_le_bytes(bytes[8..12].try_into()?) as usize + 4;
    // Step 7: behind the header, two scores of 32 bytes and six steps of 16.
    let seventh = header + 2 * 32 + 6 * 16;
    for at in seventh..seventh + 16 {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let error = Trajectory::read(&damaged).unwrap_err().to_string();
            assert!(error.contains("the record of step 7 is damaged"), "byte {at}, bit {bit}: {error}");
        }
    }
    for (damaged, step) in [
        // One is missing, one is there twice, two have changed places.
        ([&bytes[..seventh], &bytes[seventh + 16..]].concat(), 7),
        ([&bytes[..seventh + 16], &bytes[seventh..]].concat(), 8),
        (
            [&bytes[..seventh], &bytes[seventh + 16..seventh + 32], &bytes[seventh..seventh + 16], &bytes[seventh + 32..]]
                .concat(),
            7,
        ),
    ] {
        let error = Trajectory::read(&damaged).unwrap_err().to_string();
        assert!(error.contains(&format!("the record of step {step} is damaged")), "{error}");
    }
    let mut damaged = bytes.clone();
    damaged[header / 2] ^= 1;
    assert!(Trajectory::read(&damaged).unwrap_err().to_string().contains("header is damaged"));
    damaged[7] = 9;
    assert!(Trajectory::read(&damaged).unwrap_err().to_string().contains("format 9"));
    Ok(())
}

/// Tens of thousands of damaged files: none makes a panic, and what is read of one is what was written.
#[test]
fn no_damage_makes_a_wrong_replay() -> Result<()> {
    let (folder, log, written) = log()?;
    let file = folder.path().join("shared.zot");
    export(&written, &file)?;
    let shared = std::fs::read(&file)?;
    let (condensed, _) = Trajectory::read(&shared)?;
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = zotune::direction::seed::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (state % below as u64) as usize
    };
    let (mut errors, mut parts) = (0, 0);
    for trial in 0..40_000 {
        let (whole, original) = if trial % 2 == 0 { (&log, &written) } else { (&shared, &condensed) };
        let mut bytes = whole.clone();
        for _ in 0..1 + random(3) {
            // The header is most of these small files; what matters is behind it.
            let behind = bytes.len() - 1 - random(bytes.len().min(800));
            let at = if random(3) == 0 { random(bytes.len()) } else { behind };
            let len = 1 + random(40);
            let end = (at + len).min(bytes.len());
            match random(7) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = random(256) as u8,
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.drain(at..end)),
                4 => drop(bytes.splice(at..at, (0..len).map(|i| (i * 37) as u8).collect::<Vec<_>>())),
                5 => drop(bytes.splice(at..at, whole[..len.min(whole.len())].to_vec())),
                _ => bytes[at..end].fill(0),
            }
            if bytes.len() < 2 {
                break;
            }
        }
        match Trajectory::read(&bytes) {
            Ok((read, _)) => {
                assert!(is_prefix(&read, original), "trial {trial}: {} steps were read otherwise", read.steps());
                parts += 1;
            }
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 10_000 && parts > 1_000, "{errors} errors, {parts} read");
    Ok(())
}

#[test]
fn what_is_handed_on_reads_back_condensed_and_says_nothing_of_this_machine() -> Result<()> {
    let (folder, _, mut written) = log()?;
    let file = folder.path().join("shared.zot");
    written.header.config.inputs.data = Some("/home/somebody".into());
    let Exported { front, steps } = export(&written, &file)?;
    assert_eq!(front + steps, std::fs::metadata(&file)?.len());
    let read = Trajectory::open(&file)?;
    assert_eq!((read.steps(), &read.dev, &read.done), (40, &written.dev, &written.done));
    let plan = &read.header.config;
    assert_eq!((&plan.inputs.data, plan.output_dir.as_os_str().len()), (&None, 0));
    for step in 1..=40 {
        let (plus, minus) = ((step as f32).sin(), (step as f32).cos());
        assert_eq!(read.values(step), Some(&[plus - minus, 0.0][..]));
    }
    assert_eq!((read.values(0), read.values(41)), (None, None));
    Ok(())
}
