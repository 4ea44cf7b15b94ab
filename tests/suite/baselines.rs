//! Shifts of scores and linear probes: closed forms, brute force, scikit-learn's numbers (tests/fixtures/probe.json, made by
//! scripts/make_probe.py), transformers' logits.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::baselines::{Features, LogisticRegression, Probe, Shifts, calibration::CONTENT_FREE, logistic::TOLERANCE};
use zotune::data::task::{Sizes, Task};
use zotune::prompt::Scored;

use crate::support::rows::{LABELS, fails, json_of, labelled, write};
use crate::support::{FIXTURES, RUN, done, example, fixture_json, numbers, open, tokens, workplace};

/// Rows of two classes from the differences of their scores, second less first.
fn of_differences(rows: &[(f64, usize)]) -> Vec<Scored> {
    rows.iter().enumerate().map(|(i, (difference, label))| Scored::of(i, *label, vec![1.5, 1.5 + difference])).collect()
}

fn count_right(rows: &[Scored]) -> usize {
    rows.iter().filter(|row| row.prediction == row.label).count()
}

#[test]
fn a_threshold_is_the_middle_of_the_best_gap() {
    for (rows, shift) in [
        // The best cut is between 0.5 and 1.
        (&[(-2.0, 0), (3.0, 1), (-1.0, 0), (0.5, 0), (1.0, 1), (-3.0, 1)][..], -0.75),
        (&[(-2.0, 1), (-5.0, 0)], 3.5),
        // A threshold of 0 that is among the best stays.
        (&[(-1.0, 0), (7.0, 1)], 0.0),
        // No cut between the rows is better than one answer for all: 1 nat outside, the lower shift of two as near.
        (&[(-1.0, 1), (1.0, 0)], -2.0),
        (&[(1.0, 0), (1.0, 0), (1.0, 1)], -2.0),
        // Of two cuts with as many right answers, the nearer to 0.
        (&[(3.0, 1), (1.0, 0), (-5.0, 1), (-7.0, 0)], -2.0),
        (&[(7.0, 1), (5.0, 0), (-1.0, 1), (-3.0, 0)], 2.0),
    ] {
        assert_eq!(Shifts::threshold(&of_differences(rows)), Shifts(vec![0.0, shift]), "{rows:?}");
    }
}

/// Numbers that look random, between 0 and 1.
fn noise(count: usize) -> Vec<f64> {
    (1..=count).map(|i| (i as f64 * 0.754_877_666_246_692_8 + (i * i) as f64 * 0.569_840_290_998_053_2).fract()).collect()
}

#[test]
fn no_shift_of_one_class_has_more_right_answers() {
    for classes in 2..5 {
        let scores = noise(50 * classes);
        let labels = noise(50).into_iter().map(|x| (x * classes as f64) as usize);
        let rows = scores.chunks(classes).zip(labels).enumerate();
        let rows: Vec<Scored> = rows.map(|(i, (scores, label))| Scored::of(i, label, scores.to_vec())).collect();
        let found = Shifts::threshold(&rows);
        let right = count_right(&found.applied(&rows));
        assert!(right > count_right(&rows), "{classes} classes: {right}");
        for class in 0..classes {
            for step in -2000..2000 {
                let mut other = found.clone();
                other.0[class] += f64::from(step) * 0.001;
                assert!(count_right(&other.applied(&rows)) <= right, "{classes} classes, class {class}: {}", other.0[class]);
            }
        }
    }
}

#[test]
fn content_free_shifts_are_minus_ln_of_the_mean_probabilities() {
    // Probabilities of 1/4 and 3/4, then 1/2 and 1/2: on average 3/8 and 5/8.
    let scores = [vec![0.25f64.ln() - 3.0, 0.75f64.ln() - 3.0], vec![-9.0, -9.0]];
    let found = Shifts::content_free(&scores);
    for (shift, mean) in found.0.iter().zip([0.375f64, 0.625]) {
        assert!((shift + mean.ln()).abs() < 1e-14, "{found:?}");
    }
}

/// The text takes the place of each value that the template uses, in objects too; what the template does with it is done.
#[test]
fn a_prompt_without_content_goes_through_the_tasks_template() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let row = json!({ "text": "Mark told Pete.", "target": { "span1_text": "Mark", "span2_text": "He" }, "label": true });
    write(&folder.path().join("val.jsonl"), &[row])?;
    let wsc = Task::open("wsc")?;
    let found = wsc.content_free(&wsc.data(Some(folder.path()))?, "N/A")?;
    let prompt = "N/A\nIn the previous sentence, does the pronoun \"n/a\" refer to N/A? Yes or No?\n";
    assert_eq!((found.prompt.as_str(), found.answered[1].as_str()), (prompt, format!("{prompt}Yes").as_str()));

    let file = "description = \"d\"\nloss = \"classification\"\nmetric = \"accuracy\"\n[data]\nformat = \"jsonl\"\n\
                train = \"train.jsonl\"\neval = \"val.jsonl\"\n[prompt]\ntemplate = \"{{ words | join }}\"\n\
                candidates = [\"a\", \"b\"]\n[label]\ncolumn = \"label\"\nvalues = [\"0\", \"1\"]\n";
    std::fs::write(folder.path().join("mine.toml"), file)?;
    write(&folder.path().join("val.jsonl"), &[json!({ "words": ["x", "y"], "label": 0 })])?;
    let mine = Task::open(&folder.path().join("mine.toml").display().to_string())?;
    let error = mine.content_free(&mine.data(Some(folder.path()))?, "N/A").unwrap_err();
    assert_eq!(format!("{error:#}"), "the column \"words\" of mine: it holds lists, so there is no row without content");
    Ok(())
}

fn features(case: &Value) -> Features {
    let rows = case["features"].as_array().into_iter().flatten();
    let labels: Vec<usize> = numbers(&case["labels"]).into_iter().map(|label| label as usize).collect();
    Features {
        values: rows.flat_map(numbers).map(|x| x as f32).collect(),
        width: case["width"].as_u64().unwrap() as usize,
        indices: (0..labels.len()).collect(),
        labels,
    }
}

#[test]
fn a_logistic_regression_is_scikit_learns() -> Result<()> {
    let cases = fixture_json("probe.json")?;
    let mut checked = 0;
    for case in cases["cases"].as_array().into_iter().flatten() {
        let (rows, classes) = (features(case), case["classes"].as_u64().unwrap() as usize);
        let mut model = LogisticRegression::new(&rows, classes);
        for (found, expected) in model.standard.mean.iter().zip(numbers(&case["mean"])) {
            assert!((found - expected).abs() < 1e-12);
        }
        // A constant feature counts for nothing.
        assert_eq!(model.standard.inverse.iter().position(|inverse| *inverse == 0.0), Some(2));
        for fit in case["fits"].as_array().into_iter().flatten() {
            model.fit(&rows, fit["l2"].as_f64().unwrap())?;
            let expected: Vec<f64> = fit["log_probabilities"].as_array().into_iter().flatten().flat_map(numbers).collect();
            let found = model.log_probabilities(&rows);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "{classes} classes, {}: {found} and not {expected}", fit["l2"]);
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 6);
    Ok(())
}

/// At the optimum the gradient, added up element by element, is 0; where the fit began does not matter; nor does the number of threads.
#[test]
fn a_fit_ends_at_the_minimum_from_everywhere() -> Result<()> {
    let cases = fixture_json("probe.json")?;
    let case = &cases["cases"][1];
    let (rows, l2) = (features(case), 0.01);
    let mut model = LogisticRegression::new(&rows, 3);
    model.fit(&rows, l2)?;
    let (width, count) = (rows.width, rows.labels.len());
    let log_probabilities = model.log_probabilities(&rows);
    let mut largest = 0f64;
    for class in 0..3 {
        for j in 0..=width {
            let residual = |i: usize| log_probabilities[3 * i + class].exp() - f64::from(u8::from(rows.labels[i] == class));
            let z = |i: usize| match j == width {
                true => 1.0,
                false => (f64::from(rows.values[i * width + j]) - model.standard.mean[j]) * model.standard.inverse[j],
            };
            let mean = (0..count).map(|i| residual(i) * z(i)).sum::<f64>() / count as f64;
            let penalty = if j == width { 0.0 } else { l2 * model.weights[class * (width + 1) + j] };
            largest = largest.max((mean + penalty).abs());
        }
    }
    assert!(largest < 2.0 * TOLERANCE, "{largest:e}");

    let mut other = LogisticRegression::new(&rows, 3);
    other.weights.iter_mut().zip(noise(1000)).for_each(|(weight, noise)| *weight = noise - 0.5);
    other.fit(&rows, l2)?;
    for (a, b) in log_probabilities.iter().zip(other.log_probabilities(&rows)) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
    for threads in [1, 3] {
        let mut again = LogisticRegression::new(&rows, 3);
        rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| again.fit(&rows, l2))?;
        assert_eq!(again, model, "{threads} threads");
    }

    assert!(format!("{:#}", other.fit(&rows, 0.0).unwrap_err()).contains("an L2 penalty of 0: it must be greater than 0"));
    let error = LogisticRegression::new(&rows, 4).fit(&rows, l2).unwrap_err();
    assert!(format!("{error:#}").contains("no row has the class 3"), "{error:#}");
    Ok(())
}

/// The penalty is chosen on dev alone, and the evaluation split is reported with it.
#[test]
fn the_penalty_with_the_lowest_dev_loss_is_reported() -> Result<()> {
    let cases = fixture_json("probe.json")?;
    let case = &cases["cases"][0];
    let (rows, mut turned) = (features(case), features(case));
    // On dev rows with the labels exchanged, the fit that says least is the best.
    turned.labels.iter_mut().for_each(|label| *label = 1 - *label);
    let same = Probe::of(&rows, &rows, &turned, 2)?;
    assert_eq!(same.l2, same.tried.last().context("tried")?.l2);
    assert!(same.tried.is_sorted_by(|a, b| a.dev_loss > b.dev_loss && a.train_loss == a.dev_loss && a.l2 > b.l2));
    let sum = same.judgement.accuracy + same.tried.last().context("tried")?.dev_accuracy;
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    let against = Probe::of(&rows, &turned, &rows, 2)?;
    assert_eq!(against.l2, 100.0);
    assert!(same.is_at_the_end() && against.is_at_the_end());
    let mut model = LogisticRegression::new(&rows, 2);
    model.fit(&rows, 100.0)?;
    let losses = model.log_probabilities(&rows).chunks(2).zip(&rows.labels).map(|(row, label)| -row[*label]).sum::<f64>();
    assert!((against.judgement.loss - losses / rows.labels.len() as f64).abs() < 1e-9);
    Ok(())
}

/// The features are what the head reads: multiplied by it they are transformers' logits. They do not depend on the right answer.
#[test]
fn features_are_the_last_states_of_transformers() -> Result<()> {
    let reference = fixture_json("logits.json")?;
    for name in FIXTURES {
        let (model, mut params) = open(name)?;
        let sequences = reference["models"][name]["sequences"].as_array().context("sequences")?;
        let prompts: Vec<Vec<u32>> = sequences.iter().map(|sequence| tokens(&sequence["tokens"])).collect();
        // The second prompt twice, with other labels and longer answers.
        let examples = [
            example(0, &prompts[0], &[&[5], &[6]]),
            example(0, &prompts[1], &[&[5, 7], &[6]]),
            example(1, &prompts[1], &[&[5], &[6, 9]]),
        ];
        let weights = params.settle()?;
        let found = Features::of(&model, weights, &examples, 2, |_| Ok(()))?;
        assert_eq!((&found.labels[..], found.values.len()), (&[0, 0, 1][..], 3 * found.width), "{name}");
        assert_eq!(found.values[found.width..2 * found.width], found.values[2 * found.width..], "{name}");
        let matrix = |end: &str| weights.iter().find(|(name, _)| name.ends_with(end));
        let (_, head) = matrix("lm_head.weight").or_else(|| matrix("embed_tokens.weight")).context("a head")?;
        let head: Vec<f32> = head.tensor()?.flatten_all()?.to_vec1()?;
        let cap = (name == "gemma2-tiny").then_some(2.0);
        for (i, sequence) in sequences.iter().enumerate() {
            let expected = numbers(sequence["logits"].as_array().and_then(|rows| rows.last()).context("logits")?);
            let row = &found.values[i * found.width..(i + 1) * found.width];
            assert_eq!(head.len(), expected.len() * found.width, "{name}");
            for (weights, expected) in head.chunks(found.width).zip(&expected) {
                let logit: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let logit = cap.map_or(logit, |cap: f64| cap * (logit / cap).tanh());
                assert!((logit - expected).abs() < 1e-4, "{name}: {logit} and not {expected}");
            }
        }
    }
    Ok(())
}

fn lines(path: &std::path::Path) -> Result<Vec<Value>> {
    std::fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The shifts are those of prompts with the texts themselves, and they are what is added to the scores.
#[test]
fn shifts_without_content_are_those_of_rows_that_say_nothing() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (name, test) in [
        ("films", labelled(7)),
        // An empty text is none that data may have; the template trims this one to it.
        ("nothing", ["N/A", "[MASK]", " "].map(|text| json!({ "text": text, "label": LABELS[0] })).to_vec()),
    ] {
        std::fs::create_dir(place.join(name))?;
        write(&place.join(name).join("train.jsonl"), &labelled(30))?;
        write(&place.join(name).join("test.jsonl"), &test)?;
    }
    assert_eq!(CONTENT_FREE, ["N/A", "[MASK]", ""]);
    done(place, "eval --model model --data nothing --dump nothing.jsonl")?;
    let nothing = lines(&place.join("nothing.jsonl"))?;
    let found =
        json_of(&done(place, "eval --model model --data films --calibrate content-free --json --dump films.jsonl")?)?;
    let found = &found["calibration"];
    let shifts = numbers(&found["shifts"]);
    for (class, shift) in shifts.iter().enumerate() {
        let probability = |row: &Value| {
            let scores = numbers(&row["scores"]);
            scores[class].exp() / scores.iter().map(|score| score.exp()).sum::<f64>()
        };
        let mean = nothing.iter().map(probability).sum::<f64>() / 3.0;
        assert!((shift + mean.ln()).abs() < 1e-9, "{shift} and not {}", -mean.ln());
    }
    let (mut right, mut loss) = (0, 0.0);
    for row in lines(&place.join("films.jsonl"))? {
        let shifted: Vec<f64> = numbers(&row["scores"]).iter().zip(&shifts).map(|(score, shift)| score + shift).collect();
        assert_eq!(numbers(&row["calibrated_scores"]), shifted);
        let (prediction, label) = (usize::from(shifted[1] > shifted[0]), row["label"].as_u64().context("a label")? as usize);
        assert_eq!(row["calibrated_prediction"], prediction);
        right += usize::from(prediction == label);
        loss += ((shifted[0].exp() + shifted[1].exp()).ln() - shifted[label]) / 7.0;
    }
    assert_eq!((found["correct"].clone(), found["fitted_on"].clone()), (right.into(), 3.into()));
    assert!((found["loss"].as_f64().context("a loss")? - loss).abs() < 1e-9);
    Ok(())
}

/// Rows before a prompt give the scores of data whose texts have these rows before them; a threshold is not fitted on the rows shown.
#[test]
fn rows_in_the_prompt_are_those_of_a_text_that_has_them() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for name in ["plain", "whole"] {
        std::fs::create_dir(place.join(name))?;
        write(&place.join(name).join("train.jsonl"), &labelled(30))?;
    }
    let asked = labelled(5);
    write(&place.join("plain/test.jsonl"), &asked)?;
    let task = Task::of(None, Some(&place.join("plain")))?;
    let sizes = Sizes { num_train: Some(20), ..Sizes::default() };
    let (train, _) = task.train_and_dev(&task.data(Some(&place.join("plain")))?, sizes, 0)?;
    let shown: String = train[..3].iter().map(|row| format!("{}\n\n", row.answered[row.label])).collect();
    let with_shown = |row: &Value| {
        let text = row["text"].as_str().context("a text")?;
        Ok(json!({ "text": format!("{shown}{text}"), "label": row["label"] }))
    };
    write(&place.join("whole/test.jsonl"), &asked.iter().map(with_shown).collect::<Result<Vec<_>>>()?)?;
    let eval = |words: &str| json_of(&done(place, &format!("eval --model model --json {words}"))?);
    let found =
        eval("--data plain --num-fewshot 3 --num-train 20 --calibrate threshold --max-length 200 --dump plain.jsonl")?;
    assert_eq!((&found["num_fewshot"], &found["calibration"]["fitted_on"]), (&3.into(), &17.into()));
    let expected = eval("--data whole --max-length 200 --dump whole.jsonl")?;
    assert_eq!((&found["loss"], &found["accuracy"]), (&expected["loss"], &expected["accuracy"]));
    for (found, expected) in lines(&place.join("plain.jsonl"))?.iter().zip(&lines(&place.join("whole.jsonl"))?) {
        assert_eq!((&found["tokens"], &found["scores"]), (&expected["tokens"], &expected["scores"]));
    }
    Ok(())
}

/// A run's model is asked on the rows of the run, and any number of threads gives the same numbers.
#[test]
fn a_runs_model_is_fitted_on_the_runs_rows() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} --max-steps 1 --output-dir run"))?;
    let found = json_of(&done(place, "eval --model run --calibrate threshold --json")?)?;
    assert_eq!(found["calibration"]["fitted_on"], 40);
    let [before, after] = [0, 1].map(|i| found["calibration"]["train_accuracy"][i].as_f64().unwrap_or_default());
    assert!(after >= before && after >= 0.5, "{before} {after}");
    let text = String::from_utf8(done(place, "eval --model run --calibrate threshold")?.stdout)?;
    assert!(text.contains("shifts   \"0\" +0.0000, \"1\" ") && text.contains("the best on 40 training rows"), "{text}");

    let mut probes = Vec::new();
    for threads in [1, 3] {
        let mut found = json_of(&done(place, &format!("probe --model run --json --threads {threads}"))?)?;
        assert_eq!([&found["train_rows"], &found["dev_rows"], &found["examples"], &found["features"]], [40, 100, 10, 8]);
        for key in ["load_seconds", "feature_seconds", "fit_seconds", "peak_rss_bytes"] {
            assert!(found[key].take().as_f64().is_some_and(|x| x > 0.0), "{key}");
        }
        probes.push(found);
    }
    assert_eq!(probes[0], probes[1]);
    let text = String::from_utf8(done(place, "probe --model run --num-train 30 --dump probe.jsonl")?.stdout)?;
    assert!(text.contains("l2       100 (") && text.contains(", chosen)") && text.contains("always choosing"), "{text}");
    let sums = lines(&place.join("probe.jsonl"))?
        .into_iter()
        .map(|row| numbers(&row["scores"]).into_iter().map(f64::exp).sum::<f64>());
    assert!(sums.clone().count() == 10 && sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-12));
    Ok(())
}

#[test]
fn what_has_no_classes_and_what_has_no_rows_is_refused_by_name() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("rows.jsonl"), &labelled(40))?;
    write(&place.join("text.jsonl"), &[json!({ "text": "a" }), json!({ "text": "b" }), json!({ "text": "c" })])?;
    for (words, expected) in [
        ("eval --calibrate platt", "invalid value 'platt' for '--calibrate <BY>'"),
        (
            "eval --task copa --calibrate threshold",
            "--calibrate threshold needs a task with classes; each row of copa has answers of its own, so they are no classes",
        ),
        ("probe --task copa", "a probe needs a task with classes; each row of copa has answers of its own"),
        (
            "eval --model model --data text.jsonl --calibrate content-free",
            "--calibrate content-free needs a task with classes; the rows of text have one completion each",
        ),
        ("probe --model model --data text.jsonl", "a probe needs a task with classes; the rows of text have one completion"),
        (
            "probe --model model --data rows.jsonl --num-train 1",
            "so nothing can be fitted for it; take more rows with --num-train, or draw others with --train-set-seed",
        ),
        (
            "eval --model model --data rows.jsonl --calibrate threshold --num-train 1",
            "none of the training rows (1) has the label \"",
        ),
        ("probe --model model --data rows.jsonl --num-train 0", "--num-train 0: it must be at least 1"),
        ("eval --model model --data rows.jsonl --num-train 0 --calibrate threshold", "--num-train 0: it must be at least 1"),
        (
            "eval --model model --data rows.jsonl --num-dev 3",
            "--num-dev has no effect here: only --calibrate threshold and --num-fewshot read training rows",
        ),
        ("eval --model model --data text.jsonl --num-fewshot 1", "--num-fewshot needs a task with answers to choose from"),
        (
            "eval --model model --data rows.jsonl --num-fewshot 9 --num-train 8",
            "--num-fewshot 9: the training split has 8 training rows only",
        ),
        ("probe --model model --data rows.jsonl --dump no/such.jsonl", "--dump: the folder no does not exist"),
    ] {
        let said = fails(place, words, 2)?;
        assert!(said.contains(expected), "{words}: {said:?} does not say {expected:?}");
    }
    Ok(())
}
