//! Rows of data files: tab-separated (GLUE), comma-separated, JSON lines (SuperGLUE). Every error names file and line.

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

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
}

/// One row: its fields by name.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its place among the data rows, from 0.
    pub index: usize,
    /// Its line in the file, from 1.
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
}

/// Visits all rows of a file, one at a time; each must have the `columns`.
pub fn visit(format: Format, place: &str, bytes: &[u8], columns: &[&str], visit: &mut dyn FnMut(Row)) -> Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        anyhow!("{place}, line {line}: byte 0x{:02x} is not UTF-8; convert the file first", bytes[e.valid_up_to()])
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Tsv => delimited(place, text, columns, b'\t', visit),
        Format::Csv => delimited(place, text, columns, b',', visit),
        Format::Jsonl => json_lines(place, text, columns, visit),
    }
}

fn delimited(place: &str, text: &str, columns: &[&str], delimiter: u8, visit: &mut dyn FnMut(Row)) -> Result<()> {
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
        visit(Row { index, line, fields });
    }
    Ok(())
}

fn json_lines(place: &str, text: &str, columns: &[&str], visit: &mut dyn FnMut(Row)) -> Result<()> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, (i, line)) in lines.enumerate() {
        let here = || format!("{place}, line {}", i + 1);
        let fields: Map<String, Value> =
            serde_json::from_str(line).with_context(|| format!("{}: not a JSON object", here()))?;
        if let Some(column) = columns.iter().find(|c| fields.get(**c).is_none_or(Value::is_null)) {
            let known: Vec<&str> = fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
            bail!("{} has no \"{column}\"; it has: {}", here(), known.join(", "));
        }
        visit(Row { index, line: i as u64 + 1, fields });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, place: &str, bytes: &[u8], columns: &[&str]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        visit(format, place, bytes, columns, &mut |row| rows.push(row))?;
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
