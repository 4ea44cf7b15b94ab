//! Attacks on the files of models, tokenizers and adapters.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use serde_json::Value;
use zotune::base::Source;
use zotune::data::Batch;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::Model;
use zotune::model::adapter::Adapter;

use super::{damage, damage_json};
use crate::mutate::{self, Rng};
use crate::support::gguf::Gguf;
use crate::support::{copy_all, copy_of, fixture};

/// The bytes of all weights.
fn weights(params: &mut zotune::params::Params) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for (name, tensor) in params.settle()?.iter() {
        all.extend(name.as_bytes());
        all.extend(tensor.bytes());
    }
    Ok(all)
}

pub(super) fn read_model(folder: &Path) -> Result<Vec<u8>> {
    let (_, mut params) = Model::open(&Source::Folder(folder.into()), DType::F32)?;
    weights(&mut params)
}

/// The files of a zip archive, written again with their sums.
fn rezip(path: &Path, mut change: impl FnMut(&str, Vec<u8>) -> Vec<u8>) -> Result<()> {
    let mut from = zip::ZipArchive::new(std::io::Cursor::new(std::fs::read(path)?))?;
    let mut to = zip::ZipWriter::new(std::fs::File::create(path)?);
    for i in 0..from.len() {
        let mut entry = from.by_index(i)?;
        let (name, mut bytes) = (entry.name()?.to_string(), Vec::new());
        entry.read_to_end(&mut bytes)?;
        to.start_file(&name, zip::write::SimpleFileOptions::default())?;
        to.write_all(&change(&name, bytes))?;
    }
    to.finish()?;
    Ok(())
}

pub(super) fn attack_pickle(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("pytorch_model.bin");
    if rng.one_in(3) {
        damage(rng, &path)?;
        return Ok(true);
    }
    rezip(&path, |name, bytes| {
        if !name.ends_with("data.pkl") {
            return bytes;
        }
        let mut bytes = mutate::bytes(rng, &bytes);
        if rng.one_in(3) {
            // Operations where there were others.
            let at = rng.below(bytes.len());
            let operations =
                b".(0122BCGJKMNQRTUX]abcehjlqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x93\x94\x95";
            let run = *rng.pick(&[1, 3, 50_000]);
            let operation = *rng.pick(operations);
            drop(bytes.splice(at..at, vec![operation; run]));
        }
        bytes
    })?;
    Ok(false)
}

/// A safetensors file whose header says something else of its tensors.
fn damage_safetensors(rng: &mut Rng, path: &Path) -> Result<()> {
    if rng.one_in(3) {
        return damage(rng, path);
    }
    let bytes = std::fs::read(path)?;
    let len = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len])?;
    let header = mutate::json(rng, &header).to_string();
    Ok(std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + len..]].concat())?)
}

pub(super) fn attack_safetensors(rng: &mut Rng, folder: &Path) -> Result<bool> {
    damage_safetensors(rng, &folder.join("model.safetensors")).map(|()| false)
}

pub(super) fn ggufs() -> Result<Vec<tempfile::TempDir>> {
    let of = |name: &str, architecture: &str, kind| {
        let folder = tempfile::tempdir()?;
        Gguf::of(copy_of(name)?.path(), architecture, kind)?.write(&folder.path().join("model.gguf"))?;
        Ok(folder)
    };
    [
        ("llama-tiny", "llama", GgmlDType::F32),
        ("qwen2-tiny", "qwen2", GgmlDType::F16),
        ("gemma-tiny", "gemma", GgmlDType::BF16),
    ]
    .into_iter()
    .map(|(name, architecture, kind)| of(name, architecture, kind))
    .collect()
}

pub(super) fn read_gguf(folder: &Path) -> Result<Vec<u8>> {
    let source = zotune::formats::gguf::folder::open(&folder.join("model.gguf"))?;
    let tokens = Tokenizer::open(&source, None)?.encode("a t1 of t2")?;
    let (model, mut params) = Model::open(&source, DType::F32)?;
    let mut all = weights(&mut params)?;
    all.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    all.extend(logits(&model, &mut params)?);
    Ok(all)
}

fn logits(model: &Model, params: &mut zotune::params::Params) -> Result<Vec<u8>> {
    let len = 5.min(model.shape().max_length) as u32;
    let sequence: Vec<u32> = (0..len).map(|i| (i * 7) % model.shape().vocab_size as u32).collect();
    let logits: Vec<f32> = model.logits(params.settle()?, &Batch::sequence(&sequence))?.to_vec()?;
    Ok(logits.into_iter().flat_map(f32::to_le_bytes).collect())
}

pub(super) fn attack_config(rng: &mut Rng, folder: &Path) -> Result<bool> {
    damage_json(rng, &folder.join("config.json"))?;
    if rng.one_in(4) {
        // Nothing to compare with.
        let weights = ["model.safetensors", "pytorch_model.bin"].map(|name| folder.join(name));
        weights.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
    Ok(false)
}

pub(super) fn read_config(folder: &Path) -> Result<Vec<u8>> {
    let source = Source::Folder(folder.into());
    let (outline, _, sizes) = Model::open_meta(&source, DType::F32, None)?;
    // Where no weights say otherwise a model may be as large as this says, and what is tried in its place takes what it takes.
    if sizes.iter().sum::<usize>() < 1 << 20 {
        let (stand_in, mut params) = outline.stand_in(DType::F32, 2)?;
        logits(&stand_in, &mut params)?;
    }
    let (model, mut params) = Model::open(&source, DType::F32)?;
    logits(&model, &mut params)
}

/// Steps that were never meant to be put there.
const STEPS: [&str; 14] = [
    r#"{"type":"Replace","pattern":{"String":""},"content":"x"}"#,
    r#"{"type":"Replace","pattern":{"Regex":"x*"},"content":"xx"}"#,
    r#"{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaa"}"#,
    r#"{"type":"Replace","pattern":{"Regex":"(a|a)*b"},"content":""}"#,
    r#"{"type":"Sequence","normalizers":[{"type":"NFKD"},{"type":"Lowercase"},{"type":"Strip","strip_left":true,"strip_right":true}]}"#,
    r#"{"type":"Precompiled","precompiled_charsmap":"AAAAAAAAAAA="}"#,
    r#"{"type":"FixedLength","length":0}"#,
    r#"{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}"#,
    r#"{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true}"#,
    r#"{"type":"Split","pattern":{"Regex":"\\p{L}+"},"behavior":"Isolated","invert":true}"#,
    r#"{"type":"Split","pattern":{"String":""},"behavior":"Removed","invert":false}"#,
    r#"{"type":"UnicodeScripts"}"#,
    r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"#,
    r#"{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{}}"#,
];

pub(super) fn attack_tokenizer(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let path = rng.pick(&files).clone();
    let whole = folder.join("tokenizer.json");
    if whole.exists() && rng.one_in(2) {
        let mut value: Value = serde_json::from_slice(&std::fs::read(&whole)?)?;
        let place = *rng.pick(&["normalizer", "pre_tokenizer", "post_processor"]);
        let list = if place == "normalizer" { "normalizers" } else { "pretokenizers" };
        let step: Value = serde_json::from_str(rng.pick::<&str>(&STEPS))?;
        value[place] = match rng.below(3) {
            0 => step,
            _ => serde_json::json!({ "type": "Sequence", list: vec![step; 1 + rng.below(40)] }),
        };
        if rng.one_in(4) {
            value["model"]["continuing_subword_prefix"] = (*rng.pick(&["##", "é", "a long one"])).into();
        }
        std::fs::write(&whole, value.to_string())?;
        return Ok(false);
    }
    if path.extension().is_some_and(|ending| ending == "json") {
        damage_json(rng, &path)?
    } else {
        damage(rng, &path)?
    }
    Ok(false)
}

pub(super) fn read_tokenizer(folder: &Path) -> Result<Vec<u8>> {
    let tokenizer = Tokenizer::open(&Source::Folder(folder.into()), None)?;
    let mut all = Vec::new();
    for text in ["", "a film of 1997, was it?", "  \u{1b} é漢字\n\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"] {
        all.extend(tokenizer.encode(text)?.into_iter().flat_map(u32::to_le_bytes));
    }
    Ok(all)
}

pub(super) fn adapters() -> Result<Vec<tempfile::TempDir>> {
    let of = |name: &str| {
        let folder = tempfile::tempdir()?;
        let (architecture, _) = name.split_once("-tiny").context("an adapter's name")?;
        copy_all(&fixture(&format!("{architecture}-tiny")), &folder.path().join("model"))?;
        copy_all(&fixture("adapters").join(name), &folder.path().join("adapter"))?;
        Ok(folder)
    };
    ["llama-tiny-lora", "llama-tiny-prefix", "opt-tiny-lora-all", "opt-tiny-prefix"].into_iter().map(of).collect()
}

pub(super) fn attack_adapter(rng: &mut Rng, folder: &Path) -> Result<bool> {
    match rng.one_in(2) {
        true => damage_json(rng, &folder.join("adapter/adapter_config.json"))?,
        false => damage_safetensors(rng, &folder.join("adapter/adapter_model.safetensors"))?,
    }
    Ok(false)
}

pub(super) fn read_adapter(folder: &Path) -> Result<Vec<u8>> {
    let adapter = Adapter::open(&folder.join("adapter"))?;
    let source = Source::Folder(folder.join("model"));
    let (outline, ..) = Model::open_meta(&source, DType::F32, Some(adapter.clone()))?;
    outline.stand_in(DType::F32, 2)?;
    let (_, mut params) = Model::open_adapted(&source, DType::F32, Some(adapter))?;
    weights(&mut params)
}
