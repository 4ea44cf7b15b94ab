//! Where the rows of a task are, and drawing from them.

use std::path::PathBuf;

use super::kinds::Part;
use super::own_files::OwnFiles;
use crate::base::Source;

/// Where the rows of a task are.
#[derive(Clone, Debug)]
pub enum Files {
    /// In a folder, or built in, as the task's [data] names them.
    Local(Source),
    /// As its [hub] names them, in a clone of the repository; None: on the hub.
    Hub(Option<PathBuf>),
    /// In files of one's own.
    Own(OwnFiles),
}

impl Files {
    /// Whether a split has a file of its own; else its rows come out of the training file.
    pub fn have(&self, part: Part) -> bool {
        match (self, part) {
            (Files::Own(own), _) => own.path(part).is_some(),
            (_, Part::Dev) => false,
            _ => true,
        }
    }

    /// How many of `count` training rows are set apart where nothing is said: MeZO's number, of one's own a tenth at most.
    pub fn share(&self, count: usize, mezos: usize) -> usize {
        if matches!(self, Files::Own(_)) { (count / 10).clamp(1, mezos) } else { mezos }
    }
}
