//! Prompt templates: minijinja, restricted to what prompts need. A task file may come from a stranger, and a few lines
//! could loop forever, double a text forty times or overflow the stack.
//!
//! Everything that can grow is bounded: the source by its length and number of tags, a rendering by fuel and output
//! length; `set`, which carries a text to later tags, may not join texts. Features without use in a prompt are removed.

use std::io::Write;

use anyhow::{Context, Result, bail};
use minijinja::value::{StringInput, Value};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters};

use super::json::text_size;
use crate::base::text::{listed, quoted};

/// The longest template, in bytes.
const LONGEST: usize = 1 << 20;

/// The most tags in a template, and the longest tag in bytes.
const MOST_TAGS: usize = 1000;

const LONGEST_TAG: usize = 1000;

/// The deepest nesting of `if` and `for`; each `elif` nests in the one before.
const DEEPEST: usize = 50;

/// The most joins (~ and +) in a tag.
const MOST_JOINS: usize = 16;

/// The fuel of a rendering, in instructions.
const FUEL: u64 = 200_000;

/// The longest text that a filter may make, in bytes.
const LONGEST_TEXT: usize = 16 << 20;

/// The longest output beside [`MOST_TIMES`] the row's size, in bytes: more tokens than any model has positions for.
const LONGEST_BESIDE: usize = 1 << 19;

/// How many times the row's size a template may write.
const MOST_TIMES: usize = 4;

const STATEMENTS: [&str; 8] = ["if", "elif", "else", "endif", "for", "endfor", "set", "raw"];

/// Filters of minijinja that are removed: they expand a text, or have no use in a prompt.
const LEFT_OUT: [&str; 22] = [
    "safe",
    "escape",
    "e",
    "bool",
    "batch",
    "slice",
    "sum",
    "indent",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "groupby",
    "unique",
    "chain",
    "zip",
    "pprint",
    "format",
    "tojson",
    "urlencode",
    "debug",
];

/// An environment with strict variables and the filters `strip_end` and `lower_first`.
pub fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_keep_trailing_newline(true);
    env.set_fuel(Some(FUEL));
    // A null in a field would become the word "None".
    env.set_formatter(|out, state, value| match value.is_none() {
        true => Err(Error::new(
            ErrorKind::InvalidOperation,
            "a value in the template is null; remove the row, or write {{ ... or \"\" }} if an empty text is meant",
        )),
        false => minijinja::escape_formatter(out, state, value),
    });
    LEFT_OUT.iter().for_each(|name| env.remove_filter(name));
    ["debug", "namespace"].iter().for_each(|name| env.remove_global(name));
    env.add_filter("replace", replace);
    env.add_filter("join", join);
    env.add_filter("strip_end", |text: &str, end: &str| text.strip_suffix(end).unwrap_or(text).to_string());
    env.add_filter("lower_first", |text: &str| lower_first(text));
    env
}

/// Lower-cases the first word unless it is "I".
fn lower_first(text: &str) -> String {
    let first = text.find(' ').unwrap_or(text.len());
    if &text[..first] == "I" { text.to_string() } else { format!("{}{}", text[..first].to_lowercase(), &text[first..]) }
}

fn too_long(most: usize) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("it makes a text of more than {most} bytes, which is too long for a prompt"),
    )
}

/// minijinja's `replace` with a bounded result.
fn replace(state: &State, text: StringInput, from: StringInput, to: StringInput) -> Result<Value, Error> {
    let (whole, from_text, to_text) = (text.as_str(), from.as_str(), to.as_str());
    let found = if from_text.is_empty() { whole.len() + 1 } else { whole.matches(from_text).count() };
    if found.saturating_mul(to_text.len()).saturating_add(whole.len()) > LONGEST_TEXT {
        return Err(too_long(LONGEST_TEXT));
    }
    filters::replace(state, text, from, to)
}

/// minijinja's `join` with a bounded result.
fn join(state: &State, list: &Value, joiner: Option<StringInput>) -> Result<Value, Error> {
    let between = joiner.as_ref().map_or(0, |joiner| joiner.as_str().len());
    let mut len = 0usize;
    for item in list.try_iter()? {
        len = len.saturating_add(between).saturating_add(item.as_str().map_or(32, str::len));
        if len > LONGEST_TEXT {
            return Err(too_long(LONGEST_TEXT));
        }
    }
    filters::join(state, list, joiner)
}

/// Renders a template with a row's values. Fails if it exceeds its fuel or output length.
pub fn render(env: &Environment, name: &str, values: &serde_json::Map<String, serde_json::Value>) -> Result<String> {
    let most = LONGEST_BESIDE + MOST_TIMES * values.values().map(|value| text_size(value, 0)).sum::<usize>();
    let mut out = Bounded { text: Vec::new(), most };
    let rendered = env.get_template(name)?.render_captured_to(values, &mut out).map(drop);
    if let Err(error) = rendered {
        return match error.kind() {
            ErrorKind::OutOfFuel => {
                bail!("{name}: it runs more than {FUEL} instructions (the limit)")
            }
            _ => Err(error.into()),
        };
    }
    String::from_utf8(out.text).context("a prompt is UTF-8")
}

/// An output of limited length.
struct Bounded {
    text: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            return Err(std::io::Error::other(too_long(self.most).to_string()));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A tag without its braces.
struct Tag<'a> {
    inner: &'a str,
    is_statement: bool,
}

/// The tags of a template, as minijinja finds them: a closing brace in a string literal does not end a tag.
fn tags(source: &str) -> Result<Vec<Tag<'_>>> {
    let (mut found, mut rest) = (Vec::new(), source);
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (open, behind) = rest[start..].split_at(2);
        if open == "{#" {
            rest = behind.split_once("#}").map_or("", |(_, rest)| rest);
            continue;
        }
        let close = if open == "{{" { "}}" } else { "%}" };
        let end = end_of_tag(behind, close).unwrap_or(behind.len());
        let inner = behind[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        rest = behind.get(end + 2..).unwrap_or("");
        let is_raw = open == "{%" && inner == "raw";
        if found.len() == MOST_TAGS {
            bail!("it has more than {MOST_TAGS} tags (the limit)");
        }
        found.push(Tag { inner, is_statement: open == "{%" });
        if is_raw {
            // Raw text, up to its end tag.
            let Some(at) = rest.find("endraw") else { break };
            rest = rest[at..].split_once("%}").map_or("", |(_, rest)| rest);
        }
    }
    Ok(found)
}

/// The characters of a tag outside its string literals, with their indices.
fn outside_texts(tag: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped) = (None, false);
    tag.char_indices().filter(move |(_, c)| {
        let is_text = quote.is_some() || matches!(c, '"' | '\'');
        match quote {
            _ if escaped => escaped = false,
            Some(_) if *c == '\\' => escaped = true,
            Some(open) if *c == open => quote = None,
            None if is_text => quote = Some(*c),
            _ => {}
        }
        !is_text
    })
}

/// The index at which a tag is closed by `close`.
fn end_of_tag(text: &str, close: &str) -> Option<usize> {
    outside_texts(text).map(|(at, _)| at).find(|at| text[*at..].starts_with(close))
}

/// Refuses a template that exceeds the bounds, before it is parsed.
pub fn check(source: &str) -> Result<()> {
    if source.len() > LONGEST {
        bail!("it is {} bytes long; the maximum is {LONGEST}", source.len());
    }
    let mut depths = vec![0usize];
    for Tag { inner, is_statement } in tags(source)? {
        if inner.len() > LONGEST_TAG {
            bail!("the tag {} is {} bytes long; the maximum is {LONGEST_TAG}", quoted(inner), inner.len());
        }
        let bare: String = outside_texts(inner).map(|(_, c)| c).collect();
        let joins = bare.matches(['~', '+']).count();
        if bare.contains('*') {
            bail!("the tag {} uses *, which is not allowed: a template must not repeat texts", quoted(inner));
        }
        if joins > MOST_JOINS {
            bail!("the tag {} joins {joins} times; the maximum is {MOST_JOINS}; write several tags", quoted(inner));
        }
        if !is_statement {
            continue;
        }
        let word = bare.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if !STATEMENTS.contains(&word) {
            bail!("the tag {} is not allowed in a prompt; allowed are {}", quoted(inner), listed(STATEMENTS));
        }
        let (top, here) = (depths.len() - 1, depths.last().copied().unwrap_or_default());
        match word {
            "if" | "for" => depths.push(here + 1),
            "elif" => depths[top] += 1,
            "endif" | "endfor" => drop(depths.pop().filter(|_| top > 0)),
            "set" if joins > 0 || !bare.contains('=') => {
                bail!("the tag {} stores a joined text; join texts where they are written", quoted(inner))
            }
            _ => {}
        }
        if depths.is_empty() {
            depths.push(0);
        }
        if word == "for" && bare.split_whitespace().any(|word| word == "recursive") {
            bail!("the tag {} is recursive, which is not allowed", quoted(inner));
        }
        if depths.last().is_some_and(|depth| *depth > DEEPEST) {
            bail!("the tag {} is inside more than {DEEPEST} other tags", quoted(inner));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(source: &str) -> Result<String> {
        check(source)?;
        let mut env = environment();
        env.add_template_owned("prompt", source.to_string())?;
        let row = serde_json::json!({ "text": "a b", "list": ["x", "y"] });
        render(&env, "prompt", row.as_object().context("an object")?)
    }

    #[test]
    fn prompts_are_made_as_ever() -> Result<()> {
        for (source, expected) in [
            ("{{ text }} It was", "a b It was"),
            ("{% if text == 'a b' %}yes{% elif text %}no{% else %}never{% endif %}", "yes"),
            ("{% for x in list %}{{ loop.index }}. {{ x | upper }}\n{% endfor %}", "1. X\n2. Y\n"),
            ("{% set t = text | trim | replace('b', 'c') %}{{ t }}{{ list | join(', ') }}", "a cx, y"),
            ("{{ '}} %} *' }}{# ** #}{% raw %}{{ a * b }}{% endraw %}", "}} %} *{{ a * b }}"),
            ("{{ text ~ ' ' ~ list[0] }}", "a b x"),
        ] {
            assert_eq!(made(source)?, expected, "{source}");
        }
        Ok(())
    }

    #[test]
    fn what_would_not_end_or_not_fit_is_refused_by_name() {
        let error = |source: &str| format!("{:#}", made(source).unwrap_err());
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert_eq!(error(nested), "prompt: it runs more than 200000 instructions (the limit)");
        assert!(error(&format!("{}{{{{ t }}}}", "{% set t = text ~ text %}".repeat(40))).contains("stores a joined text"));
        assert!(error("{% set t %}{{ text }}{{ text }}{% endset %}").contains("stores a joined text"));
        assert!(error(&format!("{{{{ text{} }}}}", "|trim".repeat(100_000))).contains("bytes long; the maximum is 1000"));
        assert!(
            error(&format!("{{{{ text{} }}}}", " | replace('a', 'aaaaaaaaaaaaaaaa')".repeat(20)))
                .contains("which is too long for a prompt")
        );
        assert!(error(&"{% if text %}".repeat(60)).contains("is inside more than 50 other tags"));
        assert!(error(&"{{ text }}".repeat(1001)).contains("more than 1000 tags"));
        assert!(error("{{ 'a' * 99999999 }}").contains("uses *"));
        assert!(
            error("{% macro a() %}{% endmacro %}")
                .contains("\"macro a()\" is not allowed in a prompt; allowed are if, elif")
        );
        assert!(error("{{ text | pprint }}").contains("pprint"));
        let joined = "{{ range(20000) | list | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}";
        assert!(error(joined).contains("more than 524308 bytes, which is too long for a prompt"), "{}", error(joined));
        let long =
            "{% for a in range(2000) %}{% for b in range(50) %}".to_string() + &"x".repeat(500) + "{% endfor %}{% endfor %}";
        assert!(error(&long).contains("which is too long for a prompt"), "{}", error(&long));
    }

    /// The filters that expand a text by at most a small factor.
    const FILTERS: [&str; 28] = [
        "lower",
        "upper",
        "title",
        "capitalize",
        "replace",
        "length",
        "count",
        "items",
        "dictsort",
        "reverse",
        "trim",
        "join",
        "split",
        "lines",
        "default",
        "d",
        "round",
        "abs",
        "int",
        "float",
        "attr",
        "first",
        "last",
        "min",
        "max",
        "sort",
        "list",
        "string",
    ];

    #[test]
    fn every_filter_is_had_or_left_out() {
        for name in FILTERS {
            let said =
                format!("{:#}", made(&format!("{{{{ text | {name} }}}}")).err().map_or(String::new(), |e| e.to_string()));
            assert!(!said.contains("unknown filter"), "{name}: {said}");
        }
        for name in LEFT_OUT {
            let said = format!("{:#}", made(&format!("{{{{ text | {name} }}}}")).unwrap_err());
            assert!(said.contains("unknown"), "{name}: {said}");
        }
    }
}
