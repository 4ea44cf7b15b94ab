//! Models and data sets from the hub, in the cache that Python's tools use too.
//!
//! The cache is looked into first. What is there and settled is taken without a request; everything that a request may find out
//! goes through [`http`], every byte that is missing through [`download`].

use std::path::PathBuf;

use anyhow::Result;

use super::cache::{Cache, is_commit};
use super::download;
use super::http::{Client, Failure, Remote, RetryPolicy};
use super::repo::{Repo, Wanted, at_commit, check_file};
use super::settings::{Settings, shown};

/// What is wanted of a repo, in a folder.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The folder.
    pub folder: PathBuf,
    /// The commit that it is of.
    pub commit: String,
}

/// The hub as the environment names it, and its cache.
pub struct Hub {
    client: Client,
}

impl Hub {
    /// Reads the environment once.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The same of variables as `get` has them.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Hub { client: Client::new(Settings::read(get)?)? })
    }

    /// A folder with those files of a repo that are wanted, from the cache or fetched into it.
    pub fn snapshot(&self, repo: &Repo, wanted: &[Wanted]) -> Result<Snapshot> {
        repo.check()?;
        let cache = self.cache(repo);
        let known = cache.commit(repo.revision());
        let found = |commit: String| Snapshot { folder: cache.snapshot(&commit), commit };
        // A commit does not change.
        if let Some(commit) = known.as_ref().filter(|c| is_commit(repo.revision()) && cache.is_whole(c, wanted)) {
            return Ok(found(commit.clone()));
        }
        let lacking = match &known {
            Some(commit) => cache.lacks(commit, wanted),
            None => wanted.iter().find_map(Wanted::first).or(Some("a snapshot")),
        };
        self.check_online(repo, lacking)?;
        if self.settings().offline.is_some() {
            return Ok(found(known.unwrap_or_default()));
        }
        let retries = if lacking.is_none() { RetryPolicy::None } else { RetryPolicy::Busy };
        match self.client.describe(repo, retries) {
            Ok(info) => {
                let at = repo.at(&info.sha);
                for name in self.chosen(&at, &info, wanted)? {
                    if !cache.has(&info.sha, name) {
                        let found = self.client.look_up(&at, name, RetryPolicy::Silent);
                        let remote = found.map_err(|f| self.explained(&at, Some(name), &f))?;
                        self.bring(&at, &remote, name)?;
                    }
                }
                cache.note(repo.revision(), &info.sha);
                Ok(found(info.sha))
            }
            Err(failure) => match known.filter(|_| lacking.is_none() && may_stand_in(&failure)) {
                Some(commit) => {
                    self.warn(repo, &commit, &failure);
                    Ok(found(commit))
                }
                None => Err(self.explained(repo, None, &failure)),
            },
        }
    }

    /// A file of a repo, from the cache or fetched into it: where it lies.
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
                    self.bring(&repo.at(&remote.commit), &remote, name)?;
                }
                cache.note(repo.revision(), &remote.commit);
                Ok(place(&remote.commit))
            }
            Err(failure) => match known.filter(|_| may_stand_in(&failure)) {
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

    /// The names of the files that are wanted and on the hub; those that are not there are noted in the cache.
    fn chosen<'a>(&self, repo: &Repo, info: &hf_hub::api::RepoInfo, wanted: &[Wanted<'a>]) -> Result<Vec<&'a str>> {
        let is_there = |name: &str| info.siblings.iter().any(|sibling| sibling.rfilename == name);
        let cache = self.cache(repo);
        let note_absent = |name: &str| cache.note_absent(&info.sha, name);
        let mut chosen = Vec::new();
        for wanted in wanted {
            match wanted {
                Wanted::Needed(name) | Wanted::Optional(name) if is_there(name) => chosen.push(*name),
                Wanted::Optional(name) => note_absent(name),
                Wanted::Needed(name) => {
                    return Err(unavailable!("{} has no {name} on the hub", at_commit(&repo.id, &info.sha)));
                }
                Wanted::FirstOf(names) => match names.iter().position(|name| is_there(name)) {
                    Some(i) => {
                        names[..i].iter().for_each(|name| note_absent(name));
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

    /// Fetches a file into the cache. `repo` is at a commit.
    fn bring(&self, repo: &Repo, remote: &Remote, name: &str) -> Result<()> {
        check_file(repo, name)?;
        let (cache, commit) = (self.cache(repo), repo.revision());
        let again = || self.client.look_up(repo, name, RetryPolicy::Silent);
        download::fetch(&self.client, &cache, remote, &format!("{}/{name}", at_commit(&repo.id, commit)), &again)?;
        cache.place(&remote.etag, commit, name).map(drop)
    }

    /// Fails if the network is forbidden and a file is lacking.
    fn check_online(&self, repo: &Repo, lacking: Option<&str>) -> Result<()> {
        let (Some(variable), Some(name)) = (&self.settings().offline, lacking) else { return Ok(()) };
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

    /// What a failure means, and what to do about it.
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

/// Whether what is in the cache may be taken instead: always, unless the hub knows the repo and says that what is asked for
/// is not in it.
fn may_stand_in(failure: &Failure) -> bool {
    !matches!(failure.code.as_str(), "RevisionNotFound" | "EntryNotFound")
}
