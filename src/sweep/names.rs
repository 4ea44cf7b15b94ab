//! The names of cells: from the group and from what varies, safe as the name of a folder, and the same whatever else is in the file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::Digest;

/// The most characters of a word in a name, and of a name.
const LONGEST_WORD: usize = 32;

const LONGEST: usize = 120;

/// Options with a short form in names. An empty one: the value says enough.
const SHORT: [(&str, &str); 9] = [
    ("learning_rate", "lr"),
    ("zo_eps", "eps"),
    ("batch_size", "batch"),
    ("max_steps", "steps"),
    ("num_directions", "q"),
    ("optimizer", ""),
    ("model", ""),
    ("task", ""),
    ("dtype", ""),
];

/// The name of a cell.
pub fn cell_name(group: Option<&str>, varied: &[(String, Value)], seed: Option<&Value>) -> String {
    let of_group = group.map(word);
    let of_options = varied.iter().map(|(option, value)| {
        let short = short(option);
        // beta1-0.9, not beta10.9
        let dash = if short.ends_with(|c: char| c.is_ascii_digit()) { "-" } else { "" };
        format!("{short}{dash}{}", word(&shown(value)))
    });
    let of_seed = seed.map(|seed| format!("seed{}", shown(seed)));
    let name = of_group.into_iter().chain(of_options).chain(of_seed).collect::<Vec<_>>().join("-");
    match name.len() {
        0 => "run".into(),
        // Beside the folder lie files of its name with these endings.
        _ if name.ends_with(".log") || name.ends_with(".toml") => marked(&name, &name),
        len if len > LONGEST => marked(&name.chars().take(LONGEST).collect::<String>(), &name),
        _ => name,
    }
}

/// The folder of the cells, in the folder of their sweep.
pub fn cells_folder(sweep: &Path) -> PathBuf {
    sweep.join("cells")
}

/// The run folder of a cell, in the folder of its sweep. Beside it lie its config (NAME.toml) and what its process says (NAME.log).
pub fn cell_folder(sweep: &Path, name: &str) -> PathBuf {
    cells_folder(sweep).join(name)
}

/// The short form of an option.
pub fn short(option: &str) -> &str {
    SHORT.iter().find(|(long, _)| *long == option).map_or(option, |(_, short)| short)
}

/// A value as tables and names show it: 3e-4, 0.5, r-adazo, true.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or(number.to_string(), shortest),
        other => other.to_string(),
    }
}

/// The shorter of 0.0003 and 3e-4, without loss.
fn shortest(x: f64) -> String {
    let (plain, scientific) = (x.to_string(), format!("{x:e}"));
    if scientific.len() < plain.len() { scientific } else { plain }
}

/// A text as a part of a file's name. Where characters were lost, a digest of the text tells it from others.
fn word(text: &str) -> String {
    let last = Path::new(text).file_name().map_or(text.into(), |name| name.to_string_lossy());
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') { c } else { '_' };
    let safe: String = last.chars().take(LONGEST_WORD).map(safe).collect();
    let safe = safe.trim_start_matches(['.', '-']);
    if safe == text { safe.into() } else { marked(safe, text) }
}

fn marked(name: &str, of: &str) -> String {
    let name = if name.is_empty() { "_" } else { name };
    format!("{name}-{:04x}", Digest::of(of.as_bytes()).0 >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(group: Option<&str>, varied: &[(&str, Value)], seed: Option<u64>) -> String {
        let varied: Vec<_> = varied.iter().map(|(option, value)| (option.to_string(), value.clone())).collect();
        cell_name(group, &varied, seed.map(Value::from).as_ref())
    }

    #[test]
    fn names_say_what_varies_and_are_safe() {
        assert_eq!(name(Some("r-adazo"), &[("learning_rate", 3e-4.into())], Some(1)), "r-adazo-lr3e-4-seed1");
        assert_eq!(name(None, &[("optimizer", "zo-sgd".into()), ("beta1", 0.5.into())], None), "zo-sgd-beta1-0.5");
        assert_eq!(name(None, &[], None), "run");
        for odd in ["a/../b", "..", "\u{fc}ber \n", "-x", "a.log", &"long".repeat(90), "CON/"] {
            let name = name(Some(odd), &[], None);
            let is_safe = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
            assert!(
                is_safe && !name.starts_with(['.', '-']) && name.len() < 140 && !name.ends_with(".log"),
                "{odd:?}: {name}"
            );
        }
        // What differs only in what is lost has another name.
        assert_ne!(name(Some("a b"), &[], None), name(Some("a_b"), &[], None));
        assert_ne!(name(Some("x/a"), &[], None), name(Some("y/a"), &[], None));
    }
}
