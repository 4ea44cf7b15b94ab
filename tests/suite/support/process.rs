//! The binary, and processes and data beside the tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, ensure};

/// Says, past the test harness, that a check was left out.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The real data and models that lie beside the repository where it is developed; None in a stranger's clone.
pub fn shared(path: &str) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !place.exists() {
        skipped(&format!("{path} is not here; this check needs real data that the repository does not carry"));
        return None;
    }
    Some(place)
}

/// Whether the test called `name` has a process to itself, as tests that count the heap need. Where it has not, it is
/// run again in one of its own, and its outcome there is the outcome here.
pub fn alone(name: &str) -> Result<bool> {
    if std::env::var_os("ZOTUNE_TEST_ALONE").is_some() {
        return Ok(true);
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("ZOTUNE_TEST_ALONE", "1")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(false)
}

/// The binary, called with `args` in `folder`.
pub fn zotune_with(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zotune"));
    command.args(args).current_dir(folder).env_remove("RUST_LOG").env("RAYON_NUM_THREADS", "2");
    command
}

/// What came of calling it so.
pub fn call(folder: &Path, args: &[&str]) -> Result<Output> {
    Ok(zotune_with(folder, args).output()?)
}

/// The same, called with `words`.
pub fn zotune(folder: &Path, words: &str) -> Command {
    zotune_with(folder, &words.split_whitespace().collect::<Vec<_>>())
}

pub fn done(folder: &Path, words: &str) -> Result<Output> {
    let output = zotune(folder, words).output()?;
    ensure!(output.status.success(), "zotune {words}: {}", stderr(&output));
    Ok(output)
}

/// Sees that a command ends with this exit code and says what is expected.
pub fn says(folder: &Path, words: &str, code: i32, expected: &str) -> Result<()> {
    let output = zotune(folder, words).output()?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{words}: {said}");
    assert!(said.contains(expected) && !said.contains("panicked"), "{words}: {said:?} does not say {expected:?}");
    Ok(())
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
