//! Adapters against PEFT's numbers (tests/fixtures/adapters, made by scripts/make_adapters.py), against the models that they are
//! merged into, and through the built binary.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use zotune::base::Source;
use zotune::data::task::Loss;
use zotune::data::{Batch, Example};
use zotune::direction::Term;
use zotune::model::Model;
use zotune::model::adapter::{Adapter, AdapterKind, Lora};
use zotune::params::{Params, Role};
use zotune::prompt::PromptLoss;
use zotune::zo::Problem;

use crate::support::{example, fixture, open, zotune};

/// The last began as PiSSA and was saved against what it began as, which makes it an ordinary one.
const PEFTS: [&str; 7] = [
    "opt-tiny-lora",
    "opt-tiny-lora-all",
    "opt-tiny-prefix",
    "llama-tiny-lora",
    "llama-tiny-lora-all",
    "llama-tiny-prefix",
    "llama-tiny-pissa",
];

fn base_of(adapter: &str) -> &str {
    if adapter.starts_with("opt-tiny") { "opt-tiny" } else { "llama-tiny" }
}

fn adapted(base: &str, dtype: DType, adapter: Adapter) -> Result<(Model, Params)> {
    Model::open_adapted(&Source::Folder(fixture(base)), dtype, Some(adapter))
}

fn lora(r: usize, alpha: f64, targets: &[&str]) -> Adapter {
    let targets = targets.iter().map(|t| t.to_string()).collect();
    Adapter::new(AdapterKind::Lora(Lora { r, alpha, by_root: false, targets }))
}

fn logits(model: &Model, params: &mut Params, tokens: &[u32]) -> Result<Vec<f32>> {
    model.logits(params.settle()?, &Batch::sequence(tokens))?.to_vec()
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

fn assert_close(place: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{place}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * (1.0 + e.abs()), "{place}, element {i}: {f}, not {e}");
    }
}

/// Gives every weight of the adapter some value.
fn scatter(model: &Model, params: &mut Params) -> Result<()> {
    for id in model.adapter_ids(params) {
        let values: Vec<f32> =
            zotune::direction::uniform::uniform(7, &format!("{id:?}"), params.len(id)).iter().map(|u| 0.3 * u).collect();
        params.overwrite(id, &mut bytemuck::cast_slice::<f32, u8>(&values))?;
    }
    Ok(())
}

#[test]
fn pefts_adapters_give_pefts_logits_and_gradients() -> Result<()> {
    let reference = candle_core::safetensors::load(fixture("adapters.safetensors"), &Device::Cpu)?;
    let tokens: Vec<u32> = reference["tokens"].to_vec1::<i64>()?.into_iter().map(|id| id as u32).collect();
    let mut gradients = 0;
    for name in PEFTS {
        let adapter = Adapter::open(&fixture("adapters").join(name))?;
        let (model, mut params) = adapted(base_of(name), DType::F32, adapter)?;
        let found = logits(&model, &mut params, &tokens)?;
        assert_close(&format!("{name}: logits"), &found, &floats(&reference[&format!("{name}/logits")])?, 2e-5);

        let ids = model.adapter_ids(&params);
        params.ids().map(|(id, _)| id).collect::<Vec<_>>().into_iter().for_each(|id| params.set_role(id, Role::Frozen));
        ids.iter().for_each(|id| params.set_role(*id, Role::Differentiated));
        let names: HashMap<_, _> = params.ids().map(|(id, name)| (id, name.to_string())).collect();
        let examples = [example(0, &tokens[..1], &[&tokens[1..]])];
        let problem = PromptLoss::of_all(&model, Loss::TeacherForcing, &examples, 1);
        let (loss, mut blocks) = problem.backward(params.settle()?)?;
        assert_close(&format!("{name}: loss"), &[loss], &floats(&reference[&format!("{name}/loss")])?, 1e-5);
        while let Some(block) = blocks.next(params.settle()?)? {
            for (id, gradient) in block {
                let weight = &names[&id];
                let stored =
                    if weight == "prompt_embeddings" { weight.clone() } else { format!("base_model.model.{weight}") };
                let expected = floats(&reference[&format!("{name}/{stored}")])?;
                assert_close(&format!("{name}: gradient of {weight}"), &gradient, &expected, 2e-5);
                gradients += 1;
            }
        }
    }
    assert_eq!(gradients, 8 + 24 + 1 + 8 + 28 + 1 + 8);
    Ok(())
}

/// What is written is what was read, to the byte of each tensor, and says what PEFT needs.
#[test]
fn an_adapter_that_is_written_is_the_one_that_was_read() -> Result<()> {
    for name in PEFTS {
        let place = fixture("adapters").join(name);
        let (model, mut params) = adapted(base_of(name), DType::F32, Adapter::open(&place)?)?;
        let folder = tempfile::tempdir()?;
        model.save(params.settle()?, folder.path())?;
        model.write_companions(folder.path(), DType::F32, "some/base")?;
        let [stored, written] = [&place, folder.path()]
            .map(|folder| candle_core::safetensors::load(folder.join("adapter_model.safetensors"), &Device::Cpu));
        let (stored, written) = (stored?, written?);
        assert_eq!(stored.len(), written.len(), "{name}");
        for (tensor, values) in &stored {
            assert_eq!(floats(values)?, floats(&written[tensor])?, "{name}: {tensor}");
            assert_eq!(values.dims(), written[tensor].dims(), "{name}: {tensor}");
        }
        let config: Value = serde_json::from_slice(&std::fs::read(folder.path().join("adapter_config.json"))?)?;
        assert_eq!(config["base_model_name_or_path"], "some/base");
        assert!(!folder.path().join("config.json").exists() && !folder.path().join("model.safetensors").exists());
        // Back into a model whose adapter was moved meanwhile.
        scatter(&model, &mut params)?;
        model.restore(&mut params, folder.path())?;
        let (again, mut others) = adapted(base_of(name), DType::F32, Adapter::open(folder.path())?)?;
        assert_eq!(logits(&model, &mut params, &[2, 9, 5])?, logits(&again, &mut others, &[2, 9, 5])?, "{name}");
    }
    Ok(())
}

#[test]
fn a_new_lora_changes_no_logit_and_a_merged_one_gives_the_same() -> Result<()> {
    let tokens: Vec<u32> = (0..20).map(|i| 4 + (i * 7) % 50).collect();
    for base in ["opt-tiny", "opt-350m-tiny", "llama-tiny", "llama3-tiny"] {
        for targets in [&["q_proj", "v_proj"][..], &["all-linear"], &["k_proj"]] {
            let (plain, mut weights) = open(base)?;
            let (model, mut params) = adapted(base, DType::F32, lora(3, 5.0, targets))?;
            model.begin_adapter(&mut params, 1)?;
            let before = logits(&plain, &mut weights, &tokens)?;
            assert_eq!(logits(&model, &mut params, &tokens)?, before, "{base}, {targets:?}: B is 0");
            scatter(&model, &mut params)?;
            let found = logits(&model, &mut params, &tokens)?;
            assert_ne!(found, before);
            let folder = tempfile::tempdir()?;
            model.write_merged(params, folder.path())?;
            let (merged, mut params) = Model::open(&Source::Folder(folder.path().into()), DType::F32)?;
            assert_eq!(params.ids().count(), weights.ids().count());
            assert_close(&format!("{base}, {targets:?}"), &logits(&merged, &mut params, &tokens)?, &found, 5e-5);
        }
    }
    Ok(())
}

/// A new prefix is what its tokens would be: those behind it come out as if they stood there. In half precision too, where the
/// prefix itself is in f32.
#[test]
fn a_new_prefix_is_as_if_its_tokens_stood_in_front() -> Result<()> {
    let tokens: Vec<u32> = (0..70).map(|i| 4 + (i * i) % 50).collect();
    for base in ["opt-tiny", "opt-350m-tiny", "llama-tiny", "llama3-tiny"] {
        let tokens = if base.starts_with("opt") { &tokens[..20] } else { &tokens[..] };
        let (plain, mut weights) = open(base)?;
        let (model, mut params) = adapted(base, DType::F32, Adapter::new(AdapterKind::Prefix(5)))?;
        assert_eq!(model.shape().max_length + 5, plain.shape().max_length);
        model.begin_adapter(&mut params, 3)?;
        let vocab = plain.shape().vocab_size as u64;
        let front: Vec<u32> = (0..5).map(|i| (zotune::direction::seed::direction_seed(3, 0, i) % vocab) as u32).collect();
        let whole = logits(&plain, &mut weights, &[&front, tokens].concat())?;
        let expected = &whole[5 * vocab as usize..];
        assert_close(base, &logits(&model, &mut params, tokens)?, expected, 2e-5);
        // And for candidates that share a prompt, which see the prefix, the prompt and themselves.
        let example = example(0, &tokens[..9], &[&[20, 21, 22], &[23, 24]]);
        let in_front = |e: &Example| {
            let mut e = e.clone();
            e.candidates.iter_mut().for_each(|c| c.tokens.splice(0..0, front.iter().copied()).for_each(drop));
            e
        };
        let loss = |model: &Model, params: &mut Params, examples: &[Example]| -> Result<f64> {
            let mut problem = PromptLoss::of_all(model, Loss::Classification, examples, 2);
            Ok(problem.example_losses(params.settle()?)?.iter().flatten().sum())
        };
        let examples = [example.clone(), example];
        let found = loss(&model, &mut params, &examples)?;
        let expected = loss(&plain, &mut weights, &examples.each_ref().map(in_front))?;
        assert!((found - expected).abs() < 1e-5, "{base}: {found}, not {expected}");
    }
    Ok(())
}

/// PEFT's `reset_lora_parameters`: A is Kaiming-uniform with a = sqrt 5, which is uniform within 1 / sqrt(inner); B is 0.
#[test]
fn a_new_lora_begins_as_pefts_do() -> Result<()> {
    let (model, mut params) = adapted("llama-tiny", DType::BF16, lora(64, 16.0, &["all-linear"]))?;
    model.begin_adapter(&mut params, 1)?;
    let (mut seen, weights) = (0, params.settle()?);
    for (name, tensor) in weights.iter() {
        let values = floats(&tensor.tensor()?)?;
        if name.ends_with(".lora_B.weight") {
            assert!(values.iter().all(|b| *b == 0.0) && tensor.dtype() == DType::F32);
        } else if name.ends_with(".lora_A.weight") {
            let bound = 1.0 / (tensor.shape()[1] as f32).sqrt();
            let n = values.len() as f32;
            let (mean, square) = (values.iter().sum::<f32>() / n, values.iter().map(|a| a * a).sum::<f32>() / n);
            assert!(values.iter().all(|a| a.abs() <= bound), "{name}");
            assert!(
                mean.abs() < 0.1 * bound && (square / (bound * bound) - 1.0 / 3.0).abs() < 0.05,
                "{name}: {mean} {square}"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_by_name() -> Result<()> {
    let error = |found: Result<(Model, Params)>| format!("{:#}", found.map(drop).expect_err("it opened"));
    let bad_target = error(adapted("opt-tiny", DType::F32, lora(2, 4.0, &["q_proj", "v_prj"])));
    assert!(
        bad_target.contains("`lora_target_modules` v_prj") && bad_target.contains("did you mean \"v_proj\"?"),
        "{bad_target}"
    );
    let other = error(adapted("llama-tiny", DType::F32, Adapter::open(&fixture("adapters/opt-tiny-lora"))?));
    assert!(other.contains("model.decoder.layers.0.self_attn.q_proj.lora_A.weight"), "{other}");
    assert!(other.contains("does not fit this model") && other.contains("opt-tiny"), "{other}");
    let narrow = error(adapted("llama-new-tiny", DType::F32, Adapter::open(&fixture("adapters/opt-tiny-prefix"))?));
    assert!(narrow.contains("its num_attention_heads is 4, but the model needs 1"), "{narrow}");

    let edited = |knob: &str, value: Value| -> Result<String> {
        let folder = tempfile::tempdir()?;
        let from = fixture("adapters/opt-tiny-lora");
        std::fs::copy(from.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("adapter_config.json"))?)?;
        config[knob] = value;
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string())?;
        Ok(format!("{:#}", Adapter::open(folder.path()).map(drop).expect_err("it opened")))
    };
    assert!(
        edited("use_dora", true.into())?
            .contains("use_dora is true, which is not supported; it must be false (merge it with PEFT")
    );
    assert!(edited("bias", "all".into())?.contains("bias is \"all\""));
    assert!(edited("peft_type", "IA3".into())?.contains("adapters of the type IA3"));
    assert!(edited("r", Value::Null)?.contains("r or lora_alpha is missing"));
    Ok(())
}

fn succeeds(folder: &Path, args: &str) -> Result<String> {
    let output = zotune(folder, args).output()?;
    anyhow::ensure!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

const TRAIN: &str =
    "train --model opt-mini --task reviews --num-train 32 --num-dev 8 --num-eval 8 --eval-steps 4 --lr 1e-3 -q";

/// The run leaves an adapter; it is read back, merged, replayed from its trajectory, and gone on with, all to the same bits.
#[test]
fn an_adapter_is_trained_and_read_back_and_merged_and_replayed() -> Result<()> {
    let kinds =
        [("--lora-r 4", "", 200_000), ("--prefix-tuning", "", 50_000), ("--lora-r 4 --dtype bf16", "--dtype bf16", 200_000)];
    for (kind, held, file_limit) in kinds {
        let place = tempfile::tempdir()?;
        let folder = place.path();
        let json: Value =
            serde_json::from_str(&succeeds(folder, &format!("{TRAIN} {kind} --max-steps 8 --output-dir run --json"))?)?;
        let run = folder.join("run");
        let adapter = std::fs::read(run.join("adapter_model.safetensors"))?;
        let next = succeeds(folder, &format!("{TRAIN} {kind} --max-steps 1 --output-dir next"))?;
        assert!(next.contains("next     zotune eval --model opt-mini --adapter next --task reviews"), "{next}");
        assert!(adapter.len() < file_limit, "{kind}: {} bytes", adapter.len());
        for absent in ["model.safetensors", "config.json"] {
            assert!(!run.join(absent).exists() && !run.join("checkpoint-8").join(absent).exists(), "{kind}: {absent}");
        }
        assert!(run.join("checkpoint-8/adapter_model.safetensors").is_file());
        let score = |args: &str| -> Result<Value> {
            let args = format!("eval {args} {held} --task reviews --num-eval 8 --json -q");
            Ok(serde_json::from_str(&succeeds(folder, &args)?)?)
        };
        let scored = score("--model opt-mini --adapter run")?;
        assert_eq!(scored["loss"], json["eval_loss"], "{kind}");
        succeeds(folder, "export run --trajectory mine.zot")?;
        assert_eq!(score("--model opt-mini --trajectory mine.zot")?["loss"], json["eval_loss"], "{kind}");
        succeeds(folder, "replay mine.zot --output-dir again -q")?;
        assert!(std::fs::read(folder.join("again/adapter_model.safetensors"))? == adapter, "{kind}");

        // Which step was the best on dev is no matter here; the last one's adapter is another than the first one's.
        let last = score("--model opt-mini --adapter run/checkpoint-8")?["loss"].as_f64().unwrap();
        assert_ne!(Some(last), json["untrained_eval_loss"].as_f64(), "{kind}");
        succeeds(folder, "replay mine.zot --to-step 8 --output-dir eighth -q")?;
        let [a, b] =
            ["eighth", "run/checkpoint-8"].map(|at| std::fs::read(folder.join(at).join("adapter_model.safetensors")));
        assert!(a? == b?, "{kind}");

        let merged = zotune(folder, "export run/checkpoint-8 --merge --output-dir merged").output()?;
        if kind == "--prefix-tuning" {
            assert_eq!(merged.status.code(), Some(2));
            assert!(String::from_utf8_lossy(&merged.stderr).contains("a prefix cannot be merged"));
            assert!(!folder.join("merged").exists());
        } else {
            let merged = score("--model merged")?["loss"].as_f64().unwrap();
            // In bf16 the sum is rounded.
            let tolerance = if held.is_empty() { 1e-5 } else { 0.02 };
            assert!((merged - last).abs() < tolerance, "{kind}: {merged}, not {last}");
        }
        // Broken off between two scores and gone on with: the same bytes behind the last step. (Which step is the best is another
        // question: where a run was to end it is scored, and that may be the best that the unbroken run has no score of.)
        succeeds(folder, &format!("{TRAIN} {kind} --max-steps 5 --output-dir half --save-steps 3"))?;
        succeeds(folder, "train --resume half --max-steps 8 -q")?;
        let last = |run: &str| std::fs::read(folder.join(run).join("checkpoint-8/adapter_model.safetensors"));
        assert!(last("half")? == last("run")?, "{kind}");
        // Broken off at a score: the same steps are scored, and the same is the best.
        succeeds(folder, &format!("{TRAIN} {kind} --max-steps 4 --output-dir scored --save-steps 3"))?;
        succeeds(folder, "train --resume scored --max-steps 8 -q")?;
        assert!(std::fs::read(folder.join("scored/adapter_model.safetensors"))? == adapter, "{kind}");
        // Trained further, from the folder and from the trajectory.
        succeeds(folder, &format!("{TRAIN} {held} --adapter run --max-steps 4 --output-dir more"))?;
        succeeds(folder, &format!("{TRAIN} --trajectory mine.zot --max-steps 4 --output-dir more2"))?;
        let more = ["more", "more2"].map(|run| std::fs::read(folder.join(run).join("adapter_model.safetensors")));
        assert!(more[0].as_ref().unwrap() == more[1].as_ref().unwrap(), "{kind}");
    }
    Ok(())
}

/// Whatever the method, an adapter's or a part's training leaves the rest of the model as it is, and costs state for itself alone.
#[test]
fn every_method_trains_an_adapter_or_a_part_alone() -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path();
    let before = zotune::model::builtin::OPT_MINI.read("model.safetensors")?.unwrap();
    let before = candle_core::safetensors::load_buffer(&before, &Device::Cpu)?;
    for method in zotune::zo::methods::METHODS.iter().map(|method| method.name) {
        for kind in ["--lora-r 2", "--prefix-tuning", "--tune layers.1.,layer_norm"] {
            let out = format!("{method}{}", kind.replace(' ', ""));
            let trained =
                succeeds(folder, &format!("{TRAIN} {kind} --optimizer {method} --max-steps 3 --output-dir {out} --json"))?;
            let json: Value = serde_json::from_str(&trained)?;
            assert_eq!(json["steps"], 3, "{out}");
            let state = json["optimizer_state_bytes"].as_u64().unwrap();
            let weights = json["weights_bytes"].as_u64().unwrap();
            assert!(state < weights, "{out}: {state} bytes of state");
            if kind.starts_with("--tune") {
                let after = candle_core::safetensors::load(folder.join(&out).join("model.safetensors"), &Device::Cpu)?;
                for (name, tensor) in &before {
                    let moved = floats(tensor)? != floats(&after[name])?;
                    let wanted = name.contains("layers.1.") || name.contains("layer_norm");
                    assert!(wanted || !moved, "{out}: {name} moved");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn mistakes_about_adapters_exit_with_2_and_say_what_to_type() -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path();
    succeeds(folder, &format!("{TRAIN} --lora-r 2 --max-steps 1 --output-dir run"))?;
    let fails = |args: &str, expected: &str| -> Result<()> {
        let output = zotune(folder, args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args}: {said}");
        assert!(said.contains(expected), "{args}: {said}");
        Ok(())
    };
    fails("eval --model run --task reviews", "give the base model too: --model opt-mini --adapter run")?;
    fails("eval --model opt-mini --adapter nowhere", "there is no such folder")?;
    fails(&format!("{TRAIN} --lora-r 2 --prefix-tuning"), "--lora-r and --prefix-tuning exclude each other")?;
    fails(&format!("{TRAIN} --lora-alpha 2"), "--lora-alpha needs --lora-r")?;
    fails(&format!("{TRAIN} --tune nothing"), "--tune nothing: no weight has this name")?;
    fails(
        &format!("{TRAIN} --adapter run --lora-r 2"),
        "--adapter cannot be combined with --tune, --lora-r or --prefix-tuning",
    )?;
    fails(&format!("{TRAIN} --lora-r 2 --lora-target-modules q_prj"), "did you mean \"q_proj\"?")?;
    fails("train --resume run --lora-r 3 --max-steps 2", "--lora-r 3: the run uses 2")?;
    fails("export run", "--trajectory")?;
    let adapter = fixture("adapters/llama-tiny-lora");
    fails(&format!("eval --model opt-mini --task reviews --adapter {}", adapter.display()), "does not fit this model")?;
    Ok(())
}

/// What the blocks below the first trained weight make of a mini-batch is computed once: the losses are to the bit those of whole
/// forwards, and a look at the frozen weights comes with the next mini-batch alone.
#[test]
fn blocks_that_stay_as_they_are_are_gone_through_once_a_batch() -> Result<()> {
    let examples = [example(0, &[2, 10, 11, 12], &[&[20], &[21]]), example(1, &[2, 30, 31], &[&[40, 41], &[40, 43]])];
    for base in ["opt-tiny", "llama-tiny"] {
        let (model, mut params) = open(base)?;
        let ids: Vec<_> = params.ids().map(|(id, name)| (id, name.contains("layers.1."))).collect();
        ids.iter().filter(|(_, last)| !last).for_each(|(id, _)| params.set_role(*id, Role::Frozen));
        let whole = |params: &mut Params| -> Result<f32> {
            PromptLoss::of_all(&model, Loss::Classification, &examples, 1).loss(params.settle()?)
        };
        let mut problem = PromptLoss::of_all(&model, Loss::Classification, &examples, 1);
        for seed in 0..3 {
            params.perturb(&[Term::gaussian(seed, 0.1)]);
            assert_eq!(problem.loss(params.settle()?)?, whole(&mut params)?, "{base}, {seed}");
        }
        let before = problem.loss(params.settle()?)?;
        let first = params.id(if base == "opt-tiny" {
            "model.decoder.layers.0.fc1.weight"
        } else {
            "model.layers.0.mlp.up_proj.weight"
        });
        let first = first.unwrap();
        let other = vec![0.3f32; params.len(first)];
        params.overwrite(first, &mut bytemuck::cast_slice::<f32, u8>(&other))?;
        assert_eq!(problem.loss(params.settle()?)?, before, "{base}: block 0 was gone through again");
        problem.begin(2);
        let after = problem.loss(params.settle()?)?;
        assert!(after != before && after == whole(&mut params)?, "{base}");
    }
    Ok(())
}

#[test]
fn adapters_give_the_same_bits_on_every_instruction_set_and_any_number_of_threads() -> Result<()> {
    let tokens: Vec<u32> = (0..35).map(|i| 4 + (i * 5) % 50).collect();
    for adapter in [lora(3, 5.0, &["all-linear"]), Adapter::new(AdapterKind::Prefix(5))] {
        let (model, mut params) = adapted("llama-tiny", DType::F32, adapter)?;
        scatter(&model, &mut params)?;
        let expected = logits(&model, &mut params, &tokens)?;
        for machine in zotune::device::cpu::simd::machines() {
            let found = zotune::device::cpu::simd::on(machine, 2, || logits(&model, &mut params, &tokens))?;
            assert!(found? == expected, "{machine:?}");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            assert!(pool.install(|| logits(&model, &mut params, &tokens))? == expected, "{threads} threads");
        }
    }
    Ok(())
}
