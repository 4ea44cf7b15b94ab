//! Models and data sets of the hub, through the cache.
//!
//! The cache is consulted first; complete snapshots of a commit need no request. [`http`](super::http) sends every
//! request for metadata, [`download`] fetches every missing byte.

use std::path::PathBuf;

use anyhow::Result;

use super::cache::{Cache, is_commit};
use super::download;
use super::http::{Client, Failure, Remote, RetryPolicy};
use super::repo::{FileRequest, Repo, at_commit, check_file};
use super::settings::{Settings, shown};

/// The requested files of a repo, in a folder.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The folder.
    pub folder: PathBuf,
    /// The commit they belong to.
    pub commit: String,
}

/// The hub that the environment configures, and its cache.
pub struct Hub {
    client: Client,
}

impl Hub {
    /// A hub configured by the environment, which is read once.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// A hub configured by the variables that `get` returns.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Hub { client: Client::new(Settings::read(get)?)? })
    }

    /// A folder with the `wanted` files of a repo, cached or downloaded. Fails if one is missing or the hub cannot be
    /// reached.
    pub fn snapshot(&self, repo: &Repo, wanted: &[FileRequest]) -> Result<Snapshot> {
        repo.check()?;
        let cache = self.cache(repo);
        let known = cache.commit(repo.revision());
        let found = |commit: String| Snapshot { folder: cache.snapshot(&commit), commit };
        // A commit is immutable.
        if let Some(commit) = known.as_ref().filter(|c| is_commit(repo.revision()) && cache.is_complete(c, wanted)) {
            return Ok(found(commit.clone()));
        }
        let missing = match &known {
            Some(commit) => cache.first_missing(commit, wanted),
            None => wanted.iter().find_map(FileRequest::first).or(Some("a snapshot")),
        };
        self.check_online(repo, missing)?;
        if self.settings().offline.is_some() {
            return Ok(found(known.unwrap_or_default()));
        }
        let retries = if missing.is_none() { RetryPolicy::None } else { RetryPolicy::Busy };
        match self.client.describe(repo, retries) {
            Ok(info) => {
                let at = repo.at(&info.sha);
                for name in self.select_files(&at, &info, wanted)? {
                    if !cache.has(&info.sha, name) {
                        let found = self.client.look_up(&at, name, RetryPolicy::Silent);
                        let remote = found.map_err(|f| self.explained(&at, Some(name), &f))?;
                        self.fetch_file(&at, &remote, name)?;
                    }
                }
                cache.record_commit(repo.revision(), &info.sha);
                Ok(found(info.sha))
            }
            Err(failure) => match known.filter(|_| missing.is_none() && may_use_cache(&failure)) {
                Some(commit) => {
                    self.warn(repo, &commit, &failure);
                    Ok(found(commit))
                }
                None => Err(self.explained(repo, None, &failure)),
            },
        }
    }

    /// The path of one file of a repo, cached or downloaded.
    pub fn file(&self, repo: &Repo, name: &str) -> Result<PathBuf> {
        repo.check()?;
        check_file(repo, name)?;
        let cache = self.cache(repo);
        let known = cache.commit(repo.revision()).filter(|commit| cache.has(commit, name));
        let place = |commit: &str| cache.snapshot(commit).join(name);
        if let Some(commit) = known.as_ref().filter(|_| is_commit(repo.revision()) || self.settings().offline.is_some()) {
            return Ok(place(commit));
        }
        self.check_online(repo, Some(name))?;
        let retries = if known.is_some() { RetryPolicy::None } else { RetryPolicy::Busy };
        match self.client.look_up(repo, name, retries) {
            Ok(remote) => {
                if !cache.has(&remote.commit, name) {
                    self.fetch_file(&repo.at(&remote.commit), &remote, name)?;
                }
                cache.record_commit(repo.revision(), &remote.commit);
                Ok(place(&remote.commit))
            }
            Err(failure) => match known.filter(|_| may_use_cache(&failure)) {
                Some(commit) => {
                    self.warn(repo, &commit, &failure);
                    Ok(place(&commit))
                }
                None => Err(self.explained(repo, Some(name), &failure)),
            },
        }
    }

    fn settings(&self) -> &Settings {
        self.client.settings()
    }

    fn cache(&self, repo: &Repo) -> Cache {
        Cache::of(&self.settings().cache, repo)
    }

    /// The names of the requested files that the hub has; records those it lacks in the cache.
    fn select_files<'a>(
        &self,
        repo: &Repo,
        info: &hf_hub::api::RepoInfo,
        wanted: &[FileRequest<'a>],
    ) -> Result<Vec<&'a str>> {
        let is_there = |name: &str| info.siblings.iter().any(|sibling| sibling.rfilename == name);
        let cache = self.cache(repo);
        let record_absent = |name: &str| cache.record_absent(&info.sha, name);
        let mut chosen = Vec::new();
        for wanted in wanted {
            match wanted {
                FileRequest::Required(name) | FileRequest::Optional(name) if is_there(name) => chosen.push(*name),
                FileRequest::Optional(name) => record_absent(name),
                FileRequest::Required(name) => {
                    return Err(unavailable!("{} has no {name} on the hub", at_commit(&repo.id, &info.sha)));
                }
                FileRequest::FirstOf(names) => match names.iter().position(|name| is_there(name)) {
                    Some(i) => {
                        names[..i].iter().for_each(|name| record_absent(name));
                        chosen.push(names[i]);
                    }
                    None => {
                        return Err(unavailable!(
                            "{} has none of {} on the hub",
                            at_commit(&repo.id, &info.sha),
                            names.join(", ")
                        ));
                    }
                },
            }
        }
        Ok(chosen)
    }

    /// Downloads a file into the cache. `repo` is at a commit.
    fn fetch_file(&self, repo: &Repo, remote: &Remote, name: &str) -> Result<()> {
        check_file(repo, name)?;
        let (cache, commit) = (self.cache(repo), repo.revision());
        let again = || self.client.look_up(repo, name, RetryPolicy::Silent);
        download::fetch(&self.client, &cache, remote, &format!("{}/{name}", at_commit(&repo.id, commit)), &again)?;
        cache.place(&remote.etag, commit, name).map(drop)
    }

    /// Fails if the network is forbidden and a file is missing.
    fn check_online(&self, repo: &Repo, missing: Option<&str>) -> Result<()> {
        let (Some(variable), Some(name)) = (&self.settings().offline, missing) else { return Ok(()) };
        Err(unavailable!(
            "{name} of the {} {} (revision {}) is not in the cache, {}, and {variable} is set; run once without it to \
             download the file",
            repo.noun(),
            repo.id,
            repo.revision(),
            self.settings().cache.display()
        ))
    }

    fn warn(&self, repo: &Repo, commit: &str, failure: &Failure) {
        tracing::warn!("{}; using {} from the cache", failure.say, at_commit(&repo.id, commit));
    }

    /// The error for a failure: its cause and the remedy.
    fn explained(&self, repo: &Repo, name: Option<&str>, failure: &Failure) -> anyhow::Error {
        let (settings, noun, id) = (self.settings(), repo.noun(), &repo.id);
        let page = format!("{}/{}", shown(&settings.endpoint), repo.named().url());
        let token = match &settings.token {
            Some((_, place)) => format!("the token from {place} gives no access to it"),
            None => "set HF_TOKEN to a token of yours (Settings, Access Tokens on the hub)".into(),
        };
        let revision = repo.revision();
        match (failure.status, failure.code.as_str()) {
            (Some(401 | 403), "GatedRepo") => unavailable!(
                "the {noun} {id} is gated: accept its licence at {page}, and {}",
                if settings.token.is_some() { format!("check that the token is from your account: {token}") } else { token }
            ),
            (Some(404), "RevisionNotFound") => unavailable!("the {noun} {id} has no revision {revision:?}; see {page}"),
            (Some(404), "EntryNotFound") => {
                unavailable!("the {noun} {id} has no {} at revision {revision:?}; see {page}", name.unwrap_or("such file"))
            }
            (Some(401 | 404), "RepoNotFound") | (Some(404), _) => unavailable!(
                "there is no {noun} {id} at {}, or it is private (the hub gives the same answer): check the name; if it is \
                 private, {token}",
                shown(&settings.endpoint)
            ),
            (Some(401 | 403), _) => unavailable!(
                "the hub refuses {id}: {}; if it is gated, accept its licence at {page}; if it is private, {token}",
                failure.say
            ),
            (Some(429), _) => unavailable!(
                "the hub has had too many requests from here: {}; wait some minutes{}",
                failure.say,
                if settings.token.is_some() { "" } else { ", or set HF_TOKEN, which allows more requests" }
            ),
            (None, _) => unavailable!(
                "{}; the cache ({}) has no complete copy of {id}; check the network, or give a local folder",
                failure.say,
                settings.cache.display()
            ),
            _ => unavailable!("cannot get {id} from the hub: {}", failure.say),
        }
    }
}

/// Whether the cached files may be used instead: unless the hub knows the repo and reports that the revision or file
/// does not exist.
fn may_use_cache(failure: &Failure) -> bool {
    !matches!(failure.code.as_str(), "RevisionNotFound" | "EntryNotFound")
}
