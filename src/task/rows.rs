//! Rows of data files: tab-separated (GLUE), comma-separated, JSON lines (SuperGLUE), parquet (the hub). Every error names
//! file and line, or file and row.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::parquet;
use crate::files::Source;

/// How a data file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tab-separated with a header line, no quoting.
    Tsv,
    /// Comma-separated with a header line, quoted as in RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet, as the hub keeps its data sets.
    Parquet,
}

impl Format {
    /// By a file's extension.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "tsv" => Some(Format::Tsv),
            "csv" => Some(Format::Csv),
            "jsonl" | "json" => Some(Format::Jsonl),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// One row: its fields by name.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its place among the data rows, from 0.
    pub index: usize,
    /// Its line in the file, from 1; of a parquet file, which has no lines, its row.
    pub line: u64,
    /// Values by column.
    pub fields: Map<String, Value>,
}

impl Row {
    /// A field as text, if it is there and not empty: numbers and booleans as they are written in JSON.
    pub fn text(&self, column: &str) -> Option<String> {
        match self.fields.get(column)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// The columns in which it has a value.
    pub fn columns(&self) -> Vec<&str> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect()
    }

    /// Sees that it has a value in each of the `columns`.
    pub(super) fn check(&self, columns: &[&str]) -> Result<()> {
        match columns.iter().find(|c| self.fields.get(**c).is_none_or(Value::is_null)) {
            Some(column) => bail!("has no \"{column}\"; it has: {}", self.columns().join(", ")),
            None => Ok(()),
        }
    }
}

/// What is done with the rows of a file, one after the other.
pub type Visit<'a> = dyn FnMut(Row) -> Result<()> + 'a;

/// A data file, to be looked through as often as one likes.
pub struct Rows {
    /// The file as it is named to people.
    pub place: String,
    format: Format,
    content: Content,
}

enum Content {
    /// Text is small beside what is trained on it.
    Text(Vec<u8>),
    /// Read a page at a time.
    Parquet(parquet::File),
}

impl Rows {
    /// Opens a file; None if it is not there.
    pub fn open(source: &Source, name: &str, format: Format) -> Result<Option<Self>> {
        let content = match format {
            Format::Parquet if !source.has(name) => None,
            Format::Parquet => Some(Content::Parquet(parquet::File::open(source, name)?)),
            _ => source.read(name)?.map(Content::Text),
        };
        Ok(content.map(|content| Rows { place: source.place(name), format, content }))
    }

    /// Opens a file that must be there, written as its extension says.
    pub fn open_path(path: &Path) -> Result<Self> {
        let format = Format::of(path).with_context(|| format!("{}: it is of no format that is read", path.display()))?;
        let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let rows = Self::open(&Source::Folder(folder.into()), &name.to_string_lossy(), format)?;
        rows.with_context(|| format!("{} is missing", path.display()))
    }

    /// A row as it is named to people.
    pub fn place_of(&self, row: &Row) -> String {
        format!("{}, {} {}", self.place, if self.format == Format::Parquet { "row" } else { "line" }, row.line)
    }

    /// Visits all rows, one at a time. Each must have the `columns`, and may come with no others; None: each comes with
    /// what it has.
    pub fn visit(&self, columns: Option<&[&str]>, visit: &mut Visit) -> Result<()> {
        match &self.content {
            Content::Text(bytes) => visit_text(self.format, &self.place, bytes, columns.unwrap_or_default(), visit),
            Content::Parquet(file) => {
                let checked = &mut |row: Row| {
                    row.check(columns.unwrap_or_default()).map_err(|e| anyhow!("{} {e}", self.place_of(&row)))?;
                    visit(row)
                };
                file.visit(&self.place, columns, checked)
            }
        }
    }
}

fn visit_text(format: Format, place: &str, bytes: &[u8], columns: &[&str], visit: &mut Visit) -> Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        anyhow!("{place}, line {line}: byte 0x{:02x} is not UTF-8; convert the file first", bytes[e.valid_up_to()])
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Tsv => delimited(place, text, columns, b'\t', visit),
        Format::Csv => delimited(place, text, columns, b',', visit),
        Format::Jsonl | Format::Parquet => json_lines(place, text, columns, visit),
    }
}

fn delimited(place: &str, text: &str, columns: &[&str], delimiter: u8, visit: &mut Visit) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(delimiter == b',')
        .flexible(true)
        .from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers()?.iter().map(str::to_string).collect();
    for column in columns {
        match header.iter().filter(|h| h == column).count() {
            0 => bail!("{place} has no column \"{column}\"; its columns are: {}", header.join(", ")),
            1 => {}
            n => bail!("{place} has {n} columns \"{column}\""),
        }
    }
    let (mut line, mut counted) = (1, 0);
    for (index, record) in reader.records().enumerate() {
        let record = record.with_context(|| place.to_string())?;
        // The reader's own count is one behind after \r\n: count the line ends in front of the record's first byte.
        let start = record.position().map_or(0, |p| p.byte() as usize);
        let start = start + text[start..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        line += text[counted..start].bytes().filter(|b| *b == b'\n').count() as u64;
        counted = start;
        if record.len() != header.len() {
            bail!("{place}, line {line}: {} fields, but the header names {}", record.len(), header.len());
        }
        let fields = header.iter().cloned().zip(record.iter().map(Value::from)).collect();
        visit(Row { index, line, fields })?;
    }
    Ok(())
}

fn json_lines(place: &str, text: &str, columns: &[&str], visit: &mut Visit) -> Result<()> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, (i, line)) in lines.enumerate() {
        let here = || format!("{place}, line {}", i + 1);
        let fields: Map<String, Value> =
            serde_json::from_str(line).with_context(|| format!("{}: not a JSON object", here()))?;
        let row = Row { index, line: i as u64 + 1, fields };
        row.check(columns).map_err(|e| anyhow!("{} {e}", here()))?;
        visit(row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, place: &str, bytes: &[u8], columns: &[&str]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let keep = &mut |row| {
            rows.push(row);
            Ok(())
        };
        visit_text(format, place, bytes, columns, keep)?;
        Ok(rows)
    }

    fn error(format: Format, bytes: &[u8]) -> String {
        format!("{:#}", read(format, "data", bytes, &["text", "label"]).unwrap_err())
    }

    #[test]
    fn each_format_gives_the_same_rows() -> Result<()> {
        let tsv = read(Format::Tsv, "", b"text\tlabel\nsay \"no\", twice\t1\n", &["text"])?;
        let csv = read(Format::Csv, "", b"\xef\xbb\xbftext,label\r\n\"say \"\"no\"\", twice\",1\r\n", &["text"])?;
        let json = read(Format::Jsonl, "", b"\n{\"text\": \"say \\\"no\\\", twice\", \"label\": 1}", &["text"])?;
        for rows in [&tsv, &csv, &json] {
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].text("text").as_deref(), Some("say \"no\", twice"));
            assert_eq!(rows[0].text("label").as_deref(), Some("1"));
            assert_eq!((rows[0].index, rows[0].line), (0, 2));
        }
        Ok(())
    }

    #[test]
    fn errors_name_file_line_and_what_is_there() {
        assert_eq!(error(Format::Tsv, b"text\tvalue\na\t1\n"), "data has no column \"label\"; its columns are: text, value");
        assert_eq!(error(Format::Tsv, b"text\tlabel\na\t1\nb\n"), "data, line 3: 1 fields, but the header names 2");
        assert_eq!(error(Format::Jsonl, b"{\"text\": \"a\"}"), "data, line 1 has no \"label\"; it has: text");
        assert_eq!(error(Format::Jsonl, b"{\"text\": null, \"label\": 0}"), "data, line 1 has no \"text\"; it has: label");
        assert!(
            error(Format::Jsonl, b"{\"text\": \"a\", \"label\": 0}\nnonsense\n")
                .starts_with("data, line 2: not a JSON object")
        );
        assert_eq!(
            error(Format::Csv, b"text,label\na,0\n\xff,1\n"),
            "data, line 3: byte 0xff is not UTF-8; convert the file first"
        );
    }
}
