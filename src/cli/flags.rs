//! Flags in what is said: the library names options as a config file does, the command line as they are typed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::OnceLock;

use clap::{Command, CommandFactory};

use super::args::Cli;
use crate::base::text::rename_options;

/// A text with `` `max_steps` `` written as `--max-steps`, and `` `max_steps 5` `` as `--max-steps 5`, for every option of a verb.
/// All else in backquotes stays as it is.
pub fn with_flags(text: &str) -> Cow<'_, str> {
    let as_typed =
        |name: &str, value: &str| options().contains(name).then(|| format!("--{}{value}", name.replace('_', "-")));
    rename_options(text, as_typed)
}

/// The names of all options of all verbs, as a config file writes them.
fn options() -> &'static BTreeSet<String> {
    static OPTIONS: OnceLock<BTreeSet<String>> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let mut all = BTreeSet::new();
        add_options(&Cli::command(), &mut all);
        all
    })
}

fn add_options(command: &Command, all: &mut BTreeSet<String>) {
    all.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| long.replace('-', "_")));
    command.get_subcommands().for_each(|verb| add_options(verb, all));
}

/// Writes what [`with_flags`] makes of a text. Each write must be a whole line, as those of a log are.
pub struct WithFlags<W>(pub W);

impl<W: Write> Write for WithFlags<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(with_flags(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_other_words_stay() {
        for (said, printed) in [
            ("`learning_rate` 0: it must be greater than 0", "--learning-rate 0: it must be greater than 0"),
            ("set `stop_if_diverged=false`, or `fo_params last:2`.", "set --stop-if-diverged=false, or --fo-params last:2."),
            // Of the verbs: train, replay, export.
            ("`resume`, `to_step`, `merge`", "--resume, --to-step, --merge"),
            // No options, and not as a config file writes them.
            ("`no_such_option` `learning-rates` `Model`", "`no_such_option` `learning-rates` `Model`"),
            ("`learning_rate", "`learning_rate"),
            ("`a` and ``seed`` `", "`a` and `--seed` `"),
            ("no quotes: learning_rate", "no quotes: learning_rate"),
        ] {
            assert_eq!(with_flags(said), printed);
        }
    }

    #[test]
    fn every_option_of_a_config_file_is_known() {
        let train = <crate::config::RawArgs as clap::Args>::augment_args(Command::new("train"));
        for argument in train.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let name = argument.get_id().as_str();
            assert_eq!(with_flags(&format!("`{name}`")), format!("--{}", name.replace('_', "-")));
        }
    }
}
