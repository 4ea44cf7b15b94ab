//! A sweep file: a config file in which an option may be a list of values to try, with `seeds`, and with `[[group]]` tables whose
//! options are laid over the common ones.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::options::{Choice, checked, set_options};
use crate::base::text::{nearest, quoted};
use crate::config::RawArgs;

/// A sweep file, each value checked for its type.
#[derive(Clone, Debug)]
pub struct SweepFile {
    /// The file's name, as errors have it.
    pub place: String,
    /// Its text.
    pub text: String,
    /// The options outside of groups.
    pub common: Vec<Choice>,
    /// The groups, in the file's order.
    pub groups: Vec<Group>,
    /// The folder that the file names for the sweep.
    pub output_dir: Option<std::path::PathBuf>,
}

/// Options that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its own options, laid over the common ones.
    pub options: Vec<Choice>,
}

/// The keys of a group's name, of the list of seeds, and of the groups.
const NAME: &str = "name";

const SEEDS: &str = "seeds";

const GROUP: &str = "group";

impl SweepFile {
    /// Reads a sweep file.
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read the sweep file {place}: {e}"))?;
        Self::parse(&text, &place)
    }

    /// Parses the text of a file called `place`. Errors are usage errors that name the line.
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        let parsed = DeTable::parse(text).map_err(|e| usage!("{place}: {e}"))?;
        let values: toml::Table = toml::from_str(text).map_err(|e| usage!("{place}: {e}"))?;
        let reader = Reader { text, place };
        let mut file =
            SweepFile { place: place.into(), text: text.into(), common: Vec::new(), groups: Vec::new(), output_dir: None };
        for (line, key, spans) in reader.in_order(parsed.get_ref()) {
            let value = &values[key];
            match (spans, value) {
                (DeValue::Array(spans), toml::Value::Array(tables))
                    if key == GROUP && tables.iter().all(|t| t.is_table()) =>
                {
                    for (spans, table) in spans.iter().zip(tables) {
                        let group = reader.group(spans, table)?;
                        let is_same = |other: &&Group| other.name.to_lowercase() == group.name.to_lowercase();
                        if let Some(other) = file.groups.iter().find(is_same) {
                            return Err(usage!(
                                "{place}, line {}: a group above is called {} too; their cells would overwrite each other",
                                reader.line(spans.span().start),
                                quoted(&other.name)
                            ));
                        }
                        file.groups.push(group);
                    }
                }
                (_, toml::Value::Array(tables)) if tables.iter().any(|t| t.is_table()) || key == GROUP => {
                    return Err(usage!(
                        "{place}, line {line}: [[{key}]] is not known: {}; a group begins with [[group]], and everything else is \
                         `option = value` or `option = [value, value]`",
                        nearest(key, [GROUP])
                    ));
                }
                (_, toml::Value::Table(_)) if key == GROUP => {
                    return Err(usage!(
                        "{place}, line {line}: write [[{GROUP}]], in double brackets, since there may be several"
                    ));
                }
                _ if key.replace('-', "_") == "output_dir" => {
                    let folder = value.as_str().ok_or_else(|| {
                        usage!("{place}, line {line}: {key}: it must be one folder, in which each cell gets its own")
                    })?;
                    file.output_dir = Some(folder.into());
                }
                _ => reader.add(&mut file.common, line, key, spans, value)?,
            }
        }
        Ok(file)
    }

    /// The file with all its groups, even where some were selected.
    pub fn with_all_groups(&self) -> Result<Self> {
        Ok(SweepFile { groups: Self::parse(&self.text, &self.place)?.groups, ..self.clone() })
    }

    /// Sets an option to a value, unless the file sets it outside of groups.
    pub fn set_default(&mut self, option: &str, value: Value) {
        if !self.common.iter().any(|choice| choice.option == option) {
            self.common.push(Choice { option: option.into(), values: vec![(value, None)], is_list: false });
        }
    }

    /// The values of an option outside of groups.
    pub fn values(&self, option: &str) -> Vec<&Value> {
        let choice = self.common.iter().find(|choice| choice.option == option);
        choice.map_or(Vec::new(), |choice| choice.values.iter().map(|(value, _)| value).collect())
    }

    /// Keeps those values of an option outside of groups for which `is_kept` holds.
    pub fn retain(&mut self, option: &str, is_kept: impl Fn(&Value) -> bool) {
        for choice in self.common.iter_mut().filter(|choice| choice.option == option) {
            choice.values.retain(|(value, _)| is_kept(value));
        }
    }

    /// The groups called `names`, or all if there are no names. A name that is not there is a usage error.
    pub fn select(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        if self.groups.is_empty() {
            return Err(usage!("`only` {}: {} has no groups", names.join(","), self.place));
        }
        if let Some(wrong) = names.iter().find(|name| !self.groups.iter().any(|group| group.name == **name)) {
            let known = self.groups.iter().map(|group| group.name.as_str());
            return Err(usage!("`only`: there is no group {} in {}: {}", quoted(wrong), self.place, nearest(wrong, known)));
        }
        self.groups.retain(|group| names.contains(&group.name));
        Ok(())
    }
}

/// Reads parts of a file.
struct Reader<'a> {
    text: &'a str,
    place: &'a str,
}

impl<'a> Reader<'a> {
    /// The line, from 1, of a place in the text.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    /// The keys of a table in the text's order, each with its line and with its value's places.
    fn in_order<'t>(&self, table: &'t DeTable<'a>) -> Vec<(usize, &'t str, &'t DeValue<'a>)> {
        let mut keys: Vec<_> =
            table.iter().map(|(key, value)| (key.span().start, key.get_ref().as_ref(), value.get_ref())).collect();
        keys.sort_by_key(|(at, ..)| *at);
        keys.into_iter().map(|(at, key, value)| (self.line(at), key, value)).collect()
    }

    fn group(&self, spans: &Spanned<DeValue<'a>>, table: &toml::Value) -> Result<Group> {
        let (place, line) = (self.place, self.line(spans.span().start));
        let named = table.get(NAME).and_then(toml::Value::as_str).map(str::trim).filter(|name| !name.is_empty());
        let Some(name) = named else {
            return Err(usage!("{place}, line {line}: this group has no name; give it one: name = \"...\""));
        };
        if name.contains(char::is_control) {
            return Err(usage!("{place}, line {line}: the group's name {} must be on one line", quoted(name)));
        }
        let mut group = Group { name: name.into(), options: Vec::new() };
        let DeValue::Table(keys) = spans.get_ref() else { return Ok(group) };
        for (line, key, spans) in self.in_order(keys).into_iter().filter(|(_, key, _)| *key != NAME) {
            if key.replace('-', "_") == "output_dir" {
                return Err(usage!(
                    "{place}, line {line}: {key}: a group has no folder of its own; set it outside of the groups"
                ));
            }
            self.add(&mut group.options, line, key, spans, &table[key])?;
        }
        Ok(group)
    }

    /// Adds what a key sets to the options of the file or of a group.
    fn add(
        &self,
        options: &mut Vec<Choice>,
        line: usize,
        key: &str,
        spans: &DeValue<'a>,
        value: &toml::Value,
    ) -> Result<()> {
        let place = self.place;
        let (key, is_seeds) = if key == SEEDS { ("seed", true) } else { (key, false) };
        let choice = match (spans, value) {
            (DeValue::Array(spans), toml::Value::Array(values)) => {
                let typed = if is_seeds { SEEDS } else { key };
                let (mut tried, mut name) = (Vec::<(Value, Option<usize>)>::new(), String::new());
                for (span, value) in spans.iter().zip(values) {
                    let line = self.line(span.span().start);
                    if value.is_array() {
                        return Err(usage!(
                            "{place}, line {line}: {typed}: a list in a list; each value to try must be a single one"
                        ));
                    }
                    let (option, value) = self.checked(line, key, value)?;
                    if tried.iter().any(|(other, _)| *other == value) {
                        return Err(usage!(
                            "{place}, line {line}: {typed}: {value} is there twice; these cells would overwrite each other"
                        ));
                    }
                    tried.push((value, Some(line)));
                    name = option;
                }
                if tried.is_empty() {
                    return Err(usage!("{place}, line {line}: {typed}: the list is empty, so there would be no cell"));
                }
                Choice { option: name, values: tried, is_list: true }
            }
            _ if is_seeds => {
                return Err(usage!(
                    "{place}, line {line}: {SEEDS}: it must be a list, such as [0, 1, 2]; one seed is `seed = 0`"
                ));
            }
            _ => {
                let (option, value) = self.checked(line, key, value)?;
                Choice { option, values: vec![(value, Some(line))], is_list: false }
            }
        };
        if choice.option == "overwrite_output_dir" {
            return Err(usage!(
                "{place}, line {line}: {key}: a sweep overwrites no cell; remove the folder of a cell to run it again"
            ));
        }
        if options.iter().any(|other| other.option == choice.option) {
            let also = if choice.option == "seed" { " (seeds is a list of seed)" } else { "" };
            return Err(usage!("{place}, line {line}: {} is set twice{also}", choice.option));
        }
        options.push(choice);
        Ok(())
    }

    /// The option that a key sets, and the value. An unknown key may be meant as one that a sweep file has beside the options.
    fn checked(&self, line: usize, key: &str, value: &toml::Value) -> Result<(String, Value)> {
        let place = self.place;
        checked(place, line, key, value).map_err(|error| {
            let is_near = [SEEDS, GROUP].iter().any(|own| strsim::jaro_winkler(key, own) > 0.85);
            match is_near && error.to_string().contains("there is no option") {
                true => usage!("{place}, line {line}: there is no option \"{key}\": {}", nearest(key, [SEEDS, GROUP])),
                false => error,
            }
        })
    }
}

/// What the command line sets, as options with one value each, which go over a file's. It sets no folder.
pub fn typed(flags: &RawArgs) -> Result<Vec<Choice>> {
    let options = set_options(flags)?.into_iter().filter(|(option, _)| option != "output_dir");
    Ok(options.map(|(option, value)| Choice { option, values: vec![(value, None)], is_list: false }).collect())
}
