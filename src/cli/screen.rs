//! What verbs share: threads, progress bars, and what goes to stdout.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::format::human_count;
use crate::base::text::plain;
use crate::config::Inputs;
use crate::device::cpu::simd;
use crate::hub::repo::at_commit;
use crate::run::{LoadedModel, replay};

/// Refuses threads without number, which would only wait for each other.
pub(super) fn check_threads(said: &str, threads: Option<usize>) -> Result<()> {
    let most = 4 * std::thread::available_parallelism().map_or(1, usize::from).max(16);
    match threads.filter(|n| *n > most) {
        Some(n) => Err(usage!("{said}{n}: the maximum on this machine is {most}")),
        None => Ok(()),
    }
}

/// Runs `work` on a thread of the pool that it computes with: nothing is handed from one thread to another to begin.
pub(super) fn on_threads(threads: Option<usize>, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    check_threads("--threads ", threads)?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().context("cannot start the threads")?;
    pool.install(work)
}

/// The weights of what was outlined, brought to the end of its trajectory where it has one.
pub(super) fn load(outline: LoadedModel, inputs: &Inputs, quiet: bool) -> Result<LoadedModel> {
    let bar =
        progress_bar(0, quiet || inputs.trajectory.is_none(), "{pos:>8}/{len} [{bar:20}] replaying  {eta_precise} left")?;
    let bench = replay::open(outline, inputs, &mut |step, of| {
        bar.set_length(of);
        bar.set_position(step);
        Ok(())
    });
    bar.finish_and_clear();
    bench
}

pub(super) fn describe_model(inputs: &Inputs, bench: &LoadedModel) {
    let threads = rayon::current_num_threads();
    let name = bench.commit.as_ref().map_or(inputs.model.clone(), |commit| at_commit(&inputs.model, commit));
    let adapter: usize = bench.model.adapter_ids(&bench.params).into_iter().map(|id| bench.params.len(id)).sum();
    let beside = if adapter > 0 { " and an adapter" } else { "" };
    tracing::info!(
        "model   {name}  {} with {}{beside}, {} on the CPU ({threads} thread{}, {})",
        bench.model.kind(),
        human_count(bench.params.count() - adapter),
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

/// The bar of a file that comes from the hub.
pub(super) fn download_bar(name: &str, len: u64) -> ProgressBar {
    let style = "{bytes:>12}/{total_bytes} [{bar:20}] {msg}  {bytes_per_sec}  {eta_precise} left";
    progress_bar(len, false, style).map_or_else(|_| ProgressBar::hidden(), |bar| bar.with_message(plain(name).into_owned()))
}

/// Whether what a flag names may be written: nothing is overwritten that nobody said so of. A device or a pipe is written to.
pub(super) fn check_new(flag: &str, path: &Path) -> Result<()> {
    match path.is_file() || path.is_dir() {
        true => Err(usage!(
            "{flag} {}: it exists already and would be overwritten; choose another name, or remove it first",
            path.display()
        )),
        false => Ok(()),
    }
}

/// To stdout; a reader that has gone away is no error of ours.
pub(super) fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{}", plain(text)) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}
