//! GGUF files of llama.cpp: a model's weights, sizes and vocabulary in one file.
//!
//! Presented as a folder in Hugging Face layout: [`open`] converts the metadata to config.json, tokenizer.json and
//! their companions, and [`Checkpoint`](crate::formats::Checkpoint) finds the tensors under transformers' names and
//! dequantises them on reading. Runs write such folders.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::quantized::GgmlDType;
use serde_json::{Map, Value as Json};

use super::blocks::read_blocks;
use super::config::{GgufKind, TOKEN_IDS};
use super::header::{Header, Info};
use super::vocabulary;
use crate::base::Source;
use crate::formats::Rope;

/// Whether the file starts with the GGUF magic.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0u8; 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && &magic == b"GGUF"
}

/// Opens a GGUF file as a folder, with the files beside its weights generated.
pub fn open(path: &Path) -> Result<Source> {
    let made = make(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Source::Single(path.to_path_buf(), Arc::new(made)))
}

fn make(path: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut file = File::open(path)?;
    let header = Header::read(Box::new(file.try_clone()?), file.metadata()?.len())?;
    let kind = GgufKind::of(&header)?;
    let factors = rope_factors(&mut file, &header)?;
    let config = kind.config(&header, factors.as_deref())?;
    if let Some(factors) = factors {
        check_rope(&config, &factors)?;
    }
    let mut generation = Map::new();
    for (ours, _) in TOKEN_IDS.iter().filter(|(ours, _)| *ours != "unk") {
        let key = format!("{ours}_token_id");
        config.get(&key).map(|id| generation.insert(key, id.clone()));
    }
    let tokenizer_config = vocabulary::tokenizer_config(&header, &config["max_position_embeddings"])?;
    Ok(vec![
        ("config.json", serde_json::to_vec_pretty(&config)?),
        ("generation_config.json", serde_json::to_vec_pretty(&generation)?),
        ("tokenizer.json", vocabulary::tokenizer(&header)?),
        ("tokenizer_config.json", serde_json::to_vec_pretty(&tokenizer_config)?),
    ])
}

/// The divisors of the rotary frequencies, if the file stores them.
fn rope_factors(file: &mut File, header: &Header) -> Result<Option<Vec<f32>>> {
    let Some(Info { shape, stored, offset }) = header.tensors.get("rope_freqs.weight") else { return Ok(None) };
    let Ok(GgmlDType::F32) = stored else { bail!("its rope_freqs.weight is not stored as F32") };
    file.seek(SeekFrom::Start(*offset))?;
    Ok(Some(read_blocks(file, GgmlDType::F32, shape.iter().product())?))
}

/// Fails unless the scaling in config.json reproduces the stored factors.
fn check_rope(config: &Map<String, Json>, factors: &[f32]) -> Result<()> {
    let head_dim = config["head_dim"].as_u64().unwrap_or_default() as usize;
    let (theta, positions) = (config["rope_theta"].as_f64(), 0);
    if factors.len() != head_dim / 2 {
        bail!("its rope_freqs.weight has {} factors, but its heads are {head_dim} wide", factors.len());
    }
    let scaled: Option<Rope> = serde_json::from_value(config["rope_scaling"].clone())?;
    let plain = Rope::with_base(Rope::default(), theta).frequencies(head_dim, positions)?;
    let scaled = Rope::with_base(scaled.unwrap_or_default(), theta).frequencies(head_dim, positions)?;
    let close = |((plain, scaled), factor): ((&f64, &f64), &f32)| (plain / scaled / f64::from(*factor) - 1.0).abs() < 1e-3;
    if !plain.iter().zip(&scaled).zip(factors).all(close) {
        bail!("its rope_freqs.weight is not LLaMA 3's scaling, and no other is supported");
    }
    Ok(())
}
