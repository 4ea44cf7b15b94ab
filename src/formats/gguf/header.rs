//! The header of a GGUF file (versions 2 and 3): metadata and tensor descriptions.
//!
//! A count allocates memory only if the file is long enough for it.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::quantized::GgmlDType;

use crate::base::ReadSeek;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer of any width and signedness; u64 beyond i64 saturate.
    Integer(i64),
    /// A float of either width.
    Float(f64),
    /// A boolean.
    Flag(bool),
    /// Text; invalid UTF-8 is replaced.
    Text(String),
    /// An array; its elements have one type.
    List(Vec<Value>),
}

/// A tensor's description.
pub struct Info {
    /// Slowest dimension first; the file has the reverse.
    pub shape: Vec<usize>,
    /// The block type, or the name of an unsupported one.
    pub stored: Result<GgmlDType, String>,
    /// The offset of its blocks in the file.
    pub offset: u64,
}

/// The metadata and the tensors of a file.
pub struct Header {
    metadata: BTreeMap<String, Value>,
    /// By llama.cpp's names.
    pub tensors: BTreeMap<String, Info>,
}

/// GGML's maximum number of dimensions.
const MOST_DIMS: u32 = 4;

/// A bound on any count: tokens, tensors, bytes of a text.
const MOST: u64 = 1 << 24;

impl Header {
    /// Reads the header at the start of a file of `len` bytes. Fails on damage and unsupported versions.
    pub fn read(file: Box<dyn ReadSeek>, len: u64) -> Result<Self> {
        let mut reader = Reader { file: BufReader::with_capacity(1 << 16, file), place: 0, len };
        if reader.bytes::<4>()? != *b"GGUF" {
            bail!("it does not begin with GGUF, so it is not a GGUF file");
        }
        match reader.u32()? {
            2 | 3 => {}
            1 => bail!("it is GGUF version 1; convert the model again with a newer llama.cpp"),
            version if version.swap_bytes() < 16 => bail!("it is big-endian; convert the model again for little-endian"),
            version => bail!("it is GGUF version {version}; 2 and 3 can be read"),
        }
        let (num_tensors, num_keys) = (reader.count(24)?, reader.count(13)?);
        let mut metadata = BTreeMap::new();
        for _ in 0..num_keys {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0).with_context(|| format!("the metadata {key:?} cannot be read"))?;
            if metadata.insert(key.clone(), value).is_some() {
                bail!("its metadata has {key:?} twice");
            }
        }
        let (mut tensors, mut order) = (BTreeMap::new(), Vec::new());
        for _ in 0..num_tensors {
            let name = reader.text()?;
            order.push(name.clone());
            let info = reader.info().with_context(|| format!("the description of tensor {name:?} cannot be read"))?;
            if tensors.insert(name.clone(), info).is_some() {
                bail!("it has two tensors called {name}");
            }
        }
        let mut header = Header { metadata, tensors };
        let alignment = header.integer("general.alignment")?.unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            bail!("its general.alignment is {alignment}, which is not a power of two up to 2^20");
        }
        header.place_tensors(&order, reader.place.next_multiple_of(alignment as u64), alignment as u64, len)?;
        Ok(header)
    }

    /// Converts offsets relative to the data section to file offsets, and verifies that tensors are consecutive in
    /// listed order, aligned and within the file, as llama.cpp requires. So they cannot overlap.
    fn place_tensors(&mut self, order: &[String], start: u64, alignment: u64, len: u64) -> Result<()> {
        let mut due = 0u64;
        for name in order {
            let Some(info) = self.tensors.get_mut(name) else { continue };
            let bytes = info.bytes()?;
            let end = info.offset.checked_add(bytes.unwrap_or(0)).and_then(|end| end.checked_add(start));
            let Some(end) = end.filter(|end| *end <= len) else {
                bail!("the file is {len} bytes long, but tensor {name} goes beyond its end; was the download cut short?");
            };
            if info.offset != due {
                bail!(
                    "tensor {name} should begin at byte {} of the data, but after the tensors before it and with \
                     general.alignment {alignment} it is {due}; the file is damaged, or convert the model again",
                    info.offset
                );
            }
            // The size of an unknown type is unknown, so the following offsets cannot be verified.
            due = match bytes {
                Some(_) => (end - start).next_multiple_of(alignment),
                None => break,
            };
            info.offset += start;
        }
        Ok(())
    }

    /// The metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// A value, if present.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A non-negative integer, if present.
    pub fn integer(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) => {
                Ok(Some(usize::try_from(*n).map_err(|_| anyhow!("its metadata {key} is {n}, below 0"))?))
            }
            Some(_) => Err(self.wrong(key, "one whole number")),
        }
    }

    /// A finite number, if present.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(Value::Integer(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    /// A boolean, if present.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "a flag")),
        }
    }

    /// A text, if present.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A list, if present, its values converted by `read`.
    pub fn list<'a, T>(&'a self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(values)) => {
                let all: Option<Vec<T>> = values.iter().map(read).collect();
                all.map(Some).ok_or_else(|| self.wrong(key, "a list of one kind"))
            }
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }

    fn wrong(&self, key: &str, wanted: &str) -> anyhow::Error {
        let found = match self.get(key) {
            Some(Value::List(values)) => format!("a list of {}", values.len()),
            Some(value) => format!("{value:?}"),
            None => "absent".into(),
        };
        anyhow!("its metadata {key} is {found}; it must be {wanted}")
    }
}

/// A value that must be present.
pub fn required<T>(value: Option<T>, key: &str) -> Result<T> {
    value.ok_or_else(|| anyhow!("its metadata has no {key}; convert the model again with a newer llama.cpp"))
}

impl Info {
    /// The size of its data in bytes; None for an unknown type.
    fn bytes(&self) -> Result<Option<u64>> {
        let numbers = self.shape.iter().try_fold(1u64, |all, d| all.checked_mul(*d as u64)).context("its size overflows")?;
        let Ok(kind) = self.stored else { return Ok(None) };
        let (block, bytes) = (kind.block_size() as u64, kind.type_size() as u64);
        if !self.shape.last().is_some_and(|row| (*row as u64).is_multiple_of(block)) {
            bail!("a tensor has the shape {:?}, which is not a whole number of {kind:?} blocks", self.shape);
        }
        Ok(Some((numbers / block).checked_mul(bytes).context("its size overflows")?))
    }
}

/// A reader of the header, with its offset in a file of `len` bytes.
struct Reader {
    file: BufReader<Box<dyn ReadSeek>>,
    place: u64,
    len: u64,
}

impl Reader {
    fn truncated(&self) -> anyhow::Error {
        anyhow!("the file is {} bytes long and ends within its header; was the download cut short?", self.len)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0u8; N];
        self.file.read_exact(&mut bytes).map_err(|_| self.truncated())?;
        self.place += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// Reads a count of elements of at least `size` bytes each.
    fn count(&mut self, size: u64) -> Result<u64> {
        let count = self.u64()?;
        if count > MOST {
            bail!("it announces {count} entries, too many for the file; it is damaged");
        }
        if count * size > self.len.saturating_sub(self.place) {
            return Err(self.truncated());
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String> {
        let mut bytes = vec![0u8; self.count(1)? as usize];
        self.file.read_exact(&mut bytes).map_err(|_| self.truncated())?;
        self.place += bytes.len() as u64;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(i64::from(self.bytes::<1>()?[0])),
            1 => Value::Integer(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Value::Integer(i64::from(u16::from_le_bytes(self.bytes()?))),
            3 => Value::Integer(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Value::Integer(i64::from(self.u32()?)),
            5 => Value::Integer(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => Value::Flag(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < 2 => {
                let kind = self.u32()?;
                let smallest = if kind == 8 { 8 } else { 1 };
                Value::List((0..self.count(smallest)?).map(|_| self.value(kind, depth + 1)).collect::<Result<_>>()?)
            }
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => bail!("its type is {other}, which does not exist; the file is damaged"),
        })
    }

    fn info(&mut self) -> Result<Info> {
        let dims = self.u32()?;
        if dims == 0 || dims > MOST_DIMS {
            bail!("it has {dims} dimensions; the file is damaged");
        }
        let mut shape = (0..dims).map(|_| Ok(usize::try_from(self.u64()?)?)).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        Ok(Info { shape, stored: block_type(self.u32()?), offset: self.u64()? })
    }
}

/// The block type with this number; else its name.
fn block_type(number: u32) -> Result<GgmlDType, String> {
    use GgmlDType::*;
    const READ: [(u32, GgmlDType); 13] = [
        (0, F32),
        (1, F16),
        (2, Q4_0),
        (3, Q4_1),
        (6, Q5_0),
        (7, Q5_1),
        (8, Q8_0),
        (10, Q2K),
        (11, Q3K),
        (12, Q4K),
        (13, Q5K),
        (14, Q6K),
        (30, BF16),
    ];
    const OTHERS: [(u32, &str); 20] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
    ];
    let read = READ.iter().find(|(n, _)| *n == number).map(|(_, kind)| *kind);
    let named = || OTHERS.iter().find(|(n, _)| *n == number).map(|(_, name)| name.to_string());
    read.ok_or_else(|| named().unwrap_or_else(|| format!("type {number}, which zotune does not know")))
}
