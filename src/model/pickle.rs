//! PyTorch's files: a zip of storages, and a pickle, parsed and never executed, that says which tensors look at them and how.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use candle_core::pickle::PthTensors;

/// A tensor of such a file: a way to look at a storage, which others may look at too.
pub struct View {
    /// What the storage's numbers are.
    pub dtype: DType,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    /// How its numbers lie among those that [`Pickle::read`] gives, if not one after the other.
    pub spread: Option<Spread>,
    /// The storage's name in the zip file, and which of its numbers is the tensor's first.
    storage: String,
    first: usize,
    /// Whether they are all that the storage has.
    is_whole: bool,
}

/// Numbers that lie apart, or in another order than the shape's.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    dims: Vec<usize>,
    stride: Vec<usize>,
    /// How many numbers lie from the first to the last.
    pub span: usize,
}

impl Spread {
    /// The tensor's numbers in order, out of those from its first to its last.
    pub fn gather<T: Copy>(&self, numbers: &[T]) -> Vec<T> {
        let place = |mut i: usize| {
            let mut place = 0;
            for (dim, stride) in self.dims.iter().zip(&self.stride).rev() {
                place += i % dim * stride;
                i /= dim;
            }
            place
        };
        (0..self.dims.iter().product()).map(|i| numbers[place(i)]).collect()
    }
}

/// The tensors of a file; their numbers stay there until they are read.
pub struct Pickle {
    views: BTreeMap<String, View>,
    archive: RefCell<zip::ZipArchive<BufReader<File>>>,
    /// The storages that have been held to their checksums.
    checked: RefCell<BTreeSet<String>>,
}

impl Pickle {
    /// Reads what the file says of its tensors, and holds each to the storage that it looks at.
    pub fn open(path: &Path) -> Result<Self> {
        let cut = "it is not a whole zip file as torch.save writes them; was the download cut short?";
        let listed = PthTensors::new(path, None).context(cut)?;
        let mut archive = zip::ZipArchive::new(BufReader::new(File::open(path)?)).context(cut)?;
        let order =
            archive.file_names().find_map(|name| name.ok().filter(|name| name.ends_with("/byteorder")).map(String::from));
        if let Some(order) = order {
            let mut written = String::new();
            archive.by_name(&order)?.read_to_string(&mut written)?;
            if written.trim() != "little" {
                bail!("its numbers are written {written}-endian; save it again on a little-endian machine");
            }
        }
        let mut views = BTreeMap::new();
        for (name, info) in listed.tensor_infos() {
            let size = info.dtype.size_in_bytes();
            let stored = archive.by_name(&info.path).map(|entry| entry.size()).with_context(|| {
                format!(
                    "tensor {name} looks at the storage {}, which the file has not; was the download cut short?",
                    info.path
                )
            })?;
            let (dims, stride) = (info.layout.dims(), info.layout.stride());
            // candle gives the offset in bytes, PyTorch's count of numbers times their size.
            let first = info.layout.start_offset() / size;
            let span = span(dims, stride);
            if span.and_then(|span| first.checked_add(span)?.checked_mul(size)).is_none_or(|end| end as u64 > stored) {
                bail!(
                    "tensor {name} claims the shape {dims:?} from number {first} on, more than the {stored} bytes of its storage; \
                     was the download cut short?"
                );
            }
            let span = span.unwrap_or_default();
            let spread = Spread { dims: dims.to_vec(), stride: stride.to_vec(), span };
            let view = View {
                dtype: info.dtype,
                shape: dims.to_vec(),
                spread: (!info.layout.is_contiguous()).then_some(spread),
                storage: info.path.clone(),
                first,
                is_whole: first == 0 && (span * size) as u64 == stored,
            };
            views.insert(name.clone(), view);
        }
        Ok(Pickle { views, archive: archive.into(), checked: RefCell::default() })
    }

    /// All tensors by name.
    pub fn views(&self) -> impl Iterator<Item = (&String, &View)> {
        self.views.iter()
    }

    /// Whether two names are of one tensor: the same numbers of the same storage.
    pub fn are_one(&self, a: &str, b: &str) -> bool {
        self.views.get(a).zip(self.views.get(b)).is_some_and(|(a, b)| {
            (&a.storage, a.first, a.dtype, &a.shape, &a.spread) == (&b.storage, b.first, b.dtype, &b.shape, &b.spread)
        })
    }

    /// Lends `read` the bytes of a tensor's numbers, from its first in the storage to its last, the storage held to its checksum.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        let view = self.views.get(name).context("it is listed but has no data")?;
        let mut archive = self.archive.borrow_mut();
        let is_new = !self.checked.borrow().contains(&view.storage);
        let mut found = None;
        let mut read = Some(read);
        if is_new {
            // The checksum is looked at where the storage ends.
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
                reader.seek(SeekFrom::Start((view.first * view.dtype.size_in_bytes()) as u64))?;
                read(&mut reader)
            }
            (None, None) => bail!("it was read and gave nothing"),
        }
    }
}

/// How many numbers lie from a tensor's first to its last, if that can be counted.
fn span(dims: &[usize], stride: &[usize]) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().zip(stride).try_fold(1usize, |span, (dim, stride)| span.checked_add((dim - 1).checked_mul(*stride)?))
}
