//! What is said while cells run: a bar with the cells that run, or a line for each that has ended.

use std::time::Duration;

use indicatif::ProgressBar;

use crate::base::text::{listed, plain};

/// The progress of a number of processes.
pub struct Progress {
    bar: ProgressBar,
    running: Vec<String>,
    done: usize,
    total: usize,
}

impl Progress {
    /// Of `total` processes.
    pub fn new(bar: ProgressBar, total: usize) -> Self {
        // The bar of a round before is cleared.
        bar.reset();
        bar.set_length(total as u64);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        Progress { bar, running: Vec::new(), done: 0, total }
    }

    /// A cell has started.
    pub fn started(&mut self, name: &str) {
        self.running.push(name.into());
        self.show();
    }

    /// A cell runs no more; if it was not stopped, `said` is what came of it.
    pub fn ended(&mut self, name: &str, said: Option<&str>) {
        self.running.retain(|other| other != name);
        if let Some(said) = said {
            self.done += 1;
            let line = format!("  {:>4}/{}  {name}  {said}", self.done, self.total);
            if self.bar.is_hidden() {
                tracing::info!("{line}");
            } else {
                self.bar.println(plain(&line));
            }
        }
        self.show();
    }

    fn show(&self) {
        self.bar.set_position(self.done as u64);
        self.bar.set_message(listed(self.running.iter().map(String::as_str)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
