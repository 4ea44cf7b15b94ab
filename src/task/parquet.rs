//! Parquet files, row after row: a page of each column is held at a time.

use std::cell::Cell;
use std::io::{BufReader, Read, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::rows::{Row, Visit};
use crate::files::{ReadSeek, Source};

/// A parquet file where a source has it.
#[derive(Clone)]
pub struct File {
    source: Source,
    name: String,
    len: u64,
}

impl File {
    /// Of that name; it must be there.
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        let len = source.open(name)?.1;
        Ok(File { source: source.clone(), name: name.into(), len })
    }

    fn at(&self, start: u64) -> Result<Box<dyn ReadSeek>, ParquetError> {
        let (mut file, _) = self.source.open(&self.name).map_err(|e| ParquetError::External(e.into()))?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// Visits all rows with the values of their `columns`, which must be there; None: with all values.
    pub fn visit(&self, place: &str, columns: Option<&[&str]>, visit: &mut Visit) -> Result<()> {
        let reader = unless_damaged(|| SerializedFileReader::new(self.clone()));
        let reader = reader.with_context(|| format!("{place} is no whole parquet file"))?;
        let schema = self.projection(place, &reader, columns)?;
        let mut rows = RowIter::from_file(Some(schema), &reader).with_context(|| place.to_string())?;
        for index in 0.. {
            let line = index as u64 + 1;
            let row = unless_damaged(|| rows.next().transpose());
            let Some(row) = row.with_context(|| format!("{place}, row {line}: the file is damaged"))? else { break };
            let fields = row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect();
            visit(Row { index, line, fields })?;
        }
        Ok(())
    }

    /// The part of a file's schema that the columns are, once all of them are found and can be read.
    fn projection(&self, place: &str, reader: &SerializedFileReader<Self>, columns: Option<&[&str]>) -> Result<Type> {
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema();
        let fields = schema.get_fields();
        if let Some(column) = columns.unwrap_or_default().iter().find(|c| !fields.iter().any(|f| f.name() == **c)) {
            let known: Vec<&str> = fields.iter().map(|f| f.name()).collect();
            bail!("{place} has no column \"{column}\"; its columns are: {}", known.join(", "));
        }
        let wanted = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
        for chunk in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let name = chunk.column_path().parts().first().map_or("", String::as_str);
            let readable =
                matches!(chunk.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_));
            if wanted(name) && !readable {
                let named = chunk.compression().to_string();
                bail!(
                    "{place}: column \"{name}\" is compressed by {}, which zotune does not read; write the file with snappy, \
                     gzip or no compression",
                    named.split('(').next().unwrap_or_default()
                );
            }
        }
        let kept = fields.iter().filter(|f| wanted(f.name())).map(Arc::clone).collect();
        Type::group_type_builder(schema.name()).with_fields(kept).build().with_context(|| place.to_string())
    }
}

thread_local!(static EXPECTS_PANICS: Cell<bool> = const { Cell::new(false) });

/// The crate panics over some kinds of damage; here they are errors like the others, and nothing is said of them elsewhere.
fn unless_damaged<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTS_PANICS.get() {
                others(info)
            }
        }));
    });
    EXPECTS_PANICS.set(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    EXPECTS_PANICS.set(false);
    match read {
        Ok(read) => Ok(read?),
        Err(_) => bail!("what stands there is no parquet"),
    }
}

impl Length for File {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for File {
    type T = BufReader<Box<dyn ReadSeek>>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // No more than there is, whatever a damaged file says.
        let mut bytes = Vec::with_capacity(length.min(self.len as usize));
        self.at(start)?.take(length as u64).read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF(format!("{} bytes instead of {length} at byte {start}", bytes.len()))),
        }
    }
}

/// As JSON has it. Strings that their writer did not mark as such are strings.
fn value(field: Field) -> Value {
    match field {
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => Field::Bytes(bytes).to_json_value(),
        },
        other => other.to_json_value(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn rows(name: &str, columns: Option<&[&str]>) -> Result<Vec<Row>> {
        let source = Source::Folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
        let mut rows = Vec::new();
        File::open(&source, name)?.visit(name, columns, &mut |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Strings of both lengths, numbers, lists, structs and nulls in dictionaries and without, as scripts/make_fixtures.py has
    /// pyarrow write them.
    #[test]
    fn what_pyarrow_writes_are_the_rows_that_json_lines_are() -> Result<()> {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rows.jsonl"))?;
        let expected: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        for name in ["rows.parquet", "rows-gzip.parquet"] {
            let found = rows(name, None)?;
            assert_eq!(found.len(), 20);
            for (i, (row, expected)) in found.into_iter().zip(&expected).enumerate() {
                assert_eq!((row.index, row.line), (i, i as u64 + 1));
                assert_eq!(&Value::Object(row.fields), expected, "{name}, row {}", i + 1);
            }
            let some = rows(name, Some(&["label", "target"]))?;
            assert_eq!(some[3].fields["target"], expected[3]["target"]);
            assert_eq!(some[3].columns(), ["label", "target"]);
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |name, columns| format!("{:#}", rows(name, columns).unwrap_err());
        assert_eq!(
            error("rows.parquet", Some(&["sentence", "mark"])),
            "rows.parquet has no column \"mark\"; its columns are: sentence, label, idx, flag, score, note, target, words"
        );
        let zstd = error("rows-zstd.parquet", None);
        assert!(zstd.starts_with("rows-zstd.parquet: column \"idx\" is compressed by ZSTD, which"), "{zstd}");
        assert!(error("rows.jsonl", None).starts_with("rows.jsonl is no whole parquet file: "));
    }

    /// Whatever is damaged in a file, it is rows or an error and nothing else.
    #[test]
    fn damage_is_an_error_or_other_rows() -> Result<()> {
        let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rows.parquet"))?;
        let folder = tempfile::tempdir()?;
        let (source, path) = (Source::Folder(folder.path().into()), folder.path().join("x.parquet"));
        let (mut errors, mut read) = (0, 0);
        for at in (0..whole.len()).step_by(17) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x5a;
            if at % 5 == 0 {
                bytes.truncate(at);
            }
            std::fs::write(&path, &bytes)?;
            match File::open(&source, "x.parquet")?.visit("x.parquet", None, &mut |_| Ok(())) {
                Ok(()) => read += 1,
                Err(error) => {
                    assert!(error.to_string().starts_with("x.parquet"), "{error:#}");
                    errors += 1;
                }
            }
        }
        assert!(errors > 200 && read > 20, "{errors} errors, {read} read");
        Ok(())
    }
}
