//! The location of a task's rows.

use std::path::PathBuf;

use super::kinds::Part;
use super::own_files::OwnFiles;
use crate::base::Source;

/// The location of a task's rows.
#[derive(Clone, Debug)]
pub enum Files {
    /// In a folder or built in, under the names in [data].
    Local(Source),
    /// In a clone of the [hub] repository; None: on the hub.
    Hub(Option<PathBuf>),
    /// In the user's own files.
    Own(OwnFiles),
}

impl Files {
    /// Whether a split has its own file; otherwise its rows are drawn from the training file.
    pub fn has_file(&self, part: Part) -> bool {
        match (self, part) {
            (Files::Own(own), _) => own.path(part).is_some(),
            (_, Part::Dev) => false,
            _ => true,
        }
    }

    /// The default size of a split drawn from `count` training rows: MeZO's, or at most a tenth of own data.
    pub fn default_size(&self, count: usize, mezos: usize) -> usize {
        if matches!(self, Files::Own(_)) { (count / 10).clamp(1, mezos) } else { mezos }
    }
}
