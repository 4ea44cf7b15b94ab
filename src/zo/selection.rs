//! Selections of weights: all, none, the last blocks, patterns of names.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A selection of a model's weights: those with a first-order gradient, or those that are trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selection {
    /// All of them.
    All,
    /// Those of the last N blocks and of the head, except weights that earlier layers use too.
    Last(usize),
    /// None.
    None,
    /// Those whose names match one of the patterns.
    Patterns(Vec<String>),
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Selection::All),
            "none" => Ok(Selection::None),
            text => match text.strip_prefix("last:") {
                Some(n) => match n.parse() {
                    Ok(n) if n > 0 => Ok(Selection::Last(n)),
                    _ => Err(format!("last:{n}: it must be a number of blocks, at least 1")),
                },
                None if text.split(',').any(str::is_empty) => Err("a pattern is empty".into()),
                None => Ok(Selection::Patterns(text.split(',').map(String::from).collect())),
            },
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Selection::All => f.write_str("all"),
            Selection::Last(n) => write!(f, "last:{n}"),
            Selection::None => f.write_str("none"),
            Selection::Patterns(patterns) => f.write_str(&patterns.join(",")),
        }
    }
}

/// Whether `pattern` matches a name: as a substring if it has no `*`, else the whole name with `*` matching any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name.contains(pattern) };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

as_typed!(Selection);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_names_and_stars_match_anything() {
        let name = "model.decoder.layers.11.fc1.weight";
        for pattern in ["fc1", "layers.11.", "*", "*fc1*", "model.*.weight", "*.weight", "m*d*r.layers*fc1.weight", name] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["fc2", "*fc1", "layers*", "model.*.bias", "*x*", "fc1*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        assert!(!matches("a*a", "a"), "a star stands between two different letters");
    }
}
