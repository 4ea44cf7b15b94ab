//! Shared by the commands: threads, progress bars, stdout.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use terminal_size::{Width, terminal_size_of};

use super::format::human_count;
use crate::base::text::plain;
use crate::config::Inputs;
use crate::device::cpu::simd;
use crate::hub::repo::at_commit;
use crate::run::{LoadedModel, replay};

/// Fails on more threads than can be useful.
pub(super) fn check_threads(said: &str, threads: Option<usize>) -> Result<()> {
    let most = 4 * std::thread::available_parallelism().map_or(1, usize::from).max(16);
    match threads.filter(|n| *n > most) {
        Some(n) => Err(usage!("{said}{n}: the maximum on this machine is {most}")),
        None => Ok(()),
    }
}

/// Runs `work` in a pool of `threads` threads, or of the default number.
pub(super) fn on_threads(threads: Option<usize>, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    check_threads("--threads ", threads)?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().context("cannot start the threads")?;
    pool.install(work)
}

/// Reads the weights of an opened model, and replays the trajectory of `inputs`, if any.
pub(super) fn load(opened: LoadedModel, inputs: &Inputs, quiet: bool) -> Result<LoadedModel> {
    let bar =
        progress_bar(0, quiet || inputs.trajectory.is_none(), "{pos:>8}/{len} [{bar:20}] replaying  {eta_precise} left")?;
    let loaded = replay::open(opened, inputs, &mut |step, of| {
        bar.set_length(of);
        bar.set_position(step);
        Ok(())
    });
    bar.finish_and_clear();
    loaded
}

pub(super) fn describe_model(inputs: &Inputs, loaded: &LoadedModel) {
    let threads = rayon::current_num_threads();
    let name = loaded.commit.as_ref().map_or(inputs.model.clone(), |commit| at_commit(&inputs.model, commit));
    let adapter: usize = loaded.model.adapter_ids(&loaded.params).into_iter().map(|id| loaded.params.len(id)).sum();
    let beside = if adapter > 0 { " and an adapter" } else { "" };
    tracing::info!(
        "model   {name}  {} with {}{beside}, {} on the CPU ({threads} thread{}, {})",
        loaded.model.kind(),
        human_count(loaded.params.count() - adapter),
        inputs.dtype.dtype().as_str(),
        if threads == 1 { "" } else { "s" },
        simd::instruction_set(),
    );
}

pub(super) fn progress_bar(len: u64, quiet: bool, style: &str) -> Result<ProgressBar> {
    if quiet || !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    Ok(ProgressBar::new(len).with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}

/// The style of a training run's bar: in a narrow terminal the bar is short, and what does not fit is cut off.
pub(super) fn training_style() -> &'static str {
    match terminal_size_of(std::io::stderr()) {
        Some((Width(width), _)) if width < 100 => "{pos}/{len} [{bar:8}] {wide_msg}",
        _ => "{pos:>8}/{len} [{bar:20}] {wide_msg}",
    }
}

/// The progress bar of a download.
pub(super) fn download_bar(name: &str, len: u64) -> ProgressBar {
    let style = "{bytes:>12}/{total_bytes} [{bar:20}] {msg}  {bytes_per_sec}  {eta_precise} left";
    progress_bar(len, false, style).map_or_else(|_| ProgressBar::hidden(), |bar| bar.with_message(plain(name).into_owned()))
}

/// Fails if the path of a flag is an existing file or folder. Devices and pipes may be written.
pub(super) fn check_new(flag: &str, path: &Path) -> Result<()> {
    match path.is_file() || path.is_dir() {
        true => Err(usage!(
            "{flag} {}: it exists already and would be overwritten; choose another name, or remove it first",
            path.display()
        )),
        false => Ok(()),
    }
}

/// Prints to stdout; a closed pipe is not an error.
pub(super) fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{}", plain(text)) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}
