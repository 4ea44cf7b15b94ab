//! Data sets of labs.

/// Files of a data set on the hub.
#[derive(Clone, Copy, Debug)]
pub struct Dataset {
    /// `org/name`
    pub repo: &'static str,
    /// Paths in the repository.
    pub files: &'static [&'static str],
}
