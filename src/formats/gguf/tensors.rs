//! The tensors of a GGUF file, for a checkpoint.

use anyhow::Result;
use candle_core::quantized::GgmlDType;

use super::config::GgufKind;
use super::header::{Header, Info};
use crate::base::ReadSeek;
use crate::formats::Layout;

/// A tensor of a GGUF file.
pub struct GgufTensor {
    /// Its name in transformers, else in llama.cpp.
    pub name: String,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// The block type, or the name of an unsupported one.
    pub stored: Result<GgmlDType, String>,
    /// The offset of its blocks in the file.
    pub offset: u64,
    /// The order of the stored numbers.
    pub layout: Layout,
}

/// The tensors of a file of `len` bytes, except the rotary frequencies, which config.json covers.
pub fn tensors(file: Box<dyn ReadSeek>, len: u64) -> Result<Vec<GgufTensor>> {
    let header = Header::read(file, len)?;
    let kind = GgufKind::of(&header)?;
    let mut listed = Vec::new();
    for (own, Info { shape, stored, offset }) in header.tensors.iter().filter(|(name, _)| *name != "rope_freqs.weight") {
        let (name, layout) = kind.tensor(&header, own)?.unwrap_or((own.clone(), Layout::Plain));
        listed.push(GgufTensor { name, shape: shape.clone(), stored: stored.clone(), offset: *offset, layout });
    }
    Ok(listed)
}
