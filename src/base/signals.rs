//! SIGINT and SIGTERM: the first ends the run after the current step, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};

use super::errors::Interrupted;

/// The request to stop, shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicI32>);

impl Stop {
    /// Starts listening for SIGINT and SIGTERM. A second signal ends the process.
    pub fn listen() -> Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let stop = Stop::default();
        let (shared, mut signals) = (stop.clone(), signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?);
        let listen = move || {
            for signal in signals.forever() {
                if shared.0.swap(signal, Relaxed) != 0 {
                    // Safe at any moment: files are written before anything depends on them.
                    signal_hook::low_level::exit(128 + signal);
                }
                tracing::info!("stopping after this step; the run will be saved (a second signal stops at once)");
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot listen for signals")?;
        Ok(stop)
    }

    /// The signal that was received, if any.
    pub fn asked(&self) -> Option<i32> {
        Some(self.0.load(Relaxed)).filter(|signal| *signal != 0)
    }

    /// Returns [`Interrupted`] with `message()` if a signal was received.
    pub fn check(&self, message: impl FnOnce() -> String) -> Result<()> {
        match self.asked() {
            Some(signal) => Err(Interrupted { signal, say: message() }.into()),
            None => Ok(()),
        }
    }
}
