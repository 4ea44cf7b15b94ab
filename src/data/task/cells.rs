//! Comma- or tab-separated records. A rule decides whether quotes delimit cells or are text; ambiguous files are
//! refused, since a guess could change the training texts.

use std::borrow::Cow;

use anyhow::{Result, bail};

use crate::base::text::quoted;

/// One record.
pub struct Record<'a> {
    /// The line it starts in, from 1.
    pub line: u64,
    /// The cells, without delimiting quotes.
    pub cells: Vec<Cow<'a, str>>,
    /// Whether any cell is quoted.
    has_quotes: bool,
    /// Whether a quoted cell has a doubled quote, which is an escape and rare in text.
    has_doubled: bool,
    /// Whether a quoted cell contains a delimiter or a line end.
    has_breaks: bool,
}

/// An iterator over the records of a text. Empty lines are skipped; lines end in \n, \r\n or \r.
pub struct Cells<'a> {
    text: &'a str,
    at: usize,
    line: u64,
    delimiter: u8,
    /// Whether quotes delimit cells as in RFC 4180; else they are ordinary characters.
    quoted: bool,
}

impl<'a> Cells<'a> {
    /// A reader at the start of `text`.
    pub fn new(text: &'a str, delimiter: u8, quoted: bool) -> Self {
        Cells { text, at: 0, line: 1, delimiter, quoted }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips one line end; false if there is none here.
    fn skip_line_end(&mut self) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        let len = match rest {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => return false,
        };
        self.at += len;
        self.line += 1;
        true
    }

    /// The next record; None at the end. Fails on malformed quotes.
    pub fn record(&mut self) -> Result<Option<Record<'a>>> {
        while self.skip_line_end() {}
        if self.at == self.text.len() {
            return Ok(None);
        }
        let mut record =
            Record { line: self.line, cells: Vec::new(), has_quotes: false, has_doubled: false, has_breaks: false };
        loop {
            let cell = match self.byte() {
                Some(b'"') if self.quoted => self.quoted_cell(&mut record)?,
                _ => self.plain()?,
            };
            record.cells.push(cell);
            if self.byte() != Some(self.delimiter) {
                self.skip_line_end();
                return Ok(Some(record));
            }
            self.at += 1;
        }
    }

    fn plain(&mut self) -> Result<Cow<'a, str>> {
        let rest = &self.text.as_bytes()[self.at..];
        let len = rest.iter().position(|b| *b == self.delimiter || matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
        let cell = &self.text[self.at..self.at + len];
        let inner = cell.trim();
        if self.quoted && inner.len() > 1 && inner.starts_with('"') && inner.ends_with('"') {
            bail!("line {}: there is a space before the quote of {}; remove the space", self.line, quoted(cell));
        }
        self.at += len;
        Ok(cell.into())
    }

    fn quoted_cell(&mut self, record: &mut Record) -> Result<Cow<'a, str>> {
        let (first, line) = (self.at + 1, self.line);
        let bytes = self.text.as_bytes();
        let (mut end, mut doubled) = (first, false);
        loop {
            let Some(len) = bytes[end..].iter().position(|b| *b == b'"') else {
                bail!("line {line}: a cell begins with a quote that is never closed: {}", quoted(&self.text[first - 1..]));
            };
            end += len;
            if bytes.get(end + 1) != Some(&b'"') {
                break;
            }
            doubled = true;
            end += 2;
        }
        let inner = &self.text[first..end];
        let ends = inner.as_bytes();
        let lines =
            (0..ends.len()).filter(|&i| ends[i] == b'\n' || ends[i] == b'\r' && ends.get(i + 1) != Some(&b'\n')).count();
        self.at = end + 1;
        self.line += lines as u64;
        if !matches!(self.byte(), None | Some(b'\r' | b'\n')) && self.byte() != Some(self.delimiter) {
            let behind = &self.text[first - 1..];
            bail!(
                "line {line}: there is text after the closing quote of a cell; a quote inside a cell must be doubled (\"\"): \
                 {}",
                quoted(behind)
            );
        }
        record.has_quotes = true;
        record.has_doubled |= doubled;
        record.has_breaks |= lines > 0 || ends.contains(&self.delimiter);
        Ok(if doubled { inner.replace("\"\"", "\"").into() } else { inner.into() })
    }
}

/// The result of reading all records.
#[derive(Default)]
struct Scan {
    /// Why the text cannot be read this way.
    error: Option<String>,
    /// The first line with a quoted cell.
    quotes: Option<u64>,
    /// The first line with a doubled quote, or the header's if it is quoted.
    doubled: Option<u64>,
    /// The first line with a quoted cell that contains a tab or a line end.
    breaks: Option<u64>,
}

fn scan(text: &str, quoted: bool) -> Scan {
    let mut cells = Cells::new(text, b'\t', quoted);
    let (mut scanned, mut width) = (Scan::default(), None);
    loop {
        match cells.record() {
            Ok(None) => return scanned,
            Ok(Some(record)) => {
                let is_header = width.is_none();
                if *width.get_or_insert(record.cells.len()) != record.cells.len() {
                    scanned.error = Some(format!("line {} has {} cells", record.line, record.cells.len()));
                    return scanned;
                }
                let line = Some(record.line);
                scanned.quotes = scanned.quotes.or(line.filter(|_| record.has_quotes));
                scanned.doubled = scanned.doubled.or(line.filter(|_| record.has_doubled || is_header && record.has_quotes));
                scanned.breaks = scanned.breaks.or(line.filter(|_| record.has_breaks));
            }
            Err(error) => {
                scanned.error = Some(error.to_string());
                return scanned;
            }
        }
    }
}

/// The first line with a cell that, read without quoting, looks quoted: enclosed in quotes, with doubled quotes inside
/// and no single ones.
fn doubled_line(text: &str) -> Option<u64> {
    let is_doubled = |cell: &str| {
        let inner = cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.is_some_and(|inner| inner.contains("\"\"") && !inner.replace("\"\"", "").contains('"'))
    };
    let mut cells = Cells::new(text, b'\t', false);
    while let Ok(Some(record)) = cells.record() {
        if record.cells.iter().any(|cell| is_doubled(cell)) {
            return Some(record.line);
        }
    }
    None
}

/// Whether the quotes of a tab-separated text delimit cells, as pandas and Python's csv write them, or are text, as in
/// GLUE's files.
///
/// They delimit cells if every cell that begins with a quote also ends with one, all records have the same width, and
/// some cell proves it: a quote inside is doubled, the header is quoted, or a cell contains a tab or a line end. They
/// are text if some quote cannot be a delimiter. Ambiguous or contradictory files are an error.
pub fn has_writers_quotes(text: &str) -> Result<bool> {
    const SAY: &str = "save the file as .jsonl or .csv, or set format = \"tsv-quoted\" or \"tsv-raw\" in a task file";
    if !text.starts_with('"') && !["\t\"", "\n\"", "\r\""].iter().any(|begin| text.contains(begin)) {
        return Ok(false);
    }
    let (raw, quoted) = (scan(text, false), scan(text, true));
    match (raw.error, quoted.error) {
        (None, Some(why)) => match doubled_line(text) {
            Some(line) => bail!(
                "line {line}: quotes are doubled here, as in a file with quoted cells, but some cells that begin with a quote \
                 do not follow that rule ({why}); {SAY}"
            ),
            None => Ok(false),
        },
        (Some(why), Some(other)) => {
            bail!("{why}, and the header has another number; nor does the file follow the rules of quoted cells ({other})")
        }
        (_, None) if quoted.quotes.is_none() => Ok(false),
        (Some(_), None) => match spanning_cell(text) {
            Some(line) => bail!(
                "line {line}: a cell in quotes spans the end of a line and a tab, so a closing quote may be missing; {SAY}"
            ),
            None => Ok(true),
        },
        (None, None) => match (quoted.doubled, quoted.breaks, quoted.quotes) {
            (Some(_), None, _) => Ok(true),
            (_, Some(line), _) => {
                bail!("line {line}: it is not clear whether the quotes belong to the text or mark the cell; {SAY}")
            }
            (_, _, line) => bail!(
                "line {}: it is not clear whether the quotes around a cell belong to the text or mark the cell; {SAY}",
                line.unwrap_or_default()
            ),
        },
    }
}

/// The first line with a quoted cell that contains both a line end and a tab; it may be several records.
fn spanning_cell(text: &str) -> Option<u64> {
    let mut cells = Cells::new(text, b'\t', true);
    while let Ok(Some(record)) = cells.record() {
        if record.cells.iter().any(|cell| cell.contains('\t') && cell.contains(['\n', '\r'])) {
            return Some(record.line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, delimiter: u8, quoted: bool) -> Result<Vec<(u64, Vec<String>)>> {
        let (mut cells, mut all) = (Cells::new(text, delimiter, quoted), Vec::new());
        while let Some(record) = cells.record()? {
            all.push((record.line, record.cells.into_iter().map(Cow::into_owned).collect()));
        }
        Ok(all)
    }

    #[test]
    fn records_end_with_lines_of_every_system_and_know_theirs() -> Result<()> {
        let expected = |lines: [u64; 3]| {
            let cells = [["a", "b"], ["1\n2", "x"], ["", "y"]];
            lines.into_iter().zip(cells).map(|(line, cells)| (line, cells.map(String::from).to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(all("a,b\n\"1\n2\",x\n\n,y\n", b',', true)?, expected([1, 2, 5]));
        assert_eq!(all("a,b\r\n\"1\n2\",x\r\n,y", b',', true)?, expected([1, 2, 4]));
        assert_eq!(all("a,b\r\"1\n2\",x\r\r\r,y\r", b',', true)?, expected([1, 2, 6]));
        assert_eq!(all("a\t\"b\n", b'\t', false)?, [(1, vec!["a".to_string(), "\"b".into()])]);
        assert_eq!(all("a,\n", b',', true)?, [(1, vec!["a".to_string(), String::new()])]);
        Ok(())
    }

    #[test]
    fn quotes_that_do_not_match_are_refused() {
        let error = |text: &str| all(text, b',', true).unwrap_err().to_string();
        assert!(error("a,b\nx,\"y\nz,1\n").starts_with("line 2: a cell begins with a quote that is never closed"));
        assert!(error("a,b\n\"x\"y,1\n").starts_with("line 2: there is text after the closing quote of a cell"));
        assert!(error("a,b\nx, \"y\"\n").starts_with("line 2: there is a space before the quote of \" \\\"y\\\"\""));
    }

    #[test]
    fn whose_the_quotes_of_a_tsv_are_follows_a_rule() {
        let whose = |text: &str| has_writers_quotes(text).map_err(|e| e.to_string());
        // No cell begins with a quote.
        assert_eq!(whose("text\tlabel\nsay \"no\"\t1\n"), Ok(false));
        // A doubled quote, a quoted header, a tab or a line end in a cell.
        assert_eq!(whose("text\tlabel\n\"say \"\"no\"\"\"\t1\n\"plain\"\t0\n"), Ok(true));
        assert_eq!(whose("\"text\"\t\"label\"\n\"plain\"\t\"1\"\n"), Ok(true));
        assert_eq!(whose("text\tlabel\n\"a\tb\"\t1\nx\t0\n"), Ok(true));
        assert_eq!(whose("text\tlabel\n\"a\nb\"\t1\nx\t0\n"), Ok(true));
        // Not closed, or closed in the middle: text.
        assert_eq!(whose("text\tlabel\n\"an open one\t1\nx\t0\n"), Ok(false));
        assert_eq!(whose("text\tlabel\n\"good\" film\t1\n\"all\"\t0\n"), Ok(false));
        // Ambiguous, and contradictory.
        assert!(
            whose("text\tlabel\nx\t0\n\"good\"\t1\n")
                .unwrap_err()
                .starts_with("line 3: it is not clear whether the quotes around a cell")
        );
        assert!(whose("text\n\"a\nb\"\n").unwrap_err().starts_with("line 2: it is not clear whether the quotes belong"));
        assert!(
            whose("text\tlabel\n\"\"\"a\"\"\"\t1\n\"b\" c\t0\n").unwrap_err().starts_with("line 2: quotes are doubled here")
        );
        // A quote that is closed only by the next line's, before a tab: three rows, not one.
        let swallowed = whose("text\tlabel\n\"a\nb\t1\nc\"\t0\n").unwrap_err();
        assert!(swallowed.starts_with("line 2: a cell in quotes spans the end of a line and a tab"), "{swallowed}");
    }
}
