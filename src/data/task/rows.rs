//! Rows of data files: tab-separated (GLUE), comma-separated, JSON lines (SuperGLUE), parquet (the hub). Errors name
//! file and line, or file and row.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

use super::cells::{Cells, Record, has_writers_quotes};
use super::json;
use super::parquet::File;
use super::row::{Row, Visit, lacks};
use crate::base::Source;
use crate::base::text::quoted;

/// The format of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Tab-separated with a header line. [`has_writers_quotes`] decides whether quotes delimit cells.
    Tsv,
    /// Tab-separated, quotes are ordinary characters: GLUE's files.
    TsvRaw,
    /// Tab-separated, quoted as CSV: written by pandas or Excel.
    TsvQuoted,
    /// Comma-separated with a header line, quoted as in RFC 4180.
    Csv,
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet, the hub's format.
    Parquet,
}

impl Format {
    /// The format by a file's extension; None if unknown.
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

/// A data file that can be read repeatedly.
pub struct Rows {
    /// The file's name for people.
    pub place: String,
    format: Format,
    content: Content,
}

enum Content {
    /// The whole text; it is small beside the model.
    Text(String),
    /// Read one page at a time.
    Parquet(File),
}

impl Rows {
    /// Opens a file; None if there is none.
    pub fn open(source: &Source, name: &str, format: Format) -> Result<Option<Self>> {
        let place = source.place(name);
        if format == Format::Parquet {
            let file = source.has(name).then(|| File::open(source, name)).transpose()?;
            return Ok(file.map(|file| Rows { place, format, content: Content::Parquet(file) }));
        }
        source.read(name)?.map(|bytes| Self::of_text(place, format, &bytes)).transpose()
    }

    fn of_text(place: String, format: Format, bytes: &[u8]) -> Result<Self> {
        let text = text_of(&place, bytes)?;
        let format = match format {
            Format::Tsv if has_writers_quotes(text).map_err(|e| anyhow!("{place}, {e}"))? => Format::TsvQuoted,
            Format::Tsv => Format::TsvRaw,
            other => other,
        };
        Ok(Rows { place, format, content: Content::Text(text.to_string()) })
    }

    /// Opens an existing file, its format given by its extension.
    pub fn open_path(path: &Path) -> Result<Self> {
        let format =
            Format::of(path).with_context(|| format!("{}: zotune does not know this file format", path.display()))?;
        let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let rows = Self::open(&Source::Folder(folder.into()), &name.to_string_lossy(), format)?;
        rows.with_context(|| format!("{} is missing", path.display()))
    }

    /// The columns common to all rows; None: each row has its own.
    pub fn columns(&self) -> Result<Option<Vec<String>>> {
        match (&self.content, self.delimiter()) {
            (Content::Parquet(file), _) => file.columns(&self.place).map(Some),
            (Content::Text(text), Some((delimiter, quoted))) => {
                let header = Cells::new(text, delimiter, quoted).record().map_err(|e| anyhow!("{}, {e}", self.place))?;
                header.map(|header| header_of(&self.place, &header.cells)).transpose()
            }
            _ => Ok(None),
        }
    }

    /// The delimiter, and whether cells may be quoted.
    fn delimiter(&self) -> Option<(u8, bool)> {
        match self.format {
            Format::Csv => Some((b',', true)),
            Format::Tsv | Format::TsvRaw => Some((b'\t', false)),
            Format::TsvQuoted => Some((b'\t', true)),
            Format::Jsonl | Format::Parquet => None,
        }
    }

    /// File and line of a row, for people.
    pub fn place_of(&self, row: &Row) -> String {
        format!("{}, {} {}", self.place, if self.format == Format::Parquet { "row" } else { "line" }, row.line)
    }

    /// Visits all rows in order. Each must have values in `columns`; the others may be left out. None: all columns of a row.
    pub fn visit(&self, columns: Option<&[&str]>, visit: &mut Visit) -> Result<()> {
        match (&self.content, self.delimiter()) {
            (Content::Text(text), Some((delimiter, quoted))) => {
                delimited(&self.place, Cells::new(text, delimiter, quoted), columns.unwrap_or_default(), visit)
            }
            (Content::Text(text), None) => json_lines(&self.place, text, columns.unwrap_or_default(), visit),
            (Content::Parquet(file), _) => {
                let checked = &mut |row: Row| {
                    row.check(columns.unwrap_or_default()).map_err(|e| anyhow!("{} {e}", self.place_of(&row)))?;
                    visit(row)
                };
                file.visit(&self.place, columns, checked)
            }
        }
    }
}

/// Signatures of files that are not text, and the remedy.
const NO_TEXT: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd; unpack it first"),
    (b"BZh", "it is compressed by bzip2; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive or a spreadsheet; unpack it, or save it as CSV"),
    (b"PAR1", "it is a parquet file; its name must end in .parquet"),
    (b"\xff\xfe", "it is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16; save it as UTF-8"),
    (b"version https://git-lfs", "it is a git-lfs pointer, not the file itself; fetch the file with: git lfs pull"),
];

/// The file's text without a byte order mark. Fails if it is not UTF-8.
fn text_of<'a>(place: &str, bytes: &'a [u8]) -> Result<&'a str> {
    if let Some((_, say)) = NO_TEXT.iter().find(|(begin, _)| bytes.starts_with(begin)) {
        bail!("{place}: {say}");
    }
    let line = |at: usize| 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        anyhow!("{place}, line {}: byte 0x{:02x} is not UTF-8; convert the file first", line(at), bytes[at])
    })?;
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        bail!("{place}, line {}: there is a byte 0x00, which no text has; the file is damaged or not UTF-8", line(at));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The trimmed names in a header. Duplicate names and invisible characters are errors; columns with an empty name are
/// ignored.
fn header_of(place: &str, cells: &[Cow<str>]) -> Result<Vec<String>> {
    let names: Vec<String> = cells.iter().map(|cell| cell.trim().to_string()).collect();
    for (i, name) in names.iter().enumerate() {
        let hidden = |c: &char| c.is_control() || matches!(*c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
        if let Some(c) = name.chars().find(hidden) {
            bail!(
                "{place}: the column {} has an invisible character (U+{:04X}) in its name; remove it",
                quoted(name),
                c as u32
            );
        }
        if !name.is_empty() && names[..i].contains(name) {
            bail!("{place} has {} columns named {}", names.iter().filter(|other| *other == name).count(), quoted(name));
        }
    }
    Ok(names)
}

fn delimited(place: &str, mut cells: Cells, columns: &[&str], visit: &mut Visit) -> Result<()> {
    let mut record = || cells.record().map_err(|e| anyhow!("{place}, {e}"));
    let header = record()?.map_or(Ok(Vec::new()), |header| header_of(place, &header.cells))?;
    if let Some(column) = columns.iter().find(|column| !header.iter().any(|name| name == *column)) {
        return Err(lacks(place, column, header.iter().map(String::as_str)));
    }
    let mut index = 0;
    while let Some(Record { line, cells, .. }) = record()? {
        if cells.len() != header.len() {
            bail!("{place}, line {line}: {} fields, but the header names {}", cells.len(), header.len());
        }
        let named = header.iter().zip(cells).filter(|(name, _)| !name.is_empty());
        let fields = named.map(|(name, cell)| (name.clone(), Value::from(cell.as_ref()))).collect();
        visit(Row { index, line, fields })?;
        index += 1;
    }
    Ok(())
}

fn json_lines(place: &str, text: &str, columns: &[&str], visit: &mut Visit) -> Result<()> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, (i, line)) in lines.enumerate() {
        let here = || format!("{place}, line {}", i + 1);
        let fields = json::object(line).map_err(|e| anyhow!("{}: {e:#}", here()))?;
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
        Rows::of_text(place.into(), format, bytes)?.visit(Some(columns), keep)?;
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
            assert_eq!(rows[0].fields["text"].as_str(), Some("say \"no\", twice"));
            assert_eq!(rows[0].label("label").as_deref(), Some("1"));
            assert_eq!((rows[0].index, rows[0].line), (0, 2));
        }
        Ok(())
    }

    /// Files written by pandas, Python's csv and GLUE's authors, with the rows that Python reads
    /// (scripts/make_cells.py).
    #[test]
    fn files_are_read_as_python_reads_them() -> Result<()> {
        let cases: Value = serde_json::from_slice(include_bytes!("../../../tests/fixtures/cells.json"))?;
        let cases = cases.as_array().context("a list")?;
        for case in cases {
            let format: Format = serde_json::from_value(case["format"].clone())?;
            let (name, text) = (case["name"].as_str().unwrap(), case["text"].as_str().unwrap());
            let found = read(format, name, text.as_bytes(), &["text", "label"])?;
            let expected = case["rows"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                for column in ["text", "label"] {
                    assert_eq!(found.fields[column], expected[column], "{name}, line {}", found.line);
                }
            }
            // Formats that a task file states.
            if name == "GLUE" {
                assert_eq!(read(Format::TsvRaw, name, text.as_bytes(), &["text"])?.len(), expected.len());
                assert!(read(Format::TsvQuoted, name, text.as_bytes(), &["text"]).is_err());
            }
        }
        assert_eq!(cases.len(), 14);
        Ok(())
    }

    #[test]
    fn errors_name_file_line_and_what_is_there() {
        assert_eq!(error(Format::Tsv, b"text\tvalue\na\t1\n"), "data has no column \"label\"; its columns are: text, value");
        assert_eq!(
            error(Format::Csv, b"text,Label\na,1\n"),
            "data has no column \"label\"; its columns are: text, Label; did you mean \"Label\"?"
        );
        assert_eq!(error(Format::Csv, b"text,label, text\na,1,b\n"), "data has 2 columns named \"text\"");
        assert_eq!(
            error(Format::Csv, "text,la\u{200b}bel\na,1\n".as_bytes()),
            "data: the column \"la\\u{200b}bel\" has an invisible character (U+200B) in its name; remove it"
        );
        assert_eq!(
            error(Format::Jsonl, b"{\"text\": \"a\", \"label\": 0, \"text\": \"b\"}"),
            "data, line 1: not a JSON object: the key \"text\" occurs twice at column 32"
        );
        assert_eq!(
            error(Format::Jsonl, b"[{\"text\": \"a\", \"label\": 0}]"),
            "data, line 1: not a JSON object but a list; write each row as an object on its own line"
        );
        for (bytes, expected) in [
            (&b"\x1f\x8b\x08"[..], "data: it is compressed by gzip; unpack it first"),
            (b"\xff\xfet\0", "data: it is UTF-16; save it as UTF-8"),
            (
                b"text,label\na\0,1\n",
                "data, line 2: there is a byte 0x00, which no text has; the file is damaged or not UTF-8",
            ),
        ] {
            assert_eq!(error(Format::Csv, bytes), expected);
        }
        assert_eq!(error(Format::Tsv, b"text\tlabel\na\t1\nb\n"), "data, line 3: 1 fields, but the header names 2");
        assert_eq!(error(Format::Jsonl, b"{\"text\": \"a\"}"), "data, line 1 has no \"label\" (columns: text)");
        assert_eq!(error(Format::Jsonl, b"{\"text\": null, \"label\": 0}"), "data, line 1 has no \"text\" (columns: label)");
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
