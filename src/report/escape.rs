//! Texts from files inside HTML, SVG, Markdown and CSV.

use crate::base::text::plain;

/// A text inside an element or a quoted attribute of HTML or SVG.
pub fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // XML has neither of these.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A cell of a Markdown table.
pub fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '\n' | '\t' => escaped.push(' '),
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A cell of a CSV file, as RFC 4180 has it.
pub fn csv(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

/// A text of at most `most` characters, shortened in the middle.
pub fn shortened(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.into();
    }
    let (begin, end) = (letters[..most / 2].iter(), letters[letters.len() - (most - most / 2 - 3)..].iter());
    format!("{}...{}", begin.collect::<String>(), end.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_inert() {
        assert_eq!(html("a\"><script>'&\u{1b}"), "a&quot;&gt;&lt;script&gt;&#39;&amp;\\u001b");
        assert_eq!(markdown("a|b_c\n<d>"), "a\\|b\\_c &lt;d>");
        assert_eq!([csv("a b"), csv("a,\"b\"")], ["a b", "\"a,\"\"b\"\"\""]);
    }

    #[test]
    fn a_long_text_keeps_its_ends() {
        assert_eq!(shortened("short", 84), "short");
        let short = shortened(&format!("{}, zo-sgd", "\u{e9}".repeat(200)), 84);
        assert!(short.chars().count() == 84 && short.contains("...") && short.ends_with(", zo-sgd"), "{short}");
    }
}
