//! A hub on 127.0.0.1, and a content network beside it on another port, for tests to misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Whether it came to the content network.
    pub is_cdn: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1.as_str())
    }

    /// `GET /path`, with the part that is asked for behind it.
    pub fn line(&self) -> String {
        let range = self.header("range").map_or(String::new(), |range| format!(" {range}"));
        format!("{} {}{range}", self.method, self.target)
    }

    fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What goes out.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Content-Length, if it is not the body's.
    pub length: Option<usize>,
    /// The connection ends behind so many bytes of the body.
    pub cut: Option<usize>,
    /// Behind so many bytes nothing more comes.
    pub stall: Option<usize>,
    /// How often the body comes, without a word of how long it is.
    pub times: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    /// A refusal as the hub words it.
    pub fn refusal(status: u16, code: &str) -> Self {
        Answer::new(status, "{}").with("X-Error-Code", code).with("X-Error-Message", "as the hub words it")
    }

    fn send(&self, is_head: bool, mut to: TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(times) = self.times {
            to.write_all(format!("{head}\r\n").as_bytes())?;
            return (0..if is_head { 0 } else { times }).try_for_each(|_| to.write_all(&self.body));
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.length.unwrap_or(self.body.len()));
        to.write_all(head.as_bytes())?;
        if !is_head {
            let end = self.cut.or(self.stall).unwrap_or(usize::MAX).min(self.body.len());
            to.write_all(&self.body[..end])?;
            if self.stall.is_some() {
                // Until the other side has gone.
                let _ = to.read(&mut [0]);
            }
        }
        Ok(())
    }
}

/// A file as it is asked for: whole, or from a byte on.
pub fn file(request: &Request, bytes: &[u8]) -> Answer {
    match request.start() {
        None => Answer::new(200, bytes),
        Some(start) if start >= bytes.len() => Answer::new(416, ""),
        Some(start) => Answer::new(206, &bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}

/// A repo on the hub.
#[derive(Clone, Debug)]
pub struct Repo {
    /// `models/org/name` or `datasets/org/name`
    pub path: String,
    /// Branches and tags, and the commits that they are.
    pub refs: BTreeMap<String, String>,
    /// Commits, and their files.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Repo {
    pub fn new(path: &str, commit: &str, files: BTreeMap<String, Vec<u8>>) -> Self {
        Repo {
            path: path.into(),
            refs: [("main".to_string(), commit.to_string())].into(),
            commits: [(commit.to_string(), files)].into(),
        }
    }

    fn commit(&self, revision: &str) -> Option<&str> {
        let revision = revision.replace("%2F", "/");
        self.refs.get(&revision).or(self.commits.get_key_value(&revision).map(|c| c.0)).map(String::as_str)
    }
}

type Trick = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

struct State {
    repo: Repo,
    cdn: String,
    trick: Option<Trick>,
    requests: Vec<Request>,
}

/// A hub with one repo.
pub struct Hub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// What tells a content apart, as the hub does: SHA-256 of large files, git's hash of small ones.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        return format!("{:x}", Sha256::digest(bytes));
    }
    format!("{:x}", Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn is_large(name: &str) -> bool {
    [".bin", ".safetensors", ".msgpack", ".h5", ".parquet"].iter().any(|ending| name.ends_with(ending))
}

impl Hub {
    pub fn start(repo: Repo) -> Result<Self> {
        let (hub, cdn) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let url = format!("http://{}", hub.local_addr()?);
        let cdn_url = format!("http://{}", cdn.local_addr()?);
        let state = Arc::new(Mutex::new(State { repo, cdn: cdn_url, trick: None, requests: Vec::new() }));
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(&state, stream, is_cdn));
                }
            });
        }
        Ok(Hub { url, state })
    }

    /// From now on `trick` answers where it does, and the hub where it does not.
    pub fn play(&self, trick: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) {
        self.state.lock().unwrap().trick = Some(Arc::new(trick));
    }

    /// From now on it behaves.
    pub fn behave(&self) {
        self.state.lock().unwrap().trick = None;
    }

    /// Changes what is on it.
    pub fn change(&self, change: impl FnOnce(&mut Repo)) {
        change(&mut self.state.lock().unwrap().repo);
    }

    /// What it answers where nobody plays a trick.
    pub fn usual(&self) -> impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static {
        let state = self.state.clone();
        move |request| {
            let (repo, cdn) = state.lock().map(|state| (state.repo.clone(), state.cdn.clone())).ok()?;
            if request.is_cdn { from_cdn(request, &repo) } else { from_hub(request, &repo, &cdn) }
        }
    }

    /// The requests since the last time.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// How many requests so far make `is_it` true.
    pub fn count(&self, is_it: impl Fn(&Request) -> bool) -> usize {
        self.state.lock().unwrap().requests.iter().filter(|r| is_it(r)).count()
    }
}

fn serve(state: &Mutex<State>, stream: TcpStream, is_cdn: bool) {
    let Ok(request) = read(&stream, is_cdn) else { return };
    let (answer, repo, cdn) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        (state.trick.clone(), state.repo.clone(), state.cdn.clone())
    };
    let answer = answer.and_then(|trick| trick(&request));
    let answer = answer.or_else(|| if is_cdn { from_cdn(&request, &repo) } else { from_hub(&request, &repo, &cdn) });
    let _ = answer.unwrap_or(Answer::refusal(404, "RepoNotFound")).send(request.method == "HEAD", stream);
}

fn read(stream: &TcpStream, is_cdn: bool) -> Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("nothing came")??;
    let mut words = first.split(' ').map(str::to_string);
    let (method, target) = (words.next().context("no method")?, words.next().context("no target")?);
    let mut headers = Vec::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => headers.push((name.to_string(), value.to_string())),
            None => break,
        }
    }
    Ok(Request { method, target, headers, is_cdn })
}

/// A content by its hash.
fn from_cdn(request: &Request, repo: &Repo) -> Option<Answer> {
    let hash = request.target.trim_start_matches('/').split('?').next()?;
    let mut contents = repo.commits.values().flatten();
    contents.find(|(name, bytes)| etag(name, bytes) == hash).map(|(_, bytes)| file(request, bytes))
}

fn from_hub(request: &Request, repo: &Repo, cdn: &str) -> Option<Answer> {
    let target = request.target.trim_start_matches('/');
    if let Some(revision) = target.strip_prefix(&format!("api/{}/revision/", repo.path)) {
        let Some(commit) = repo.commit(revision) else { return Some(Answer::refusal(404, "RevisionNotFound")) };
        let siblings: Vec<_> = repo.commits[commit].keys().map(|name| json!({ "rfilename": name })).collect();
        let about = json!({ "id": repo.path, "sha": commit, "private": false, "siblings": siblings });
        return Some(Answer::new(200, about.to_string()).with("Content-Type", "application/json"));
    }
    // Small files are a redirect away, on the hub itself, and say there what they are.
    let (is_moved, target) = match target.strip_prefix("api/resolve-cache/") {
        Some(rest) => (true, rest),
        None => (false, target),
    };
    let home = repo.path.strip_prefix("models/").unwrap_or(&repo.path);
    let (revision, name) = target.strip_prefix(&format!("{home}/resolve/"))?.split_once('/')?;
    let Some(commit) = repo.commit(revision) else { return Some(Answer::refusal(404, "RevisionNotFound")) };
    let Some(bytes) = repo.commits[commit].get(name) else {
        return Some(Answer::refusal(404, "EntryNotFound").with("X-Repo-Commit", commit));
    };
    let etag = etag(name, bytes);
    Some(if is_large(name) {
        Answer::new(302, "elsewhere")
            .with("Location", format!("{cdn}/{etag}?Signature=signed-for-you"))
            .with("X-Repo-Commit", commit)
            .with("X-Linked-Etag", format!("\"{etag}\""))
            .with("X-Linked-Size", bytes.len())
    } else if !is_moved {
        Answer::new(307, "moved").with("Location", format!("/api/resolve-cache/{target}")).with("X-Repo-Commit", commit)
    } else {
        file(request, bytes).with("X-Repo-Commit", commit).with("ETag", format!("W/\"{etag}\""))
    })
}
