//! Reads checkpoint files tensor by tensor: peak memory is the weights and one tensor.
//!
//! Formats: `model.safetensors`, `pytorch_model.bin`, both also sharded, and GGUF. Files are not memory-mapped, since
//! mapped pages count into the resident set.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::layout::Layout;
use super::numbers::read_numbers;
use super::weight_files::{is_lfs_pointer, weight_files};
use crate::base::{Source, text};
use crate::device::cpu::convert::convert;
use crate::device::{Array, BufferElement, Element, zeros};
use crate::formats::gguf::{GgufTensor, blocks, tensors};
use crate::formats::pickle::Pickle;
use crate::params::file::read_header;

/// A tensor in a checkpoint file.
struct Entry {
    shape: Vec<usize>,
    /// The stored type, or the name of an unsupported one.
    stored: Result<GgmlDType, String>,
    file: usize,
    /// The offset of its data in the file; None in a pickle, which is read by name.
    offset: Option<u64>,
    /// The order of the stored numbers.
    layout: Layout,
}

/// The tensors of a model by name; their data stay on disk until read.
pub struct Checkpoint {
    files: Source,
    names: Vec<String>,
    pickles: BTreeMap<usize, Pickle>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Finds the weight files and reads their headers. Fails if one is missing or damaged.
    pub fn open(files: &Source) -> Result<Self> {
        Self::of_files(files, weight_files(files)?)
    }

    /// Reads the headers of these files.
    pub fn of_files(files: &Source, names: Vec<String>) -> Result<Self> {
        let mut checkpoint =
            Checkpoint { files: files.clone(), names: names.clone(), pickles: BTreeMap::new(), entries: BTreeMap::new() };
        for (i, name) in names.iter().enumerate() {
            if !files.has(name) {
                bail!("{} is missing, but the index beside it lists it as a shard", files.place(name));
            }
            if is_lfs_pointer(files, name)? {
                bail!("{} is a git-lfs pointer, not the file itself; fetch it with: git lfs pull", files.place(name));
            }
            let read = match name.rsplit_once('.') {
                Some((_, "bin")) => checkpoint.add_pickle(i),
                Some((_, "safetensors")) => checkpoint.add_safetensors(i),
                _ => checkpoint.add_gguf(i),
            };
            read.with_context(|| format!("cannot read the weights in {}", files.place(name)))?;
        }
        if checkpoint.entries.is_empty() {
            bail!(
                "{} does not hold tensors by name; it must be a state dict as save_pretrained writes it",
                files.place(&names[0])
            );
        }
        Ok(checkpoint)
    }

    /// The names of the weight files, in order.
    pub fn file_names(&self) -> &[String] {
        &self.names
    }

    /// The names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The names and shapes of all tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Fails if a tensor is missing, has another shape, or an unsupported type. Called before memory is allocated by
    /// the sizes in config.json.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.entry(name, shape).map(drop)
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let Some(entry) = self.entries.get(name) else {
            let near = text::nearest(name, self.tensor_names());
            bail!("{} has no tensor {name}, which config.json asks for ({near})", self.place(None));
        };
        let place = self.place(Some(entry.file));
        if let Err(stored) = &entry.stored {
            let known = match &self.files {
                Source::Single(..) => "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K",
                _ => "f32, f16 and bf16",
            };
            bail!("tensor {name} in {place} is stored as {stored}; {known} can be read");
        }
        if entry.shape != shape {
            bail!("tensor {name} in {place} has the shape {:?}, but config.json asks for {shape:?}", entry.shape);
        }
        Ok(entry)
    }

    /// Reads a tensor of this shape into the precision `dtype`.
    pub fn read(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Array> {
        let entry = self.entry(name, shape)?;
        let place = self.place(Some(entry.file));
        let tensor = match entry.offset {
            Some(offset) => self.read_plain(entry, offset, dtype),
            None => self.pickles[&entry.file].read(name, |reader| read_tensor(reader, entry, dtype)),
        };
        tensor.with_context(|| format!("cannot read tensor {name} in {place}"))
    }

    /// Whether two tensors of one shape are equal in the precision `dtype`.
    pub fn are_same(&self, [a, b]: [&str; 2], shape: &[usize], dtype: DType) -> Result<bool> {
        if let (Some(one), Some(other)) = (self.entries.get(a), self.entries.get(b))
            && one.file == other.file
            && self.pickles.get(&one.file).is_some_and(|pickle| pickle.are_one(a, b))
        {
            return Ok(true);
        }
        let (a, b) = (self.read(a, shape, dtype)?, self.read(b, shape, dtype)?);
        Ok(a.bytes() == b.bytes())
    }

    fn place(&self, file: Option<usize>) -> String {
        match file.or(if self.names.len() == 1 { Some(0) } else { None }) {
            Some(i) => self.files.place(&self.names[i]),
            None => format!("{} (and {} more)", self.files.place(&self.names[0]), self.names.len() - 1),
        }
    }

    fn add_safetensors(&mut self, file: usize) -> Result<()> {
        let (mut reader, _) = self.files.open(&self.names[file])?;
        let (metadata, start) = read_header(&mut reader)?;
        for (name, info) in metadata.tensors() {
            let stored = DType::try_from(info.dtype).map_err(|_| format!("{:?}", info.dtype)).and_then(stored);
            let offset = Some(start + info.data_offsets.0 as u64);
            let entry = Entry { shape: info.shape.clone(), stored, file, offset, layout: Layout::Plain };
            self.entries.insert(name, entry);
        }
        Ok(())
    }

    fn add_pickle(&mut self, file: usize) -> Result<()> {
        let Source::Folder(folder) = &self.files else { bail!("built-in models are safetensors") };
        let pickle = Pickle::open(&folder.join(&self.names[file]))?;
        for (name, view) in pickle.views() {
            let (shape, layout, stored) = (view.shape.clone(), view.layout.clone(), view.dtype.clone().and_then(stored));
            self.entries.insert(name.clone(), Entry { shape, stored, file, offset: None, layout });
        }
        self.pickles.insert(file, pickle);
        Ok(())
    }

    fn add_gguf(&mut self, file: usize) -> Result<()> {
        let (reader, len) = self.files.open(&self.names[file])?;
        for GgufTensor { name, shape, stored, offset, layout } in tensors::tensors(reader, len)? {
            self.entries.insert(name, Entry { shape, stored, file, offset: Some(offset), layout });
        }
        Ok(())
    }

    fn read_plain(&self, entry: &Entry, offset: u64, dtype: DType) -> Result<Array> {
        let (mut reader, _) = self.files.open(&self.names[entry.file])?;
        reader.seek(SeekFrom::Start(offset))?;
        read_tensor(&mut reader, entry, dtype)
    }
}

/// The stored type for a floating-point dtype; else the dtype's name.
pub(super) fn stored(dtype: DType) -> Result<GgmlDType, String> {
    match dtype {
        DType::F32 => Ok(GgmlDType::F32),
        DType::F16 => Ok(GgmlDType::F16),
        DType::BF16 => Ok(GgmlDType::BF16),
        other => Err(format!("{other:?}")),
    }
}

/// Reads a tensor's numbers, converted to `dtype`.
fn read_tensor(reader: &mut dyn Read, entry: &Entry, dtype: DType) -> Result<Array> {
    fn numbers<H: Element>(reader: &mut dyn Read, entry: &Entry) -> Result<Vec<H>> {
        let len = entry.layout.span(&entry.shape);
        let read = match entry.stored {
            Ok(GgmlDType::F16) => read_numbers::<f16, H>(reader, len),
            Ok(GgmlDType::BF16) => read_numbers::<bf16, H>(reader, len),
            Ok(GgmlDType::F32) => read_numbers::<f32, H>(reader, len),
            Ok(blocks) => blocks::read_blocks(reader, blocks, len),
            Err(ref other) => bail!("it is stored as {other}"),
        }?;
        entry.layout.read(read, &entry.shape)
    }
    fn held<H: BufferElement>(reader: &mut dyn Read, entry: &Entry) -> Result<Array> {
        let numbers = match entry.layout.offset() {
            0.0 => numbers::<H>(reader, entry)?,
            offset => {
                let (wide, mut held) = (numbers::<f32>(reader, entry)?, zeros(entry.shape.iter().product())?);
                convert(&wide.into_iter().map(|w| w - offset).collect::<Vec<_>>(), &mut held);
                held
            }
        };
        Array::new(&entry.shape, H::buffer(numbers))
    }
    match dtype {
        DType::F16 => held::<f16>(reader, entry),
        DType::BF16 => held::<bf16>(reader, entry),
        _ => held::<f32>(reader, entry),
    }
}
