//! The tensors of a GGUF file as a checkpoint lists them.

use anyhow::Result;
use candle_core::quantized::GgmlDType;

use super::config::GgufKind;
use super::header::{Header, Info};
use crate::base::ReadSeek;
use crate::formats::Layout;

/// A tensor as a checkpoint lists it.
pub struct Listed {
    /// transformers' name; where it has none, the file's own.
    pub name: String,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    /// What its blocks are, or the name of a type that is not read.
    pub stored: Result<GgmlDType, String>,
    /// Where its blocks begin.
    pub offset: u64,
    /// How its numbers lie.
    pub layout: Layout,
}

/// The tensors of a file of `len` bytes, but for the rotary frequencies, which config.json tells of.
pub fn tensors(file: Box<dyn ReadSeek>, len: u64) -> Result<Vec<Listed>> {
    let header = Header::read(file, len)?;
    let kind = GgufKind::of(&header)?;
    let mut listed = Vec::new();
    for (own, Info { shape, stored, offset }) in header.tensors.iter().filter(|(name, _)| *name != "rope_freqs.weight") {
        let (name, layout) = kind.tensor(&header, own)?.unwrap_or((own.clone(), Layout::Plain));
        listed.push(Listed { name, shape: shape.clone(), stored: stored.clone(), offset: *offset, layout });
    }
    Ok(listed)
}
