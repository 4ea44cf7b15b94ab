//! The same bits twice, for any number of threads; and a run that learns.

use anyhow::Result;
use zotune::base::Stop;
use zotune::config::{RawArgs, RunConfig};
use zotune::data::task::{Loss, Task};
use zotune::data::{Batch, Example, Pick};
use zotune::device::cpu::Machine;
use zotune::prompt::PromptLoss;
use zotune::prompt::loss::scores;
use zotune::run::setup::{language_task, set_up};
use zotune::run::train::train;
use zotune::run::trajectory::Header;
use zotune::run::{LoadedModel, Results};
use zotune::zo::{StepContext, Workload};

use crate::support::{FIXTURES, Llama, example, flat, open};

/// A run on the built-in model and sentences, on `threads` threads: its results, and the bytes of its weights.
fn run(threads: usize, toml: &str) -> Result<(Results, Vec<u8>)> {
    run_on(zotune::device::cpu::simd::machine(), threads, toml)
}

/// The same, held to a part of the machine.
fn run_on(machine: Machine, threads: usize, toml: &str) -> Result<(Results, Vec<u8>)> {
    let folder = tempfile::tempdir()?;
    let knobs = RawArgs::from_toml(toml, "test")?;
    let mut plan = RunConfig::check(knobs)?;
    plan.output_dir = folder.path().join("run");
    zotune::device::cpu::simd::on(machine, threads, || {
        let task = Task::of(plan.inputs.task.as_deref(), None)?;
        let rows = task.splits(&task.data(None)?, plan.sizes(), 0)?;
        let mut bench = LoadedModel::open(&plan.inputs)?;
        let examples = bench.encode_splits(&rows, plan.batch_size)?;
        let mut optimizer = set_up(&mut plan, &mut bench, examples.train.len())?;
        let LoadedModel { model, params, max_length, .. } = &mut bench;
        let workload = language_task(&plan, &task, model, &examples, *max_length);
        let header = Header::new(&plan, "as tested", &workload, params)?;
        let mut log = zotune::run::folder::begin(&plan, header, &"an example".into(), &[])?;
        let (stop, bar) = (Stop::default(), zotune::run::Progress::hidden());
        let results = train(&plan, &workload, params, &mut optimizer, &mut log, &stop, bar)?;
        Ok((results, std::fs::read(plan.output_dir.join("model.safetensors"))?))
    })?
}

const SHORT: &str =
    "max_steps = 5\neval_steps = 5\nnum_dev = 10\nnum_eval = 10\nbatch_size = 4\nlearning_rate = 1e-4\nseed = 3\n";

#[test]
fn a_run_gives_the_same_bits_for_any_number_of_threads() -> Result<()> {
    for dtype in ["f32", "bf16", "f16"] {
        let toml = format!("{SHORT}dtype = \"{dtype}\"\n");
        let (results, weights) = run(1, &toml)?;
        for threads in [2, 3, 8] {
            let (again, same) = run(threads, &toml)?;
            assert!(same == weights, "{dtype}: weights differ between 1 and {threads} threads");
            assert_eq!(
                (again.dev_loss, again.eval_loss),
                (results.dev_loss, results.eval_loss),
                "{dtype}, {threads} threads"
            );
        }
        // Nor does the instruction set matter: products, norms and noise add up in one order on all of them. Units for pairs of bf16
        // numbers have orders of their own.
        let without_unit = |machine: &Machine| *machine <= Machine::Avx512;
        let (of_plain, plain) =
            run_on(zotune::device::cpu::simd::machines().filter(without_unit).last().unwrap(), 2, &toml)?;
        if dtype != "bf16" {
            assert!(plain == weights && of_plain.dev_loss == results.dev_loss, "{dtype}: the unit for bf16 was used");
        }
        for machine in zotune::device::cpu::simd::machines().filter(without_unit) {
            let (again, same) = run_on(machine, 2, &toml)?;
            assert!(same == plain && again.dev_loss == of_plain.dev_loss, "{dtype}: {machine:?} gives other bits");
        }
        let (other, moved) = run(2, &toml.replace("seed = 3", "seed = 4"))?;
        assert!(moved != weights && other.dev_loss != results.dev_loss, "{dtype}: the seed does not matter");
    }
    Ok(())
}

/// A run that asks for signs walks along signs, whatever its method.
#[test]
fn a_run_along_signs_walks_along_signs() -> Result<()> {
    for (distribution, along_signs) in [("rademacher", true), ("gaussian", false)] {
        let toml = format!("{SHORT}distribution = \"{distribution}\"\n");
        let mut plan = RunConfig::check(RawArgs::from_toml(&toml, "test")?)?;
        let task = Task::of(plan.inputs.task.as_deref(), None)?;
        let rows = task.splits(&task.data(None)?, plan.sizes(), 0)?;
        let mut bench = LoadedModel::open(&plan.inputs)?;
        let examples = bench.encode_splits(&rows, plan.batch_size)?;
        let mut optimizer = set_up(&mut plan, &mut bench, examples.train.len())?;
        let workload = language_task(&plan, &task, &bench.model, &examples, bench.max_length);
        let mut problem = workload.problem();
        let before = flat(bench.params.settle()?)?;
        let at = StepContext { learning_rate: 1e-2, ..plan.step_context(1) };
        let (estimate, _) = optimizer.estimator.estimate(&at, &mut bench.params, problem.as_mut())?;
        optimizer.rule.step(&at, &mut bench.params, &estimate, None)?;
        let after = flat(bench.params.settle()?)?;
        let moved = f64::from(1e-2 * estimate.terms[0].coeff).abs();
        let is_sign = |(a, b): (&f64, &f64)| ((a - b).abs() - moved).abs() < 1e-4 * moved + 1e-6;
        assert_eq!(before.iter().zip(&after).all(is_sign), along_signs, "{distribution}, {moved}");
    }
    Ok(())
}

#[test]
fn forwards_give_the_same_bits_for_any_number_of_threads() -> Result<()> {
    for name in FIXTURES {
        let (model, mut params) = open(name)?;
        let examples: Vec<_> =
            (0..9).map(|i| example(0, &[2, 10 + i, 11, 12, 13, 14, 15, 16, 17], &[&[20, 21], &[20, 22, 23]])).collect();
        let batch = Batch::pack(&examples, Pick::All);
        let weights = params.settle()?;
        let on = |threads| -> Result<_> {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| scores(&model, weights, &batch))
        };
        let one = on(1)?;
        for threads in [2, 5] {
            assert_eq!(on(threads)?, one, "{name}, {threads} threads");
        }
    }
    Ok(())
}

/// Products large enough that the matrix library spreads them over threads; softmax, norms and activations compiled for
/// every instruction set.
#[test]
fn wide_models_give_the_same_bits_for_any_number_of_threads_and_any_vector_width() -> Result<()> {
    let sizes = Llama { vocab: 3000, hidden: 256, inner: 1024, layers: 2, heads: 8, kv_heads: 4, tied: true };
    let (model, mut params) = sizes.open()?;
    let long: Vec<u32> = (0..90).map(|i| 5 + 31 * i).collect();
    let examples: Vec<_> = (0..6).map(|i| example(0, &long[i..], &[&[20, 21, 22], &[20, 23]])).collect();
    let batch = Batch::pack(&examples, Pick::All);
    let weights = params.settle()?;
    let on = |threads| -> Result<_> {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| scores(&model, weights, &batch))
    };
    let one = on(1)?;
    for threads in [2, 3, 8] {
        assert_eq!(on(threads)?, one, "{threads} threads");
    }
    for machine in zotune::device::cpu::simd::machines() {
        let again = zotune::device::cpu::simd::on(machine, 2, || scores(&model, weights, &batch))?;
        assert_eq!(again?, one, "{machine:?}");
    }
    Ok(())
}

#[test]
fn a_step_costs_two_forwards_and_the_loss_falls() -> Result<()> {
    let toml = "max_steps = 120\neval_steps = 60\nnum_dev = 40\nnum_eval = 60\nbatch_size = 8\nlearning_rate = 1e-4\n";
    let (results, _) = run(2, toml)?;
    assert_eq!((results.totals.forwards, results.totals.function_evaluations, results.totals.backwards), (240, 240, 0));
    assert!(
        results.eval_loss < results.untrained_eval_loss - 0.05,
        "{} -> {}",
        results.untrained_eval_loss,
        results.eval_loss
    );
    let (several, _) = run(
        2,
        &format!("{toml}num_directions = 3\nperturbation_mode = \"one-side\"\n")
            .replace("max_steps = 120", "max_steps = 20")
            .replace("eval_steps = 60", "eval_steps = 20"),
    )?;
    assert_eq!((several.totals.forwards, several.totals.function_evaluations), (80, 80));
    let (micro, _) = run(2, &format!("{toml}micro_batch_size = 2\n").replace("max_steps = 120", "max_steps = 60"))?;
    assert_eq!((micro.totals.forwards, micro.totals.function_evaluations), (480, 120));
    Ok(())
}

#[test]
fn the_losses_of_the_two_labels_are_those_of_one_distribution() -> Result<()> {
    let (model, mut params) = open("opt-tiny")?;
    let (a, b) = (example(0, &[2, 10, 11], &[&[20], &[21]]), example(1, &[2, 10, 11], &[&[20], &[21]]));
    let mut loss = |e: &Example| -> Result<f32> {
        PromptLoss::of_all(&model, Loss::Classification, std::slice::from_ref(e), 1).loss(params.settle()?)
    };
    let (right, wrong) = (loss(&a)?, loss(&b)?);
    // Two candidates: the probabilities of the two labels sum to one.
    assert!(((-right).exp() + (-wrong).exp() - 1.0).abs() < 1e-5);
    Ok(())
}
