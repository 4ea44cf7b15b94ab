//! The kinds of failure that decide the exit code. Everything else is exit code 1: the run failed.

use std::fmt;

/// A mistake in what was asked for or given: flags, config, task file, data files. Nothing was touched. Exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

/// The loss stopped being a number. Exit code 4.
#[derive(Debug)]
pub struct NotFinite {
    /// Where: `at step 7 (direction seed 12)`.
    pub place: String,
    /// What the evaluations gave.
    pub losses: Vec<f64>,
    /// What is left of a run, and what to try.
    pub say: Option<String>,
}

impl NotFinite {
    /// At a step, counted from 1, whose direction has `seed`.
    pub fn at_step(step: u64, seed: u64, losses: Vec<f64>) -> Self {
        NotFinite { place: format!("at step {step} (direction seed {seed})"), losses, say: None }
    }
}

/// The training loss has left the rails (divergence.rs). Exit code 4.
#[derive(Debug)]
pub struct Diverged(pub String);

/// What somebody has given, a data file or a task, cannot be used, as its own error says. Exit code 2, like [`Usage`].
#[derive(Debug)]
pub struct Given(anyhow::Error);

/// A replay came out otherwise than the run, or the base model is another. Exit code 6.
#[derive(Debug)]
pub struct Differs(pub String);

/// What was to come from the hub did not: the network is forbidden and the cache lacks it, it was refused, not found, or broke
/// off. Exit code 5.
#[derive(Debug)]
pub struct Unavailable(pub String);

/// A signal ended the run behind a whole step; it can be gone on with. Exit code 128 + the signal's number.
#[derive(Debug)]
pub struct Interrupted {
    /// The signal's number.
    pub signal: i32,
    /// What is kept, and how to go on.
    pub say: String,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.say)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let say = self.say.as_deref().unwrap_or("; in training, a smaller `learning_rate` usually helps");
        write!(f, "the loss is not finite {}: {:?}{say}", self.place, self.losses)
    }
}

impl std::error::Error for Given {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl std::error::Error for Usage {}

impl std::error::Error for Diverged {}

impl std::error::Error for NotFinite {}

impl std::error::Error for Differs {}

impl std::error::Error for Unavailable {}

impl std::error::Error for Interrupted {}

/// `usage!("...")` is an [`anyhow::Error`] that exits with 2.
///
/// No message of the library names a flag, because its reader may have typed none: a lab sets fields, a config file has keys. A
/// message names an option in backquotes, as a config file does: `` `max_steps` 0: it must be at least 1 ``. The value to set may be
/// in the backquotes too: `` `stop_if_diverged=false` ``, `` `fo_params last:2` ``. Where the command line prints an error or a line
/// of the log, it writes `--max-steps`, `--stop-if-diverged=false` and `--fo-params last:2` instead (cli/flags.rs). Other words in
/// backquotes stay as they are. The same holds for all other errors and for what is logged.
#[macro_export]
macro_rules! usage {
    ($($arg:tt)*) => { anyhow::Error::new($crate::base::errors::Usage(format!($($arg)*))) };
}

/// `differs!("...")` is an [`anyhow::Error`] that exits with 6.
#[macro_export]
macro_rules! differs {
    ($($arg:tt)*) => { anyhow::Error::new($crate::base::errors::Differs(format!($($arg)*))) };
}

/// `unavailable!("...")` is an [`anyhow::Error`] that exits with 5.
#[macro_export]
macro_rules! unavailable {
    ($($arg:tt)*) => { anyhow::Error::new($crate::base::errors::Unavailable(format!($($arg)*))) };
}

/// The process's exit code for an error, wherever in the chain the deciding cause stands.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<NotFinite>() || cause.is::<Diverged>() {
            return 4;
        }
        if cause.is::<Usage>() || cause.is::<Given>() {
            return 2;
        }
        if cause.is::<Unavailable>() {
            return 5;
        }
        if cause.is::<Differs>() {
            return 6;
        }
        if let Some(interrupted) = cause.downcast_ref::<Interrupted>() {
            return 128 + interrupted.signal as u8;
        }
    }
    1
}

/// Counts an error in reading or using what somebody has given as a mistake in it: flags and data files have one exit code.
pub fn given<T>(result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| if exit_code(&error) == 1 { anyhow::Error::new(Given(error)) } else { error })
}
