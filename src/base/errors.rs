//! Error kinds that decide the exit code. Every other error exits with 1.

use std::fmt;

/// A mistake in the input: flags, config, task file or data files. Raised before anything is changed. Exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

/// A loss is NaN or infinite. Exit code 4.
#[derive(Debug)]
pub struct NotFinite {
    /// The place in the run, e.g. `at step 7 (direction seed 12)`.
    pub place: String,
    /// The losses, or the coefficients if all losses are finite.
    pub losses: Vec<f64>,
    /// Ends the message: what of the run was saved, and what to try. None: the general hint.
    pub say: Option<String>,
}

impl NotFinite {
    /// Error at `step`, counted from 1, whose direction has `seed`.
    pub fn at_step(step: u64, seed: u64, losses: Vec<f64>) -> Self {
        NotFinite { place: format!("at step {step} (direction seed {seed})"), losses, say: None }
    }
}

/// The training loss diverged (the test is in divergence.rs). Exit code 4.
#[derive(Debug)]
pub struct Diverged(pub String);

/// A user's data file or task is unusable; displays the error it wraps. Exit code 2, like [`Usage`].
#[derive(Debug)]
pub struct Given(anyhow::Error);

/// A replay differs from the run, or the base model is not the run's. Exit code 6.
#[derive(Debug)]
pub struct Differs(pub String);

/// A file could not be fetched from the hub: offline and uncached, refused, not found, or interrupted. Exit code 5.
#[derive(Debug)]
pub struct Unavailable(pub String);

/// A signal ended the run after a complete step; the run can be resumed. Exit code 128 + the signal's number.
#[derive(Debug)]
pub struct Interrupted {
    /// Signal number.
    pub signal: i32,
    /// Message: what was saved, and how to resume.
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

/// `differs!("...")` makes an [`anyhow::Error`] with exit code 6.
#[macro_export]
macro_rules! differs {
    ($($arg:tt)*) => { anyhow::Error::new($crate::base::errors::Differs(format!($($arg)*))) };
}

/// `unavailable!("...")` makes an [`anyhow::Error`] with exit code 5.
#[macro_export]
macro_rules! unavailable {
    ($($arg:tt)*) => { anyhow::Error::new($crate::base::errors::Unavailable(format!($($arg)*))) };
}

/// The process's exit code for an error: the first cause in the chain that decides one, else 1.
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

/// Maps an error in reading user input to exit code 2, unless its chain already decides another code.
pub fn given<T>(result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| if exit_code(&error) == 1 { anyhow::Error::new(Given(error)) } else { error })
}
