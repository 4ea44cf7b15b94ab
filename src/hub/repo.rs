//! Repos on the hub, and the files requested from one.

use anyhow::Result;

/// The kind of a repo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repo on the hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Model or data set.
    pub kind: RepoKind,
    /// `org/name`; `name` alone for the hub's canonical repos.
    pub id: String,
    /// A branch, a tag or a commit; None: `main`.
    pub revision: Option<String>,
}

impl Repo {
    /// A model.
    pub fn model(id: &str, revision: Option<&str>) -> Self {
        Repo { kind: RepoKind::Model, id: id.into(), revision: revision.map(str::to_string) }
    }

    /// A data set.
    pub fn dataset(id: &str, revision: Option<&str>) -> Self {
        Repo { kind: RepoKind::Dataset, id: id.into(), revision: revision.map(str::to_string) }
    }

    /// The branch, tag or commit; `main` by default.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Checks the syntax of the id and the revision, without a request. The error is a usage error.
    pub fn check(&self) -> Result<()> {
        let parts: Vec<&str> = self.id.split('/').collect();
        let is_part = |part: &&str| {
            (1..=96).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        let odd = ["--", "..", ".git/"].iter().any(|odd| format!("{}/", self.id).contains(odd));
        if parts.len() > 2 || odd || !parts.iter().all(is_part) {
            return Err(usage!(
                "{1:?} cannot be the name of a {0} on the hub: it must be name or org/name, of letters, digits, -, _ and ., \
                 96 each at most",
                self.noun(),
                self.id
            ));
        }
        let revision = self.revision();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./+@=".contains(&b);
        let odd = revision.contains("..") || revision.contains("//") || revision.starts_with(['/', '-', '.']);
        if odd || !(1..=250).contains(&revision.len()) || !revision.bytes().all(plain) || revision.ends_with(['/', '.']) {
            return Err(usage!("{revision:?} cannot be a revision: it must be a branch, a tag, or a commit's hash"));
        }
        Ok(())
    }

    /// As an hf-hub repo, which builds folder names and URLs.
    pub(super) fn named(&self) -> hf_hub::Repo {
        let kind = match self.kind {
            RepoKind::Model => hf_hub::RepoType::Model,
            RepoKind::Dataset => hf_hub::RepoType::Dataset,
        };
        hf_hub::Repo::with_revision(self.id.clone(), kind, self.revision().into())
    }

    pub(super) fn at(&self, commit: &str) -> Self {
        Repo { revision: Some(commit.into()), ..self.clone() }
    }

    pub(super) fn noun(&self) -> &'static str {
        match self.kind {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        }
    }
}

/// `id@commit`, the commit shortened to 7 digits: `facebook/opt-125m@27dcfa7`.
pub fn at_commit(id: &str, commit: &str) -> String {
    format!("{id}@{}", commit.get(..7).unwrap_or(commit))
}

/// A file requested from a repo.
#[derive(Clone, Copy, Debug)]
pub enum FileRequest<'a> {
    /// A required file.
    Required(&'a str),
    /// A file that is fetched if the repo has it.
    Optional(&'a str),
    /// The first of these that the repo has; one is required.
    FirstOf(&'a [&'a str]),
}

impl<'a> FileRequest<'a> {
    /// The file that is missing if nothing is cached; None for an optional one.
    pub(super) fn first(&self) -> Option<&'a str> {
        match self {
            FileRequest::Required(name) => Some(name),
            FileRequest::Optional(_) => None,
            FileRequest::FirstOf(names) => names.first().copied(),
        }
    }
}

/// Checks that a file's name stays within its repo.
pub(super) fn check_file(repo: &Repo, name: &str) -> Result<()> {
    let stays = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    match name.split('/').all(stays) {
        true => Ok(()),
        false => Err(usage!("{}: {name:?} cannot be the name of a file on the hub", repo.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anybody_is_asked() {
        for good in ["facebook/opt-125m", "gpt2", "a/b.c_d-1", "HuggingFaceTB/SmolLM2-135M-Instruct"] {
            assert!(Repo::model(good, None).check().is_ok(), "{good}");
        }
        let long = "x".repeat(97);
        for bad in
            ["", "a b", "a/b/c", "../a", "a..b", "a--b", "/a", "a/", "-a", "a.", ".a", "é", "a%2Fb", "a\nb", "x.git", &long]
        {
            let error = Repo::model(bad, None).check().unwrap_err();
            assert!(
                crate::base::errors::exit_code(&error) == 2 && error.to_string().contains("cannot be the name of a"),
                "{bad}: {error}"
            );
        }
        for good in ["main", "v1.0", "refs/pr/1", "refs/convert/parquet", &"a".repeat(40)] {
            assert!(Repo::model("a/b", Some(good)).check().is_ok(), "{good}");
        }
        for bad in ["", "a b", "../x", "a..b", "/a", "a/", "-a", "a\\b", "a?b", "a%b", "a//b"] {
            assert!(Repo::model("a/b", Some(bad)).check().is_err(), "{bad}");
        }
    }
}
