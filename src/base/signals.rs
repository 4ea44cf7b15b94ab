//! Signals that ask a run to end: the first behind a whole step, the second at once.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};

use super::errors::Interrupted;

/// Whether somebody has asked.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicI32>);

impl Stop {
    /// Listens for SIGINT and SIGTERM from here on. A second one ends the process.
    pub fn listen() -> Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let asked = Stop::default();
        let (heard, mut signals) = (asked.clone(), signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?);
        let listen = move || {
            for signal in signals.forever() {
                if heard.0.swap(signal, Relaxed) != 0 {
                    // Nothing is lost by it: what counts is written before it counts.
                    signal_hook::low_level::exit(128 + signal);
                }
                tracing::info!("finishing this step, then saving; a second signal stops at once");
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot listen for signals")?;
        Ok(asked)
    }

    /// The signal that asked.
    pub fn asked(&self) -> Option<i32> {
        Some(self.0.load(Relaxed)).filter(|signal| *signal != 0)
    }

    /// An error that says `kept`, if somebody has asked.
    pub fn check(&self, kept: impl FnOnce() -> String) -> Result<()> {
        match self.asked() {
            Some(signal) => Err(Interrupted { signal, say: kept() }.into()),
            None => Ok(()),
        }
    }
}
