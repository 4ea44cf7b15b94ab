//! Weights in safetensors files: atomic writes, reads into existing weights.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::base::{Digest, ReadSeek, files};
use crate::device::Array;
use crate::params::{Params, Role};

/// Reads a safetensors header; returns it and the offset of the data. Fails if the length does not match the file's.
pub fn read_header(reader: &mut dyn ReadSeek) -> Result<(safetensors::tensor::Metadata, u64)> {
    let len = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(0))?;
    let cut = || anyhow!("the file is {len} bytes long, shorter than its header says; was the download cut short?");
    let mut size = [0u8; 8];
    reader.read_exact(&mut size).map_err(|_| cut())?;
    let size = u64::from_le_bytes(size);
    if size > 100_000_000 {
        bail!("its header claims {size} bytes: this is not a safetensors file");
    }
    if 8 + size > len {
        return Err(cut());
    }
    let mut header = vec![0u8; size as usize];
    reader.read_exact(&mut header)?;
    let metadata: safetensors::tensor::Metadata = serde_json::from_slice(&header).context("its header is damaged")?;
    if 8 + size + metadata.data_len() as u64 != len {
        bail!(
            "the file is {len} bytes long, but its header asks for {}; was the download cut short?",
            8 + size + metadata.data_len() as u64
        );
    }
    Ok((metadata, 8 + size))
}

/// Writes named weights as a safetensors file readable by transformers and PEFT: atomically, tensor by tensor.
pub fn save(weights: &[(String, &Array)], path: &Path) -> Result<()> {
    let mut offset = 0;
    let mut tensors = Vec::new();
    for (name, array) in weights {
        let (dtype, shape) = (safetensors::Dtype::from(array.dtype()), array.shape().to_vec());
        let data_offsets = (offset, offset + array.bytes().len());
        offset = data_offsets.1;
        tensors.push((name.clone(), safetensors::tensor::TensorInfo { dtype, shape, data_offsets }));
    }
    let format = [("format".to_string(), "pt".to_string())].into();
    let header = header(&safetensors::tensor::Metadata::new(Some(format), tensors)?)?;
    files::write_whole(path, |out| {
        out.write_all(&header)?;
        for (_, array) in weights {
            out.write_all(array.bytes())?;
        }
        Ok(())
    })
}

/// The header of a safetensors file: length and JSON, padded to 8 bytes.
pub fn header(metadata: &safetensors::tensor::Metadata) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec(metadata)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// Digests of the tensors `names` in a file written by [`save`].
pub fn stored_digests<'a>(names: impl Iterator<Item = &'a str>, path: &Path) -> Result<Vec<Digest>> {
    let mut file = File::open(path)?;
    let (metadata, start) = read_header(&mut file)?;
    let mut digests = Vec::new();
    for name in names {
        let info = metadata.info(name).ok_or_else(|| anyhow!("it has no tensor {name}"))?;
        let (from, to) = info.data_offsets;
        file.seek(SeekFrom::Start(start + from as u64))?;
        digests.push(Digest::of_reader(&mut file, (to - from) as u64)?);
    }
    Ok(digests)
}

/// Reads a file written by [`save`] into the weights, in place; frozen weights are skipped. `weight_name` maps a stored
/// name to the weight's name.
pub fn restore(params: &mut Params, path: &Path, weight_name: impl Fn(&str) -> &str) -> Result<()> {
    let mut inner = || -> Result<()> {
        let mut file = File::open(path)?;
        let (metadata, start) = read_header(&mut file)?;
        for (name, info) in metadata.tensors() {
            let id = params
                .id(weight_name(&name))
                .ok_or_else(|| anyhow!("it has a tensor {name} that the model does not have"))?;
            if params.role(id) != Role::Frozen {
                file.seek(SeekFrom::Start(start + info.data_offsets.0 as u64))?;
                params.overwrite(id, &mut file)?;
            }
        }
        Ok(())
    };
    inner().with_context(|| format!("cannot read {} back", path.display()))
}

/// A weight stored in a file.
pub struct Stored {
    /// The model's name for it.
    pub name: String,
    /// False if frozen.
    pub trained: bool,
    /// Digest of its bytes.
    pub digest: Digest,
}
