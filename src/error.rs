//! The kinds of failure that decide the exit code. Everything else is exit code 1: the run failed.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

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
}

impl NotFinite {
    /// At a step, counted from 1, whose direction has `seed`.
    pub fn at_step(step: u64, seed: u64, losses: Vec<f64>) -> Self {
        NotFinite { place: format!("at step {step} (direction seed {seed})"), losses }
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
        write!(
            f,
            "the loss is not finite {}: {:?}; in training a smaller --learning-rate usually helps",
            self.place, self.losses
        )
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
#[macro_export]
macro_rules! usage {
    ($($arg:tt)*) => { anyhow::Error::new($crate::error::Usage(format!($($arg)*))) };
}

/// `differs!("...")` is an [`anyhow::Error`] that exits with 6.
#[macro_export]
macro_rules! differs {
    ($($arg:tt)*) => { anyhow::Error::new($crate::error::Differs(format!($($arg)*))) };
}

/// `unavailable!("...")` is an [`anyhow::Error`] that exits with 5.
#[macro_export]
macro_rules! unavailable {
    ($($arg:tt)*) => { anyhow::Error::new($crate::error::Unavailable(format!($($arg)*))) };
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

thread_local!(static EXPECTS_PANICS: Cell<bool> = const { Cell::new(false) });

/// What `read` gives, or None where it panics: some crates do so over damaged files. Nothing is said of it elsewhere. A last resort: what is
/// known to make them panic is refused by name before.
pub fn unless_panic<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTS_PANICS.get() {
                others(info)
            }
        }));
    });
    let before = EXPECTS_PANICS.replace(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    EXPECTS_PANICS.set(before);
    read.ok()
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

/// `did you mean "x"?` when a known name is near, else a list of all of them, or of none where there are many.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let asked = name.to_lowercase();
    let score = |known: &str| strsim::jaro_winkler(&asked, &known.to_lowercase());
    let best = known.iter().map(|k| (score(k), *k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, k)) if score > 0.8 => format!("did you mean \"{k}\"?"),
        _ if known.len() > 40 => format!("none of the {} known ones is near", known.len()),
        _ => format!("known are: {}", listed(known)),
    }
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
