//! Child processes, a few at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::base::Stop;
use crate::base::text::bounded;

/// How often the children are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A process to start. What it prints is appended to `log`.
pub struct Work {
    /// Which cell it is of.
    pub cell: usize,
    /// What to start.
    pub command: Command,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A process that has ended.
pub struct Ended {
    /// Which cell it was of.
    pub cell: usize,
    /// Why it failed: its exit code and its last error; None if it did not fail.
    pub failure: Option<String>,
    /// Its wall time in seconds.
    pub seconds: f64,
}

/// What is told of the children while they run.
pub trait Watcher {
    /// The process of a cell has started.
    fn started(&mut self, cell: usize);

    /// A process has ended, though not because of a signal to all.
    fn ended(&mut self, ended: Ended);

    /// The process of a cell was stopped by a signal to all.
    fn stopped(&mut self, cell: usize);
}

struct Running {
    cell: usize,
    child: Child,
    log: PathBuf,
    /// The length of the log before it started.
    said_before: u64,
    start: Instant,
}

/// Runs all, `at_once` side by side. After a signal no more are started, and the signal is passed on once; returns when those that
/// run have ended.
pub fn run(all: Vec<Work>, at_once: usize, stop: &Stop, watcher: &mut dyn Watcher) {
    let (mut waiting, mut running) = (all.into_iter(), Vec::<Running>::new());
    let mut passed_on = false;
    loop {
        if let Some(signal) = stop.asked().filter(|_| !passed_on) {
            running.iter().for_each(|running| send(&running.child, signal));
            passed_on = true;
        }
        while running.len() < at_once && !passed_on {
            let Some(work) = waiting.next() else { break };
            match start(work) {
                Ok(started) => {
                    watcher.started(started.cell);
                    running.push(started);
                }
                Err(ended) => watcher.ended(ended),
            }
        }
        if running.is_empty() {
            return;
        }
        let mut i = 0;
        while i < running.len() {
            match running[i].child.try_wait() {
                Ok(None) => i += 1,
                ended => {
                    let one = running.swap_remove(i);
                    let failure = match ended {
                        Ok(Some(status)) if status.success() => None,
                        Ok(Some(status)) => Some(explain(status, &one.log, one.said_before)),
                        Err(error) => Some(format!("cannot wait for its process: {error}")),
                        Ok(None) => None,
                    };
                    if failure.is_some() && stop.asked().is_some() {
                        watcher.stopped(one.cell);
                    } else {
                        watcher.ended(Ended { cell: one.cell, failure, seconds: one.start.elapsed().as_secs_f64() });
                    }
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn start(work: Work) -> Result<Running, Ended> {
    let Work { cell, mut command, log } = work;
    let failed =
        |error: std::io::Error| Ended { cell, failure: Some(format!("cannot start its process: {error}")), seconds: 0.0 };
    let file = File::options().append(true).create(true).open(&log).map_err(failed)?;
    let said_before = file.metadata().map_err(failed)?.len();
    let also = file.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(file).stderr(also);
    detach(&mut command);
    let child = command.spawn().map_err(failed)?;
    Ok(Running { cell, child, log, said_before, start: Instant::now() })
}

/// Ctrl-C in a terminal goes to this process alone, which passes it on once: twice would end a child before it has saved. A child
/// whose parent was killed is asked to stop.
#[cfg(unix)]
fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let ask_to_stop = move || {
            // SAFETY: prctl and getppid may be called after a fork, and change nothing but this process.
            let is_child = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                libc::getppid() as u32 == parent
            };
            // The parent may have died before it could be told to.
            if is_child { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
        };
        // SAFETY: the closure makes only system calls.
        unsafe { command.pre_exec(ask_to_stop) };
    }
}

#[cfg(not(unix))]
fn detach(_: &mut Command) {}

#[cfg(unix)]
fn send(child: &Child, signal: i32) {
    // SAFETY: the child has not been waited for, so the number is still its own.
    unsafe {
        libc::kill(child.id() as libc::pid_t, signal);
    }
}

/// Without signals a child cannot be asked; its run continues where its log ends.
#[cfg(not(unix))]
fn send(_: &Child, _: i32) {}

/// The exit code of a process, and the last error that it printed.
fn explain(status: ExitStatus, log: &Path, from: u64) -> String {
    let how = match (status.code(), signal_of(status)) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed (signal 9; the system does so where memory runs out)".into(),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
    };
    match last_error(log, from) {
        Some(said) => format!("{how}: {said}"),
        None => how,
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.signal()
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

/// The first line of the last error in a log behind the first `from` bytes, else the last line.
fn last_error(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next()?;
    let said = lines.find_map(|line| line.strip_prefix("error: ")).unwrap_or(last);
    Some(bounded(said.trim()).into_owned())
}
