//! What a run's command leaves at its end and for trackers, and the command itself.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use serde_json::Value;

use crate::config::{RunConfig, Tracker};
use crate::report::tensorboard::EventFile;
use crate::run::log_line::whole_log;
use crate::run::progress::OnLine;
use crate::run::trajectory::Log;
use crate::run::{Results, folder};

/// A run's event file, if it has one.
pub(super) struct EventSink(Option<Rc<RefCell<EventFile>>>);

impl EventSink {
    /// Begins the file with the lines of earlier processes.
    pub(super) fn begin(config: &RunConfig, log: &Log) -> Result<Self> {
        if config.report_to == Tracker::None {
            return Ok(EventSink(None));
        }
        let (_, lines) = whole_log(&config.output_dir, log.trajectory().steps());
        Ok(EventSink(Some(Rc::new(RefCell::new(EventFile::begin(config, &lines)?)))))
    }

    /// What takes the lines to come.
    pub(super) fn on_line(&self) -> Option<OnLine> {
        let events = self.0.clone()?;
        Some(Box::new(move |line| events.borrow_mut().line(line)))
    }

    /// Writes the results.
    fn end(&self, results: &Results) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |events| events.borrow_mut().end(results))
    }
}

/// Writes the last files of a run: what `draw` draws, the end of the event file, and all_results.json with this content. That comes
/// last: with it the run is finished, and no later process looks after the other files.
pub(super) fn finish(
    config: &RunConfig,
    draw: impl FnOnce() -> Result<()>,
    events: &EventSink,
    results: &Results,
    all: &Value,
) -> Result<()> {
    draw()?;
    events.end(results)?;
    folder::finish(config, all)
}

/// The command, for run.json.
pub(super) fn command() -> Vec<String> {
    std::env::args().collect()
}
