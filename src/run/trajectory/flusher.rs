//! Syncs a file to disk within a deadline after each write, on its own thread.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that calls `sync` when it is due.
pub struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The deadline of the next sync; None: all is synced.
    due: Option<Instant>,
    /// The error of the last sync, until reported.
    failed: Option<io::Error>,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flusher {
    /// Starts the thread. `sync` forces what was written to disk.
    pub fn new(sync: impl Fn() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("flusher".into()).spawn(move || own.serve(sync))?;
        Ok(Flusher { shared, thread: Some(thread) })
    }

    /// Requests a sync `within` this time. Returns the error of an earlier sync, once.
    pub fn written(&self, within: Duration) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.due.is_none() {
            state.due = Instant::now().checked_add(within);
            self.shared.changed.notify_one();
        }
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Cancels the pending sync: all that was written is on disk.
    pub fn synced(&self) {
        self.shared.state().due = None;
    }
}

impl Shared {
    fn serve(&self, sync: impl Fn() -> io::Result<()>) {
        let mut state = self.state();
        while !state.closed {
            let now = Instant::now();
            state = match state.due {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => {
                    self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    state.due = None;
                    drop(state);
                    let synced = sync();
                    let mut state = self.state();
                    state.failed = synced.err().or(state.failed.take());
                    state
                }
            };
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Waits until `is` holds, for at most ten seconds.
    fn until(is: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !is() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        is()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_written_is_synced_though_nobody_writes_again_and_a_failure_is_told() -> io::Result<()> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let flusher = Flusher::new(move || match counted.fetch_add(1, SeqCst) {
            1 => Err(io::Error::other("the disk is gone")),
            _ => Ok(()),
        })?;
        flusher.written(Duration::from_millis(20))?;
        flusher.written(Duration::from_millis(20))?;
        assert!(until(|| count.load(SeqCst) == 1));
        // What is synced meanwhile is not synced again.
        flusher.written(Duration::from_millis(200))?;
        flusher.synced();
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(count.load(SeqCst), 1);
        // The second sync fails; the writer gets the error once.
        flusher.written(Duration::ZERO)?;
        assert!(until(|| count.load(SeqCst) == 2));
        let told = std::cell::RefCell::new(None);
        assert!(until(|| told.borrow().is_some()
            || flusher.written(HOUR).inspect_err(|e| *told.borrow_mut() = Some(e.to_string())).is_err()));
        assert_eq!(told.into_inner().as_deref(), Some("the disk is gone"));
        flusher.written(HOUR)
    }
}
