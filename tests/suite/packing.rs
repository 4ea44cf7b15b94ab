//! The packed loss against the plain way: each candidate a padded row of its own, full logits, log-softmax over them.

use anyhow::Result;
use candle_core::{D, DType};
use zotune::data::task::Loss;
use zotune::data::{Batch, Example};
use zotune::device::Activations;
use zotune::model::Model;
use zotune::params::Params;
use zotune::prompt::PromptLoss;
use zotune::prompt::evaluate::evaluate;
use zotune::zo::{Batches, Objective, Problem};

use crate::support::{FIXTURES, Llama, alone, example, open};

/// Candidates of unequal length and number; some share a beginning, one is the beginning of another, and so it is with prompts.
fn examples() -> Vec<Example> {
    vec![
        example(1, &[2, 10, 11, 12], &[&[20], &[21]]),
        example(0, &[2, 13, 14, 15, 16, 17], &[&[30, 31, 32], &[30, 33], &[34]]),
        example(2, &[2, 18], &[&[40, 41, 42, 43, 44, 45], &[40, 41], &[40, 41, 42], &[46]]),
        example(0, &[2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], &[&[50, 51], &[50, 51, 52]]),
        example(1, &[2], &[&[60], &[61, 62]]),
        example(0, &[2, 13, 14, 15], &[&[16, 17], &[20, 21]]),
        example(1, &[2, 10, 11, 12], &[&[22], &[20], &[23]]),
    ]
}

/// Log-probabilities of a candidate's answer tokens, from the full logits of its own padded row.
fn plainly(model: &Model, params: &mut Params, tokens: &[u32], option_len: usize, padded_to: usize) -> Result<Vec<f64>> {
    let mut row = tokens.to_vec();
    row.resize(padded_to, 1);
    let Activations::Cpu(logits) = model.logits(params.settle()?, &Batch::sequence(&row))?;
    let logits = logits.to_dtype(DType::F64)?;
    let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?.to_vec2::<f64>()?;
    Ok((tokens.len() - option_len..tokens.len()).map(|i| log_probs[i - 1][tokens[i] as usize]).collect())
}

fn plain_loss(model: &Model, params: &mut Params, loss: Loss, examples: &[&Example]) -> Result<f64> {
    let longest = examples.iter().flat_map(|e| &e.candidates).map(|c| c.tokens.len()).max().unwrap_or(0);
    let (mut sum, mut weight) = (0.0, 0.0);
    for example in examples {
        let all: Vec<Vec<f64>> = example
            .candidates
            .iter()
            .map(|c| plainly(model, params, &c.tokens, c.option_len, longest))
            .collect::<Result<_>>()?;
        match loss {
            Loss::Classification => {
                let means: Vec<f64> = all.iter().map(|l| l.iter().sum::<f64>() / l.len() as f64).collect();
                sum += means.iter().map(|m| m.exp()).sum::<f64>().ln() - means[example.label];
                weight += 1.0;
            }
            Loss::TeacherForcing => {
                sum -= all[example.label].iter().sum::<f64>();
                weight += all[example.label].len() as f64;
            }
        }
    }
    Ok(sum / weight)
}

#[test]
fn the_packed_loss_is_the_plain_loss() -> Result<()> {
    let examples = examples();
    let all: Vec<&Example> = examples.iter().collect();
    for name in FIXTURES {
        let (model, mut params) = open(name)?;
        for loss in [Loss::Classification, Loss::TeacherForcing] {
            let plain = plain_loss(&model, &mut params, loss, &all)?;
            let mut whole = None;
            for micro_batch_size in [7, 2, 1] {
                let mut packed = PromptLoss::of_all(&model, loss, &examples, micro_batch_size);
                let found = f64::from(packed.loss(params.settle()?)?);
                let difference = (found - plain).abs();
                assert!(
                    difference < 2e-6 * plain.abs().max(1.0),
                    "{name}, {loss:?}, {micro_batch_size}: {found}, not {plain}"
                );
                // Whatever a token stands beside, and whoever shares it, its bits are the same.
                assert_eq!(*whole.get_or_insert(found), found, "{name}, {loss:?}, {micro_batch_size}");
                assert_eq!(packed.cost().forwards, 7u64.div_ceil(micro_batch_size as u64));
            }
            let evaluation = evaluate(&model, params.settle()?, &examples, loss, 3, |_| Ok(()))?;
            assert!((evaluation.loss - plain).abs() < 2e-6 * plain.abs().max(1.0), "{name}: evaluation {}", evaluation.loss);
            assert_eq!(evaluation.examples.len(), 7);
        }
    }
    Ok(())
}

/// Prompts longer than a block of queries, with answers that share prefixes and are longer than one themselves.
#[test]
fn the_packed_loss_of_long_examples_is_the_plain_loss() -> Result<()> {
    let (model, mut params) = Llama::SMALL.open()?;
    let tokens = |n: u32, step: u32| (0..n).map(|i| (7 + i * step + i * i) % 64).collect::<Vec<_>>();
    let (long, tail) = (tokens(70, 3), tokens(66, 5));
    let examples = [
        example(0, &tokens(64, 1), &[&[20, 21], &[22]]),
        example(1, &tokens(65, 1), &[&long, &[long.as_slice(), &tail].concat(), &[9]]),
        example(1, &tokens(130, 2), &[&tail, &tail[..64], &[8, 8]]),
    ];
    let all: Vec<&Example> = examples.iter().collect();
    for loss in [Loss::Classification, Loss::TeacherForcing] {
        let plain = plain_loss(&model, &mut params, loss, &all)?;
        let found = f64::from(PromptLoss::of_all(&model, loss, &examples, 3).loss(params.settle()?)?);
        assert!((found - plain).abs() < 5e-6 * plain.abs().max(1.0), "{loss:?}: {found}, not {plain}");
    }
    Ok(())
}

/// A micro-batch of 1 holds less than the whole batch: that is what it is for.
#[test]
fn micro_batches_hold_less() -> Result<()> {
    if !alone("packing::micro_batches_hold_less")? {
        return Ok(());
    }
    let (model, mut params) = open("opt-tiny")?;
    let many: Vec<Example> =
        (0..32).map(|i| example(0, &[2, 10 + i, 11, 12, 13, 14, 15, 16, 17], &[&[20], &[21]])).collect();
    let mut held = |size| -> Result<usize> {
        let mut loss = PromptLoss::of_all(&model, Loss::Classification, &many, size);
        loss.loss(params.settle()?)?;
        loss.loss(params.settle()?)?;
        // The first token is there once.
        assert_eq!(loss.num_tokens(), 32 * 8 + 32 / size);
        Ok(loss.cost().peaks.held)
    };
    let (whole, single) = (held(32)?, held(1)?);
    assert!(single > 0 && 4 * single < whole, "{single} bytes a micro-batch of 1, {whole} the whole");
    Ok(())
}

/// `--fresh-batch-per-direction`: a step's directions see the batches that as many steps would.
#[test]
fn fresh_batches_are_those_of_further_steps() -> Result<()> {
    let (model, _) = open("opt-tiny")?;
    let many: Vec<Example> = (0..12).map(|i| example(0, &[2, 10 + i, 11], &[&[20], &[21]])).collect();
    let batches = || Batches::new(12, 2, 7);
    let mut fresh = PromptLoss::new(&model, Loss::Classification, &many, batches(), 2).with_batches_per_step(3);
    for step in 1..=3 {
        fresh.begin(step);
        for k in 0..3 {
            fresh.turn_to(k);
            assert_eq!(fresh.batch(), batches().at((step - 1) * 3 + k as u64), "step {step}, direction {k}");
        }
    }
    let mut shared = PromptLoss::new(&model, Loss::Classification, &many, batches(), 2);
    shared.begin(2);
    shared.turn_to(5);
    assert_eq!(shared.batch(), batches().at(1));
    Ok(())
}

/// Of candidates with the same score the first is the prediction.
#[test]
fn the_first_of_equals_is_predicted() -> Result<()> {
    let (model, mut params) = open("opt-tiny")?;
    let examples = [example(1, &[2, 10, 11], &[&[20], &[20], &[20]]), example(0, &[2, 10], &[&[20], &[20]])];
    let found = evaluate(&model, params.settle()?, &examples, Loss::Classification, 2, |_| Ok(()))?;
    for scored in &found.examples {
        assert!(scored.scores.iter().all(|score| *score == scored.scores[0]), "{scored:?}");
        assert_eq!(scored.prediction, 0);
    }
    assert_eq!(found.accuracy, Some(0.5));
    Ok(())
}

/// f is the mean of the f_i, and f_i weighs as much as its tokens do: in teacher forcing a longer answer more than a shorter one.
#[test]
fn the_examples_losses_make_up_the_loss_over_all() -> Result<()> {
    let (model, mut params) = open("opt-tiny")?;
    let examples = [example(0, &[2, 10, 11], &[&[20, 21, 2], &[7]]), example(1, &[2], &[&[5], &[30, 31, 32, 33]])];
    for loss in [Loss::Classification, Loss::TeacherForcing] {
        let alone = |params: &mut Params, e: &Example| plain_loss(&model, params, loss, &[e]);
        let (first, second) = (alone(&mut params, &examples[0])?, alone(&mut params, &examples[1])?);
        let weights = if loss == Loss::Classification { [1.0, 1.0] } else { [3.0 / 3.5, 4.0 / 3.5] };
        let mut problem = PromptLoss::of_all(&model, loss, &examples, 1);
        let found = problem.example_losses(params.settle()?)?.remove(0);
        for (found, expected) in found.iter().zip([weights[0] * first, weights[1] * second]) {
            assert!((found - expected).abs() < 2e-6 * expected, "{loss:?}: {found}, not {expected}");
        }
        let whole = f64::from(problem.loss(params.settle()?)?);
        assert!((found.iter().sum::<f64>() / 2.0 - whole).abs() < 2e-6 * whole);
    }
    Ok(())
}

/// Completions of one's own: one candidate each, and no accuracy.
#[test]
fn the_loss_of_completions_is_the_plain_loss_of_their_tokens() -> Result<()> {
    let (model, mut params) = open("opt-tiny")?;
    let examples =
        [example(0, &[2, 10, 11], &[&[20, 21, 2]]), example(0, &[2], &[&[30, 31, 32, 33]]), example(0, &[2, 9], &[&[2]])];
    let all: Vec<&Example> = examples.iter().collect();
    let plain = plain_loss(&model, &mut params, Loss::TeacherForcing, &all)?;
    let found = f64::from(PromptLoss::of_all(&model, Loss::TeacherForcing, &examples, 2).loss(params.settle()?)?);
    assert!((found - plain).abs() < 2e-6 * plain, "{found}, not {plain}");
    let evaluation = evaluate(&model, params.settle()?, &examples, Loss::TeacherForcing, 2, |_| Ok(()))?;
    assert!((evaluation.loss - plain).abs() < 2e-6 * plain && evaluation.accuracy.is_none(), "{evaluation:?}");
    Ok(())
}
