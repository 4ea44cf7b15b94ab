//! Models and data sets from the hub, in the cache that Python's tools use too.

use std::path::PathBuf;

use anyhow::Result;

/// What kind of repo a name is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repo on the hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Model or data set.
    pub kind: Kind,
    /// `org/name`, or a name of the hub's own.
    pub id: String,
    /// A branch, a tag or a commit; None: `main`.
    pub revision: Option<String>,
}

impl Repo {
    /// A model.
    pub fn model(id: &str, revision: Option<&str>) -> Self {
        Repo { kind: Kind::Model, id: id.into(), revision: revision.map(str::to_string) }
    }

    /// A data set.
    pub fn dataset(id: &str, revision: Option<&str>) -> Self {
        Repo { kind: Kind::Dataset, id: id.into(), revision: revision.map(str::to_string) }
    }
}

/// The hub as the environment names it.
pub struct Hub {}

impl Hub {
    /// Reads the environment once.
    pub fn from_env() -> Result<Self> {
        Ok(Hub {})
    }

    /// A file of a repo, from the cache or fetched into it: where it lies.
    pub fn file(&self, repo: &Repo, name: &str) -> Result<PathBuf> {
        anyhow::bail!("{}/{name}: the hub is not wired up yet", repo.id)
    }
}
