//! What a shell and an editor want of the program: completions, manual pages, the schema of config files.

use anyhow::{Context, Result};
use clap::builder::PossibleValue;
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use serde_json::{Map, Value, json};

use super::args::Cli;
use super::screen::say;
use crate::base::text::nearest;
use crate::config::RawArgs;

pub fn completions_verb(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "zotune", &mut script);
    say(String::from_utf8(script)?.trim_end())
}

pub fn man_verb(verb: Option<String>) -> Result<()> {
    let mut all = Cli::command();
    // Sets the full names of the verbs, and what is global.
    all.build();
    let command = match &verb {
        None => all,
        Some(verb) => {
            let known: Vec<String> = all.get_subcommands().map(|verb| verb.get_name().to_string()).collect();
            let found = all.find_subcommand(verb).cloned();
            found.ok_or_else(|| {
                usage!("there is no command \"{verb}\": {}", nearest(verb, known.iter().map(String::as_str)))
            })?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command.disable_help_subcommand(true)).render(&mut page).context("the manual page")?;
    say(String::from_utf8(page)?.trim_end())
}

pub fn schema_verb() -> Result<()> {
    say(&serde_json::to_string_pretty(&schema()?)?)
}

/// The JSON schema of a config file. The types are those that the parser of config files takes.
fn schema() -> Result<Value> {
    let mut properties = Map::new();
    for argument in RawArgs::augment_args(Command::new("train")).get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let mut said = types(argument);
        said["description"] = argument.get_help().map(ToString::to_string).unwrap_or_default().into();
        for name in std::iter::once(long).chain(argument.get_all_aliases().unwrap_or_default()) {
            properties.insert(name.replace('-', "_"), said.clone());
        }
    }
    Ok(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Config of zotune train",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    }))
}

/// The types of an option's values, found by parsing a value of each.
fn types(argument: &Arg) -> Value {
    let name = argument.get_id().as_str();
    let takes = |value: Value| serde_json::from_value::<RawArgs>(json!({ name: value })).is_ok();
    let names: Vec<PossibleValue> = argument.get_possible_values();
    let names: Vec<&str> = names.iter().map(PossibleValue::get_name).collect();
    if takes(json!(true)) {
        return json!({ "type": "boolean" });
    }
    if takes(json!(0.5)) && !names.is_empty() {
        return json!({ "anyOf": [{ "type": "number" }, { "type": "string", "enum": names }] });
    }
    if takes(json!(0.5)) {
        return json!({ "type": "number" });
    }
    if takes(json!(1)) {
        return json!({ "type": "integer", "minimum": 0 });
    }
    // A text: of a list, if no other is taken; else the names are examples.
    match (names.is_empty(), takes(json!("another"))) {
        (true, _) => json!({ "type": "string" }),
        (false, true) => json!({ "type": "string", "examples": names }),
        (false, false) => json!({ "type": "string", "enum": names }),
    }
}
