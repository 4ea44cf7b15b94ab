//! Parquet files, read row by row with one page per column in memory.

use std::io::{BufReader, Read, SeekFrom};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::json::text_size;
use super::row::{Row, Visit, lacks};
use crate::base::panics::unless_panic;
use crate::base::text::quoted;
use crate::base::{ReadSeek, Source};

/// A parquet file of a source.
#[derive(Clone)]
pub struct File {
    source: Source,
    name: String,
    len: u64,
}

impl File {
    /// The file of that name. Fails if there is none.
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        let len = source.open(name)?.1;
        Ok(File { source: source.clone(), name: name.into(), len })
    }

    fn at(&self, start: u64) -> Result<Box<dyn ReadSeek>, ParquetError> {
        let (mut file, _) = self.source.open(&self.name).map_err(|e| ParquetError::External(e.into()))?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// Visits all rows with the values of `columns`, which must exist; None: of all columns.
    pub fn visit(&self, place: &str, columns: Option<&[&str]>, visit: &mut Visit) -> Result<()> {
        let reader = self.reader(place)?;
        let schema = self.projection(place, &reader, columns)?;
        let mut rows = RowIter::from_file(Some(schema), &reader).with_context(|| place.to_string())?;
        // Dictionary and run-length encoding can expand a small file without bound.
        let most = self.len.saturating_mul(UNFOLDED).saturating_add(ALWAYS);
        let mut left = most;
        for index in 0.. {
            let line = index as u64 + 1;
            let here = || format!("{place}, row {line}");
            let row = match unless_damaged(|| rows.next().transpose()) {
                Ok(row) => row,
                Err(error) if error.to_string().contains(NOT_UTF8) => {
                    let column = self.not_utf8(place, &reader, columns);
                    bail!("{}: {}", here(), no_text(&column.unwrap_or_default()));
                }
                Err(error) => return Err(error.context(format!("{}: the file is damaged", here()))),
            };
            let Some(row) = row else { break };
            let value = |(name, field): (String, Field)| {
                let value = value(field).ok_or_else(|| anyhow!("{}: {}", here(), no_text(&name)))?;
                Ok((name, value))
            };
            let fields = row.into_columns().into_iter().map(value).collect::<Result<Map<String, Value>>>()?;
            left = left.checked_sub(ROW + fields.values().map(|value| text_size(value, 8) as u64).sum::<u64>()).with_context(|| {
                format!(
                    "{}: the file is {} bytes long, but its rows take more than {most}; if that is right, save it as JSON lines",
                    here(),
                    self.len
                )
            })?;
            visit(Row { index, line, fields })?;
        }
        Ok(())
    }

    /// The names of its columns.
    pub fn columns(&self, place: &str) -> Result<Vec<String>> {
        let reader = self.reader(place)?;
        let schema = reader.metadata().file_metadata().schema();
        check_unique_names(place, schema)?;
        Ok(schema.get_fields().iter().map(|field| field.name().to_string()).collect())
    }

    fn reader(&self, place: &str) -> Result<SerializedFileReader<Self>> {
        let reader = unless_damaged(|| SerializedFileReader::new(self.clone()));
        reader.with_context(|| format!("{place} is not a complete parquet file"))
    }

    /// The first column with a string that is not UTF-8.
    fn not_utf8(&self, place: &str, reader: &SerializedFileReader<Self>, columns: Option<&[&str]>) -> Option<String> {
        let fields = reader.metadata().file_metadata().schema().get_fields();
        let names = fields.iter().map(|field| field.name()).filter(|name| columns.is_none_or(|c| c.contains(name)));
        names.into_iter().find(|name| self.is_not_utf8(place, reader, name)).map(String::from)
    }

    fn is_not_utf8(&self, place: &str, reader: &SerializedFileReader<Self>, name: &str) -> bool {
        let rows = self.projection(place, reader, Some(&[name])).and_then(|s| Ok(RowIter::from_file(Some(s), reader)?));
        let mut error = rows.into_iter().flatten().find_map(Result::err);
        error.take().is_some_and(|error| error.to_string().contains(NOT_UTF8))
    }

    /// The file's schema restricted to `columns`. Fails if one is missing or its compression is not supported.
    fn projection(&self, place: &str, reader: &SerializedFileReader<Self>, columns: Option<&[&str]>) -> Result<Type> {
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema();
        let fields = schema.get_fields();
        check_unique_names(place, schema)?;
        if let Some(column) = columns.unwrap_or_default().iter().find(|c| !fields.iter().any(|f| f.name() == **c)) {
            return Err(lacks(place, column, fields.iter().map(|f| f.name())));
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

/// Turns the crate's panics on some damaged files into errors.
fn unless_damaged<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    Ok(unless_panic(read).context("the data there are not parquet")??)
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
        // The length in a damaged file may exceed the file.
        let mut bytes = Vec::with_capacity(length.min(self.len as usize));
        self.at(start)?.take(length as u64).read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF(format!("{} bytes instead of {length} at byte {start}", bytes.len()))),
        }
    }
}

/// The limit of the rows' text in bytes: this much per byte of the file,
const UNFOLDED: u64 = 1000;

/// plus this much for any file,
const ALWAYS: u64 = 64 << 20;

/// each row counting this much beside its values.
const ROW: u64 = 32;

/// The crate's message for a string that is not UTF-8.
const NOT_UTF8: &str = "Error reading BYTE_ARRAY as String";

fn no_text(column: &str) -> String {
    format!("column {} is not UTF-8 text; convert it, or leave the column out", quoted(column))
}

/// Fails if two columns of a group have the same name, of which a row would keep one.
fn check_unique_names(place: &str, group: &Type) -> Result<()> {
    let fields = group.get_fields();
    for (i, field) in fields.iter().enumerate() {
        let same = |other: &&Arc<Type>| other.name() == field.name();
        if fields[..i].iter().any(|other| same(&other)) {
            bail!("{place} has {} columns named {}", fields.iter().filter(same).count(), quoted(field.name()));
        }
        if field.is_group() {
            check_unique_names(place, field)?;
        }
    }
    Ok(())
}

/// A field as JSON. Byte arrays count as strings, whether annotated or not; None if they are not UTF-8.
fn value(field: Field) -> Option<Value> {
    Some(match field {
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        // The shortest decimal of the f32, not its f64 value: 0.1, not 0.10000000149011612.
        Field::Float(x) => x.to_string().parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        Field::Group(row) => {
            let fields = row.into_columns().into_iter().map(|(name, field)| Some((name, value(field)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
        Field::ListInternal(list) => Value::Array(list.elements().iter().cloned().map(value).collect::<Option<_>>()?),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| {
                let key = value(key.clone())?;
                Some((key.as_str().map_or_else(|| key.to_string(), String::from), value(field.clone())?))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Option<_>>()?)
        }
        other => other.to_json_value(),
    })
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

    /// Strings of both lengths, numbers, lists, structs and nulls, dictionary-encoded and plain, as pyarrow writes them
    /// for scripts/make_fixtures.py.
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
        assert!(error("rows.jsonl", None).starts_with("rows.jsonl is not a complete parquet file: "));
    }

    /// Column types without a JSON equivalent, read as datasets does (scripts/make_cells.py); byte arrays that are not
    /// text; duplicate names.
    #[test]
    fn every_kind_of_column_is_text_or_refused() -> Result<()> {
        let expected: Vec<Map<String, Value>> =
            serde_json::from_slice(include_bytes!("../../../tests/fixtures/cells/kinds.json"))?;
        let found = rows("cells/kinds.parquet", None)?;
        assert_eq!(found.into_iter().map(|row| row.fields).collect::<Vec<_>>(), expected);
        let error = |name, columns| format!("{:#}", rows(name, columns).unwrap_err());
        let both = Some(&["text", "label"][..]);
        assert_eq!(error("cells/twice.parquet", both), "cells/twice.parquet has 2 columns named \"text\"");
        for name in ["cells/bytes.parquet", "cells/marked.parquet"] {
            assert_eq!(
                error(name, both),
                format!("{name}, row 2: column \"text\" is not UTF-8 text; convert it, or leave the column out")
            );
        }
        // Binary columns beside the text are not read.
        assert_eq!(rows("cells/beside.parquet", both)?.len(), 2);
        assert!(error("cells/beside.parquet", None).contains("row 2: column \"image\" is not UTF-8 text"));
        Ok(())
    }

    /// Any damage gives rows or an error, never a panic.
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
