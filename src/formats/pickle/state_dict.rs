//! PyTorch files: a zip archive of storages and a pickle that describes the tensors as views of them. The pickle is
//! parsed, never executed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::DType;

use super::machine::LONGEST;
use super::unpickle::{self, Strided};
use crate::base::text::quoted;
use crate::formats::{Layout, Strides};

/// A tensor: a view of a storage, which other tensors may share.
pub struct View {
    /// The type of the storage, or the name of an unsupported one.
    pub dtype: Result<DType, String>,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// The order of its numbers in the bytes that [`Pickle::read`] passes.
    pub layout: Layout,
    /// The storage's name in the archive, and the index of the tensor's first number.
    storage: String,
    first: usize,
    /// Whether it spans the whole storage.
    is_whole: bool,
}

type Archive = zip::ZipArchive<BufReader<File>>;

/// The tensors of a file; their data stay on disk until read.
pub struct Pickle {
    views: BTreeMap<String, View>,
    archive: RefCell<Archive>,
    /// The storages whose checksum was verified.
    checked: RefCell<BTreeSet<String>>,
}

impl Pickle {
    /// Reads the tensors' descriptions, and verifies that each lies within its storage.
    pub fn open(path: &Path) -> Result<Self> {
        let cut = "it is not a complete zip file as torch.save writes it; was the download cut short?";
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).context(cut)?;
        let listed: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into())).collect();
        let mut folders = listed.iter().filter_map(|name| name.strip_suffix("data.pkl"));
        let (folder, others) = (folders.next().context(cut)?.to_string(), folders.count());
        if others > 0 {
            bail!("it has {} files data.pkl; PyTorch writes one", others + 1);
        }
        let order = format!("{folder}byteorder");
        if listed.contains(&order) {
            let order = member(&mut archive, &order, 64)?;
            let order = String::from_utf8_lossy(&order);
            if order.trim() != "little" {
                bail!("its numbers are written {}-endian; save it again on a little-endian machine", order.trim());
            }
        }
        let pickle = member(&mut archive, &format!("{folder}data.pkl"), LONGEST)?;
        let mut views = BTreeMap::new();
        // Several tensors may view the same numbers; bounds their total size by a multiple of the file's.
        let mut left = len.saturating_mul(4).saturating_add(64 << 20);
        for (name, found) in unpickle::tensors(&pickle)? {
            let view = match found {
                Ok(strided) => View::of(&name, strided, &folder, &mut archive)?,
                Err(what) => View::unsupported(what),
            };
            left = left.checked_sub(view.bytes()).with_context(|| {
                format!("its tensors refer to many times the {len} bytes of the file, the last one to {}", quoted(&name))
            })?;
            views.insert(name, view);
        }
        Ok(Pickle { views, archive: archive.into(), checked: RefCell::default() })
    }

    /// All tensors by name.
    pub fn views(&self) -> impl Iterator<Item = (&String, &View)> {
        self.views.iter()
    }

    /// Whether two names are the same view of the same storage.
    pub fn are_one(&self, a: &str, b: &str) -> bool {
        self.views.get(a).zip(self.views.get(b)).is_some_and(|(a, b)| {
            (&a.storage, a.first, &a.dtype, &a.shape, &a.layout) == (&b.storage, b.first, &b.dtype, &b.shape, &b.layout)
        })
    }

    /// Passes the bytes from a tensor's first number to its last to `read`, after or while verifying the storage's
    /// checksum.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        let view = self.views.get(name).context("it is listed but has no data")?;
        let Ok(dtype) = view.dtype else { bail!("it has no numbers that are read") };
        let mut archive = self.archive.borrow_mut();
        let is_new = !self.checked.borrow().contains(&view.storage);
        let mut found = None;
        let mut read = Some(read);
        if is_new {
            // The checksum is verified at the end of the storage.
            let mut reader = archive.by_name(&view.storage)?;
            if let Some(read) = read.take_if(|_| view.is_whole) {
                found = Some(read(&mut reader)?);
            }
            std::io::copy(&mut reader, &mut std::io::sink())?;
            drop(reader);
            self.checked.borrow_mut().insert(view.storage.clone());
        }
        match (found, read) {
            (Some(found), _) => Ok(found),
            (None, Some(read)) => {
                let mut reader = archive.by_name_seek(&view.storage)?;
                reader.seek(SeekFrom::Start((view.first * dtype.size_in_bytes()) as u64))?;
                read(&mut reader)
            }
            (None, None) => bail!("it was read and gave nothing"),
        }
    }
}

/// Reads a file of the archive. Fails if it is longer than `most` bytes.
fn member(archive: &mut Archive, name: &str, most: usize) -> Result<Vec<u8>> {
    let entry = archive.by_name(name)?;
    if entry.size() > most as u64 {
        bail!("its {} has {} bytes, more than one of a state dict has", quoted(name), entry.size());
    }
    let mut bytes = Vec::new();
    entry.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The type of a storage's class, else the class's name.
fn dtype(class: &str) -> Result<DType, String> {
    match class.strip_prefix("torch.") {
        Some("FloatStorage") => Ok(DType::F32),
        Some("HalfStorage") => Ok(DType::F16),
        Some("BFloat16Storage") => Ok(DType::BF16),
        Some("DoubleStorage") => Ok(DType::F64),
        Some("LongStorage") => Ok(DType::I64),
        Some("IntStorage") => Ok(DType::I32),
        Some("ShortStorage") => Ok(DType::I16),
        Some("ByteStorage") => Ok(DType::U8),
        _ => Err(class.into()),
    }
}

impl View {
    /// A tensor of an unsupported type `what`.
    fn unsupported(what: String) -> Self {
        View {
            dtype: Err(what),
            shape: Vec::new(),
            layout: Layout::Plain,
            storage: String::new(),
            first: 0,
            is_whole: false,
        }
    }

    /// The size of its numbers in bytes.
    fn bytes(&self) -> u64 {
        let size = self.dtype.as_ref().map_or(0, |dtype| dtype.size_in_bytes() as u64);
        self.shape.iter().fold(size, |all, dim| all.saturating_mul(*dim as u64))
    }

    /// The view of a tensor described in a pickle. Fails if it exceeds its storage.
    fn of(name: &str, strided: Strided, folder: &str, archive: &mut Archive) -> Result<Self> {
        let Strided { class, storage, numbers, first, shape, stride } = strided;
        let Ok(dtype) = dtype(&class) else { return Ok(View { shape, ..View::unsupported(class) }) };
        let (size, name) = (dtype.size_in_bytes(), quoted(name));
        let storage = format!("{folder}data/{storage}");
        let stored = archive.by_name(&storage).map(|entry| entry.size()).with_context(|| {
            format!(
                "tensor {name} refers to the storage {}, which the file does not have; was the download cut short?",
                quoted(&storage)
            )
        })?;
        let span = span(&shape, &stride);
        let end = span.and_then(|span| first.checked_add(span));
        if end.and_then(|end| end.checked_mul(size)).is_none_or(|end| end as u64 > stored) {
            bail!(
                "tensor {name} claims the shape {shape:?} from number {first} on, more than the {stored} bytes of its storage; \
                 was the download cut short?"
            );
        }
        if numbers.checked_mul(size).is_none_or(|bytes| bytes as u64 != stored) || end.is_some_and(|end| end > numbers) {
            bail!(
                "tensor {name} refers to a storage of {numbers} numbers, but the file has {stored} bytes of it; it is damaged"
            );
        }
        let span = span.unwrap_or_default();
        let layout = match is_contiguous(&shape, &stride) {
            true => Layout::Plain,
            false => Layout::Strided(Strides { shape: shape.clone(), strides: stride, span }),
        };
        let is_whole = first == 0 && (span * size) as u64 == stored;
        Ok(View { dtype: Ok(dtype), shape, layout, storage, first, is_whole })
    }
}

/// Whether the strides are those of row-major order.
fn is_contiguous(dims: &[usize], stride: &[usize]) -> bool {
    let mut due = 1usize;
    dims.iter().zip(stride).rev().all(|(dim, stride)| {
        let is_due = *dim <= 1 || *stride == due;
        due = due.saturating_mul(*dim);
        is_due
    })
}

/// The distance from a tensor's first number to its last, plus 1; 0 if empty; None on overflow.
fn span(dims: &[usize], stride: &[usize]) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().zip(stride).try_fold(1usize, |span, (dim, stride)| span.checked_add((dim - 1).checked_mul(*stride)?))
}
