//! The fixtures told otherwise, in every field of config.json and in what heads are stored, against what transformers makes of the
//! same (tests/fixtures/odd.json, made by scripts/make_odd_models.py): the same numbers, or a refusal.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use zotune::base::Source;
use zotune::data::Batch;
use zotune::formats::Checkpoint;
use zotune::model::Model;

use crate::support::{copy_of, edit, fixture, fixture_json, numbers, tokens};

/// Every fourth logit of the last token, and whether the head is the embedding.
fn compute(folder: &Path, tokens: &[u32]) -> Result<Option<(Vec<f64>, bool)>> {
    let (model, mut params) = Model::open(&Source::Folder(folder.into()), DType::F32)?;
    if model.shape().max_length < tokens.len() {
        return Ok(None);
    }
    let logits = model.logits(params.settle()?, &Batch::sequence(tokens))?;
    let last: Vec<f32> = logits.select(&[logits.num_rows()? as u32 - 1])?.to_vec()?;
    Ok(Some((last.into_iter().step_by(4).map(f64::from).collect(), params.id("lm_head.weight").is_none())))
}

/// Gives the checkpoint an lm_head.weight: the embedding's rows moved on by one, the embedding again, or it alone.
fn change_head(folder: &Path, how: &str) -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Folder(folder.into()))?;
    let mut all: HashMap<String, Tensor> = HashMap::new();
    for (name, shape) in checkpoint.shapes() {
        all.insert(name.into(), checkpoint.read(name, shape, DType::F32)?.tensor()?);
    }
    let name = all.keys().find(|name| name.ends_with("embed_tokens.weight")).context("no embedding")?.clone();
    let embedding = if how == "only" { all.remove(&name) } else { all.get(&name).cloned() }.context("no embedding")?;
    let rows = embedding.dim(0)?;
    let rolled = Tensor::cat(&[embedding.narrow(0, rows - 1, 1)?, embedding.narrow(0, 0, rows - 1)?], 0)?;
    all.insert("lm_head.weight".into(), if how == "rolled" { rolled } else { embedding });
    for old in ["model.safetensors", "pytorch_model.bin"] {
        let _ = std::fs::remove_file(folder.join(old));
    }
    Ok(candle_core::safetensors::save(&all, folder.join("model.safetensors"))?)
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

/// What transformers refuses and we read: a null as if nothing was said, and LLaMA's layer_types, at which neither looks.
fn is_read_here_alone(case: &Value) -> bool {
    let llama = case["model"].as_str().is_some_and(|name| name.starts_with("llama"));
    let set = case["set"].as_object().filter(|set| set.len() == 1);
    set.is_some_and(|set| set.iter().all(|(name, value)| value.is_null() || llama && name == "layer_types"))
}

#[test]
fn whatever_a_config_says_is_computed_as_transformers_does_or_refused() -> Result<()> {
    let reference = fixture_json("odd.json")?;
    let sequence = tokens(&reference["tokens"]);
    let mut plain: HashMap<&str, Vec<f64>> = HashMap::new();
    let (mut same, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for case in reference["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let logits = numbers(&case["logits"]);
        if !plain.contains_key(name) {
            plain.insert(name, logits.clone());
        }
        let expected = if logits.is_empty() { &plain[name] } else { &logits };
        let folder = copy_of(name)?;
        edit(folder.path(), "config.json", |config| {
            numbers_of(&case["drop"]).iter().for_each(|field| drop(config.remove(field.as_str())));
            config.extend(case["set"].as_object().cloned().unwrap_or_default());
        })?;
        if let Some(how) = case["head"].as_str() {
            change_head(folder.path(), how)?;
        }
        let told = format!("{name} {} {} {}", case["set"], case["drop"], case["head"]);
        match (compute(folder.path(), &sequence), case["error"].as_str()) {
            (Err(error), _) => refused.push(format!("{told}: {error:#}")),
            // Where transformers has a window that is shorter, we have a shorter longest prompt.
            (Ok(None), _) => {}
            (Ok(Some((found, _))), Some(_)) if is_read_here_alone(case) => {
                // Without a base there is the usual one.
                assert!(told.contains("rope_theta") || difference(&found, expected) < 1e-4, "{told}");
            }
            (Ok(Some(_)), Some(error)) => wrong.push(format!("{told} is read, and transformers says {error}")),
            (Ok(Some((found, tied))), None) => {
                let difference = difference(&found, expected);
                if difference > 1e-4 || case["tied"] != tied {
                    wrong.push(format!("{told}: off by {difference}, tied {tied}"));
                } else {
                    same += 1;
                }
            }
        }
    }
    if std::env::var_os("ODD_SHOW").is_some() {
        println!("{}\n\n{}", refused.join("\n"), wrong.join("\n"));
    }
    println!("{same} the same, {} refused", refused.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same > 600, "only {same} were read");
    Ok(())
}

fn numbers_of(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect()
}

/// Rows of a larger tensor, transposed, strided and expanded views, several in one storage, in three precisions.
#[test]
fn tensors_that_are_views_are_the_numbers_that_they_show() -> Result<()> {
    let reference = fixture_json("odd.json")?;
    let (found, tied) = compute(&fixture("odd-views"), &tokens(&reference["tokens"]))?.context("too short")?;
    let expected = numbers(&reference["views"]["logits"]);
    assert!(difference(&found, &expected) < 1e-4 && tied, "{found:?}, not {expected:?}");
    let checkpoint = Checkpoint::open(&Source::Folder(fixture("odd-views")))?;
    let whole = candle_core::safetensors::load(fixture("llama-tiny").join("model.safetensors"), &Device::Cpu)?;
    for (name, shape) in checkpoint.shapes().filter(|(name, _)| whole.contains_key(*name) && *name != "model.norm.weight") {
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
        let (found, expected) = (values(&checkpoint.read(name, shape, DType::F32)?.tensor()?)?, values(&whole[name])?);
        let largest = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        assert!(largest < 4e-3, "{name}: {largest}");
    }
    Ok(())
}

/// A view that goes beyond its storage is met before anything is read by it, and a storage that is damaged where a view of it is read.
#[test]
fn views_of_damaged_storages_are_errors() -> Result<()> {
    use std::io::{Read, Write};
    let rewritten = |which: &str, change: &dyn Fn(&mut Vec<u8>)| -> Result<tempfile::TempDir> {
        let folder = copy_of("odd-views")?;
        let file = folder.path().join("pytorch_model.bin");
        let mut from = zip::ZipArchive::new(std::fs::File::open(fixture("odd-views").join("pytorch_model.bin"))?)?;
        let mut to = zip::ZipWriter::new(std::fs::File::create(&file)?);
        for i in 0..from.len() {
            let mut entry = from.by_index(i)?;
            let (name, mut bytes) = (entry.name()?.to_string(), Vec::new());
            entry.read_to_end(&mut bytes)?;
            if name.ends_with(which) {
                change(&mut bytes);
            }
            to.start_file(&name, zip::write::SimpleFileOptions::default())?;
            to.write_all(&bytes)?;
        }
        to.finish()?;
        Ok(folder)
    };
    let sequence = tokens(&fixture_json("odd.json")?["tokens"]);
    assert!(compute(rewritten("data/0", &|_| {})?.path(), &sequence)?.is_some());
    let error =
        |folder: &Path| Ok::<_, anyhow::Error>(format!("{:#}", compute(folder, &sequence).err().context("it opened")?));
    let big = error(rewritten("/byteorder", &|order| *order = b"big".into())?.path())?;
    assert!(big.contains("written big-endian"), "{big}");
    // The first storage has the fused queries, keys and values.
    let cut = error(rewritten("data/0", &|bytes| bytes.truncate(900))?.path())?;
    assert!(cut.contains("more than the 900 bytes of its storage; was the download cut short?"), "{cut}");
    // A byte turned over somewhere in the middle of the zip's storage, behind its checksum's back.
    let folder = copy_of("odd-views")?;
    let file = folder.path().join("pytorch_model.bin");
    let mut whole = std::fs::read(&file)?;
    let place = whole.windows(6).position(|bytes| bytes == b"data/0").context("not a storage")? + 600;
    whole[place] ^= 1;
    std::fs::write(&file, whole)?;
    let error = error(folder.path())?;
    assert!(error.contains("cannot read tensor") && error.to_lowercase().contains("checksum"), "{error}");
    Ok(())
}

/// A head that is stored beside the embedding with other numbers: it is a weight wherever the model is looked at, also where its weights
/// are not read, and what is written says so and is the same model.
#[test]
fn a_head_of_its_own_is_written_as_one() -> Result<()> {
    let sequence = tokens(&fixture_json("odd.json")?["tokens"]);
    for name in ["llama-tiny", "opt-350m-tiny", "gemma3-tiny"] {
        let folder = copy_of(name)?;
        let source = Source::Folder(folder.path().into());
        let heads = |params: &zotune::params::Params| params.id("lm_head.weight").is_some();
        assert!(!heads(&Model::open_meta(&source, DType::F32, None)?.1), "{name}");
        change_head(folder.path(), "rolled")?;
        let (outline, params, sizes) = Model::open_meta(&source, DType::F32, None)?;
        assert!(heads(&params) && heads(&outline.stand_in(DType::F32, 2)?.1), "{name}");
        let (model, mut params) = Model::open(&source, DType::F32)?;
        assert_eq!(params.ids().count(), sizes.len(), "{name}");
        // The head is no part of what embeds tokens, and so of no block's training but its own.
        let head = params.id("lm_head.weight").context("no head")?;
        let segment = model.place(head).unwrap().segment;
        assert_eq!((segment, model.last_blocks(0).contains(&head)), (zotune::model::Segment::Head, true), "{name}");

        let written = tempfile::tempdir()?;
        model.save(params.settle()?, written.path())?;
        model.write_companions(written.path(), DType::F32, name)?;
        let config: Value = serde_json::from_slice(&std::fs::read(written.path().join("config.json"))?)?;
        assert_eq!(config["tie_word_embeddings"], false, "{name}");
        assert_eq!(compute(written.path(), &sequence)?, compute(folder.path(), &sequence)?, "{name}");
        // Where config.json alone is there, it is what counts.
        std::fs::remove_file(folder.path().join("model.safetensors"))?;
        assert!(!heads(&Model::open_meta(&source, DType::F32, None)?.1), "{name}");
    }
    // One that is to be there and is not is nothing that could be invented.
    let folder = copy_of("qwen2-tiny")?;
    edit(folder.path(), "config.json", |config| drop(config.insert("tie_word_embeddings".into(), false.into())))?;
    let error = format!("{:#}", Model::open(&Source::Folder(folder.path().into()), DType::F32).err().context("it opened")?);
    assert!(error.contains("no lm_head.weight") && error.contains("\"tie_word_embeddings\": true"), "{error}");
    Ok(())
}
