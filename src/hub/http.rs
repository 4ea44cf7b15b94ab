//! Requests to the hub: timeouts, proxies, redirects that leave the token behind, and what answers mean.

use std::time::Duration;

use anyhow::Result;
use hf_hub::api::RepoInfo;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::cache::is_commit;
use super::repo::Repo;
use super::settings::{Settings, shown};

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// How often in a row the hub may fail in passing before it is given up.
pub const ATTEMPTS: u32 = 5;

/// What a server may ask to wait at most.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryPolicy {
    /// Nothing: the cache can stand in.
    None,
    /// Hubs that are busy. Silence is not waited out, there may be no network.
    Busy,
    /// Silence too: there was an answer a moment ago.
    Silent,
}

/// The hub, to be asked.
pub struct Client {
    agent: Agent,
    settings: Settings,
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, Default)]
pub struct Failure {
    /// The answer's status; None: there was no answer, or it broke off.
    pub status: Option<u16>,
    /// The hub's name for it: `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
    pub code: String,
    /// What happened, without secrets.
    pub say: String,
    /// What the hub asks to wait.
    wait: Option<Duration>,
}

impl Failure {
    /// One that a repetition does not mend.
    pub fn lasting(say: String) -> Self {
        Failure { status: Some(0), say, ..Failure::default() }
    }

    /// Nobody answered, or the answer broke off.
    pub fn broken(say: String) -> Self {
        Failure { say, ..Failure::default() }
    }

    /// Whether it may be otherwise in a moment.
    pub fn passes(&self) -> bool {
        matches!(self.status, None | Some(408 | 429 | 500..=599)) && self.wait.is_none_or(|wait| wait <= LONGEST_WAIT)
    }

    /// The retries that it takes to ask again.
    fn asks(&self) -> RetryPolicy {
        if self.status.is_none() { RetryPolicy::Silent } else { RetryPolicy::Busy }
    }

    /// Waits before the `nth` repetition, counted from 1.
    pub fn pause(&self, nth: u32) {
        let wait = self.wait.unwrap_or(Duration::from_millis(250 << nth.min(6)));
        if wait > Duration::from_secs(5) {
            tracing::warn!("{}; trying again in {} s", self.say, wait.as_secs());
        }
        std::thread::sleep(wait);
    }
}

/// What the hub says of a file.
pub struct Remote {
    /// Where its bytes are.
    pub url: String,
    /// What tells its content apart: SHA-256 of a large file, git's hash of a small one. Checked to be a file's name.
    pub etag: String,
    /// The commit it was looked up in.
    pub commit: String,
    /// Its length in bytes, if it says.
    pub size: Option<u64>,
}

impl Client {
    /// A client for what the environment says.
    pub fn new(settings: Settings) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path).map_err(|e| usage!("SSL_CERT_FILE={}: {e}", path.display()))?;
            let found: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if found.is_empty() {
                return Err(usage!("SSL_CERT_FILE={}: there is no certificate in it", path.display()));
            }
            tls = tls.root_certs(RootCerts::from(found));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("zotune/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build()
            .new_agent();
        Ok(Client { agent, settings })
    }

    /// What it was made for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a repo's revision is: its commit and the names of its files.
    pub fn describe(&self, repo: &Repo, retries: RetryPolicy) -> Result<RepoInfo, Failure> {
        let url = format!("{}/api/{}", self.settings.endpoint, repo.named().api_url());
        let (_, mut response) = self.patiently(retries, || self.follow(false, &url))?;
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().map_err(|e| self.failure(&url, e))?;
        let info = serde_json::from_slice::<RepoInfo>(&body).ok().filter(|info| is_commit(&info.sha));
        info.ok_or_else(|| self.no_hub(&url))
    }

    /// What the hub says of a file at a repo's revision.
    pub fn look_up(&self, repo: &Repo, name: &str, retries: RetryPolicy) -> Result<Remote, Failure> {
        let named = repo.named();
        let path: Vec<String> = name.split('/').map(encoded).collect();
        let url = format!("{}/{}/resolve/{}/{}", self.settings.endpoint, named.url(), named.url_revision(), path.join("/"));
        let (url, response) = self.patiently(retries, || self.follow(true, &url))?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let etag = header("x-linked-etag").or(header("etag")).map(|e| e.trim_start_matches("W/").trim_matches('"'));
        let is_name = |etag: &&str| {
            (1..=200).contains(&etag.len())
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !etag.starts_with('.')
        };
        let commit = header("x-repo-commit").or(Some(repo.revision())).filter(|commit| is_commit(commit));
        let (Some(etag), Some(commit)) = (etag.filter(is_name), commit) else { return Err(self.no_hub(&url)) };
        let is_elsewhere = response.status().is_redirection();
        let size = header("x-linked-size").or(header("content-length").filter(|_| !is_elsewhere));
        let location = if is_elsewhere { target(&url, response.headers()) } else { None };
        Ok(Remote {
            etag: etag.into(),
            commit: commit.into(),
            size: size.and_then(|size| size.parse().ok()),
            url: location.unwrap_or(url),
        })
    }

    /// The bytes of the file at `url` from `start` on.
    pub fn read(&self, url: &str, start: u64) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..=REDIRECTS {
            let response = self.send(false, &url, Some(start))?;
            match target(&url, response.headers()).filter(|_| response.status().is_redirection()) {
                Some(next) => url = next,
                None => return self.judged(&url, response),
            }
        }
        Err(Failure::lasting(format!("{} redirects in a circle", shown(&url))))
    }

    /// A failure of a request or of an answer's body.
    pub fn failure(&self, url: &str, error: ureq::Error) -> Failure {
        let what = match &error {
            ureq::Error::Io(e) => e.to_string(),
            ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
            ureq::Error::HostNotFound => "no such host; is the network available?".into(),
            ureq::Error::Rustls(e) => format!("{e} (SSL_CERT_FILE names certificates of your own to trust)"),
            other => other.to_string(),
        };
        Failure::broken(format!("cannot reach {}: {}", shown(url), self.settings.scrubbed(&what)))
    }

    /// Repeats what fails in passing.
    fn patiently<T>(&self, retries: RetryPolicy, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut nth = 1;
        loop {
            match ask() {
                Err(failure) if failure.passes() && nth < ATTEMPTS && retries >= failure.asks() => {
                    failure.pause(nth);
                    nth += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Follows redirects to an answer, or to one that tells of a file elsewhere; the URL that gave it beside it.
    fn follow(&self, head: bool, url: &str) -> Result<(String, Response<Body>), Failure> {
        let mut url = url.to_string();
        for _ in 0..=REDIRECTS {
            let response = self.send(head, &url, None)?;
            let next = target(&url, response.headers()).filter(|_| response.status().is_redirection());
            let has = |name: &str| response.headers().contains_key(name);
            let tells = head && (has("x-linked-etag") || has("etag") && next.as_deref().and_then(origin) != origin(&url));
            match next {
                // A renamed repo is elsewhere on the hub; a large file on a content network, which says less of it.
                Some(next) if !tells => url = next,
                Some(_) => return Ok((url, response)),
                None => return Ok((url.clone(), self.judged(&url, response)?)),
            }
        }
        Err(Failure::lasting(format!("{} redirects in a circle", shown(&url))))
    }

    /// One request. The token goes to the hub and nowhere else.
    fn send(&self, head: bool, url: &str, start: Option<u64>) -> Result<Response<Body>, Failure> {
        let Settings { endpoint, token, etag_timeout, download_timeout, .. } = &self.settings;
        let uri: Uri = url.parse().map_err(|_| Failure::lasting(format!("{} is not a URL", shown(url))))?;
        let timeout = Some(if start.is_some() { *download_timeout } else { *etag_timeout });
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        // The lengths that are compared are those of the file.
        request = request.header("Accept-Encoding", "identity");
        if let Some((token, _)) = token.as_ref().filter(|_| origin(url) == origin(endpoint)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(start) = start.filter(|start| *start > 0) {
            request = request.header("Range", format!("bytes={start}-"));
        }
        tracing::debug!(
            "{} {}{}",
            if head { "HEAD" } else { "GET" },
            shown(url),
            start.map_or(String::new(), |s| format!(" from {s}"))
        );
        let answer = request
            .config()
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .proxy(self.settings.proxy_for(&uri))
            .build()
            .call()
            .map_err(|e| self.failure(url, e))?;
        // It was not asked for: what unfolds here may be a thousand times what was sent.
        match answer.headers().get("content-encoding").filter(|encoding| encoding.as_bytes() != b"identity") {
            Some(encoding) => Err(Failure::lasting(format!(
                "{} sends its answer in the encoding {:?}, which zotune did not ask for",
                shown(url),
                encoding.to_str().unwrap_or("?")
            ))),
            None => Ok(answer),
        }
    }

    /// An answer that is one, or why it is not.
    fn judged(&self, url: &str, response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let message = header("x-error-message").map_or(String::new(), |m| format!(": {}", self.settings.scrubbed(m)));
        Err(Failure {
            status: Some(status.as_u16()),
            code: header("x-error-code").unwrap_or_default().into(),
            say: format!("{} answers {status}{message}", shown(url)),
            wait: header("retry-after")
                .or(header("ratelimit").and_then(reset))
                .and_then(|s| s.parse().ok())
                .map(Duration::from_secs),
        })
    }

    fn no_hub(&self, url: &str) -> Failure {
        Failure::lasting(format!("{} does not answer like the hub; is HF_ENDPOINT right?", shown(url)))
    }
}

/// Seconds until a window opens again, out of `"api";r=0;t=55`.
fn reset(ratelimit: &str) -> Option<&str> {
    ratelimit.split(';').find_map(|part| part.trim().strip_prefix("t="))
}

/// Where an answer sends on to.
fn target(url: &str, headers: &HeaderMap) -> Option<String> {
    let location = headers.get("location")?.to_str().ok()?;
    match location.starts_with('/') && !location.starts_with("//") {
        true => Some(format!("{}{location}", base(url)?)),
        false => location.parse::<Uri>().ok().filter(|u| u.scheme().is_some()).map(|_| location.to_string()),
    }
}

/// `scheme://authority`, with a name and password if there is one.
fn base(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |i| start + i);
    Some(&url[..end])
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, Option<u16>)> {
    let uri: Uri = url.parse().ok()?;
    let port = uri.port_u16().or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    Some((uri.scheme_str()?.to_lowercase(), uri.host()?.to_lowercase(), port))
}

/// A part of a path as URLs have it.
fn encoded(part: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    part.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Where the bytes of an answer begin in the file, and how long it says the file is.
pub fn stretch(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    if response.status().as_u16() != 206 {
        return Some((0, header("content-length").and_then(|len| len.parse().ok())));
    }
    let (span, total) = header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_and_paths_are_taken_as_they_are_meant() {
        let to = |location: &str| {
            let headers = HeaderMap::from_iter([(ureq::http::header::LOCATION, location.parse().unwrap())]);
            target("http://me:pass@hub:1/a/b?c", &headers)
        };
        assert_eq!(to("/d?e").as_deref(), Some("http://me:pass@hub:1/d?e"));
        assert_eq!(to("https://cdn/x?Signature=y").as_deref(), Some("https://cdn/x?Signature=y"));
        assert_eq!((to("//cdn/x"), to("x")), (None, None));
        assert_eq!(origin("https://Hub/a"), origin("https://me:pass@hub:443/b?c"));
        assert_ne!(origin("http://hub:1/a"), origin("http://hub:2/a"));
        assert_eq!(encoded("a b#é+.txt"), "a%20b%23%C3%A9%2B.txt");
        assert_eq!(reset("\"api\";r=0;t=55"), Some("55"));
    }
}
