//! Texts for people: quoted, bounded, harmless to a terminal; names that are near.

use std::io::Write;

/// A text of somebody's as an error quotes it: its beginning, however long it is, on one line.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}... ({} characters)", &text[..end], text.chars().count()),
        None => format!("{text:?}"),
    }
}

/// What an error says, of a length that a person reads: whatever it quotes.
pub fn bounded(said: &str) -> std::borrow::Cow<'_, str> {
    match said.char_indices().nth(2000) {
        Some((end, _)) => format!("{}... ({} characters)", &said[..end], said.chars().count()).into(),
        None => said.into(),
    }
}

/// A text that a terminal shows and does not obey: of control characters (ESC above all) and those that turn the direction of writing
/// their numbers, as JSON writes them. Lines and tabs stay. All that is said goes through here, for much of it comes from files.
pub fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    let is_odd = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_odd) {
        return text.into();
    }
    text.chars().map(|c| if is_odd(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect::<String>().into()
}

/// Writes what [`plain`] leaves of a text.
pub struct Plain<W>(pub W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(plain(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Names in a line, as many as a person reads.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let names: Vec<&str> = names.into_iter().collect();
    let short = |name: &&str| if name.chars().count() > 60 { quoted(name) } else { name.to_string() };
    let shown: Vec<String> = names.iter().take(MOST).map(short).collect();
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// A text whose options in backquotes are renamed (see [`usage!`]). `rename` gets a name, and the value with the space or the =
/// before it, if there is a value. Where it gives None, the backquotes and what is in them stay.
pub fn rename_options(text: &str, rename: impl Fn(&str, &str) -> Option<String>) -> std::borrow::Cow<'_, str> {
    if !text.contains('`') {
        return text.into();
    }
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('`') {
        said += before;
        let renamed = after.split_once('`').and_then(|(inside, next)| {
            let (name, value) = inside.split_at(inside.find([' ', '=']).unwrap_or(inside.len()));
            Some((rename(name, value)?, next))
        });
        match renamed {
            Some((name, next)) => {
                said += &name;
                rest = next;
            }
            None => {
                said.push('`');
                rest = after;
            }
        }
    }
    (said + rest).into()
}

/// `did you mean "x"?` when a known name is near, else a list of all of them, or of none where there are many.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let asked = name.to_lowercase();
    let score = |known: &str| strsim::jaro_winkler(&asked, &known.to_lowercase());
    let best = known.iter().map(|k| (score(k), *k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, k)) if score > 0.8 => format!("did you mean \"{k}\"?"),
        _ if known.len() > 40 => format!("none of the {} known names is similar", known.len()),
        _ => format!("the known ones are {}", listed(known)),
    }
}

/// As a shell takes it.
pub fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_a_file() {
        assert_eq!(plain("a\tb\nc \u{e9}"), "a\tb\nc \u{e9}");
        assert_eq!(plain("\u{1b}]0;x\u{7}\r\u{9b}1m\u{202e}"), "\\u001b]0;x\\u0007\\u000d\\u009b1m\\u202e");
    }
}
