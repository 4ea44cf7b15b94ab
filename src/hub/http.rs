//! Requests to the hub: timeouts, proxies, redirects that do not carry the token, and the meaning of error responses.

use std::time::Duration;

use anyhow::Result;
use hf_hub::api::RepoInfo;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::cache::is_commit;
use super::repo::Repo;
use super::settings::{Settings, shown};

/// Redirects followed per request.
const REDIRECTS: usize = 5;

/// Attempts per request on transient failures.
pub const ATTEMPTS: u32 = 5;

/// The longest `Retry-After` that is honoured.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Which transient failures are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryPolicy {
    /// No retries: the cache can be used instead.
    None,
    /// Error responses of a busy hub. A missing response is not retried: there may be no network.
    Busy,
    /// Missing responses too: the hub responded a moment ago.
    Silent,
}

/// An HTTP client of the hub.
pub struct Client {
    agent: Agent,
    settings: Settings,
}

/// A failed request.
#[derive(Debug, Default)]
pub struct Failure {
    /// The status of the response; None: no response, or the connection broke. 0: an error found on this side.
    pub status: Option<u16>,
    /// The hub's error code: `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
    pub code: String,
    /// What happened, with secrets removed.
    pub say: String,
    /// The delay the hub asks for.
    wait: Option<Duration>,
}

impl Failure {
    /// A failure that retrying does not fix.
    pub fn lasting(say: String) -> Self {
        Failure { status: Some(0), say, ..Failure::default() }
    }

    /// A failure without a response, or whose response broke off.
    pub fn broken(say: String) -> Self {
        Failure { say, ..Failure::default() }
    }

    /// Whether it is transient.
    pub fn is_transient(&self) -> bool {
        matches!(self.status, None | Some(408 | 429 | 500..=599)) && self.wait.is_none_or(|wait| wait <= LONGEST_WAIT)
    }

    /// The weakest policy that retries it.
    fn policy(&self) -> RetryPolicy {
        if self.status.is_none() { RetryPolicy::Silent } else { RetryPolicy::Busy }
    }

    /// Sleeps before the `nth` retry, counted from 1: as long as the hub asks for, else 250 ms * 2^`nth`.
    pub fn pause(&self, nth: u32) {
        let wait = self.wait.unwrap_or(Duration::from_millis(250 << nth.min(6)));
        if wait > Duration::from_secs(5) {
            tracing::warn!("{}; trying again in {} s", self.say, wait.as_secs());
        }
        std::thread::sleep(wait);
    }
}

/// The metadata of a file on the hub.
pub struct Remote {
    /// The URL of its bytes.
    pub url: String,
    /// Identifies the content: SHA-256 of a large file, the git hash of a small one. Checked to be a valid file name.
    pub etag: String,
    /// The commit it belongs to.
    pub commit: String,
    /// Its length in bytes, if the hub reports one.
    pub size: Option<u64>,
}

impl Client {
    /// A client with these settings. Fails if SSL_CERT_FILE cannot be read or holds no certificate.
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

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit of a repo's revision and the names of its files.
    pub fn describe(&self, repo: &Repo, retries: RetryPolicy) -> Result<RepoInfo, Failure> {
        let url = format!("{}/api/{}", self.settings.endpoint, repo.named().api_url());
        let (_, mut response) = self.with_retries(retries, || self.follow(false, &url))?;
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().map_err(|e| self.failure(&url, e))?;
        let info = serde_json::from_slice::<RepoInfo>(&body).ok().filter(|info| is_commit(&info.sha));
        info.ok_or_else(|| self.not_a_hub(&url))
    }

    /// The metadata of a file at a repo's revision.
    pub fn look_up(&self, repo: &Repo, name: &str, retries: RetryPolicy) -> Result<Remote, Failure> {
        let named = repo.named();
        let path: Vec<String> = name.split('/').map(encoded).collect();
        let url = format!("{}/{}/resolve/{}/{}", self.settings.endpoint, named.url(), named.url_revision(), path.join("/"));
        let (url, response) = self.with_retries(retries, || self.follow(true, &url))?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let etag = header("x-linked-etag").or(header("etag")).map(|e| e.trim_start_matches("W/").trim_matches('"'));
        let is_name = |etag: &&str| {
            (1..=200).contains(&etag.len())
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !etag.starts_with('.')
        };
        let commit = header("x-repo-commit").or(Some(repo.revision())).filter(|commit| is_commit(commit));
        let (Some(etag), Some(commit)) = (etag.filter(is_name), commit) else { return Err(self.not_a_hub(&url)) };
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

    /// The bytes of the file at `url` from offset `start` on.
    pub fn read(&self, url: &str, start: u64) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..=REDIRECTS {
            let response = self.send(false, &url, Some(start))?;
            match target(&url, response.headers()).filter(|_| response.status().is_redirection()) {
                Some(next) => url = next,
                None => return self.checked(&url, response),
            }
        }
        Err(Failure::lasting(format!("{} redirects in a circle", shown(&url))))
    }

    /// A failure of a request, or of reading the response's body.
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

    /// Retries transient failures as `retries` allows.
    fn with_retries<T>(&self, retries: RetryPolicy, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut nth = 1;
        loop {
            match ask() {
                Err(failure) if failure.is_transient() && nth < ATTEMPTS && retries >= failure.policy() => {
                    failure.pause(nth);
                    nth += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Follows redirects to a response, or to a redirect with the metadata of a file elsewhere. Returns its URL with
    /// it.
    fn follow(&self, head: bool, url: &str) -> Result<(String, Response<Body>), Failure> {
        let mut url = url.to_string();
        for _ in 0..=REDIRECTS {
            let response = self.send(head, &url, None)?;
            let next = target(&url, response.headers()).filter(|_| response.status().is_redirection());
            let has = |name: &str| response.headers().contains_key(name);
            let tells = head && (has("x-linked-etag") || has("etag") && next.as_deref().and_then(origin) != origin(&url));
            match next {
                // A renamed repo redirects within the hub; a large file to a CDN, whose response has less metadata.
                Some(next) if !tells => url = next,
                Some(_) => return Ok((url, response)),
                None => return Ok((url.clone(), self.checked(&url, response)?)),
            }
        }
        Err(Failure::lasting(format!("{} redirects in a circle", shown(&url))))
    }

    /// Sends one request. Only the hub gets the token.
    fn send(&self, head: bool, url: &str, start: Option<u64>) -> Result<Response<Body>, Failure> {
        let Settings { endpoint, token, etag_timeout, download_timeout, .. } = &self.settings;
        let uri: Uri = url.parse().map_err(|_| Failure::lasting(format!("{} is not a URL", shown(url))))?;
        let timeout = Some(if start.is_some() { *download_timeout } else { *etag_timeout });
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        // Content-Length must be the length of the file itself.
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
        // Compression was not requested, and decompressing could expand the body a thousandfold.
        match answer.headers().get("content-encoding").filter(|encoding| encoding.as_bytes() != b"identity") {
            Some(encoding) => Err(Failure::lasting(format!(
                "{} sends its answer in the encoding {:?}, which zotune did not ask for",
                shown(url),
                encoding.to_str().unwrap_or("?")
            ))),
            None => Ok(answer),
        }
    }

    /// The response if its status is a success, else the failure it reports.
    fn checked(&self, url: &str, response: Response<Body>) -> Result<Response<Body>, Failure> {
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

    fn not_a_hub(&self, url: &str) -> Failure {
        Failure::lasting(format!("{} does not answer like the hub; is HF_ENDPOINT right?", shown(url)))
    }
}

/// Seconds until the rate limit resets, from `"api";r=0;t=55`.
fn reset(ratelimit: &str) -> Option<&str> {
    ratelimit.split(';').find_map(|part| part.trim().strip_prefix("t="))
}

/// The target of a redirect; None if it is neither a path nor a full URL.
fn target(url: &str, headers: &HeaderMap) -> Option<String> {
    let location = headers.get("location")?.to_str().ok()?;
    match location.starts_with('/') && !location.starts_with("//") {
        true => Some(format!("{}{location}", base(url)?)),
        false => location.parse::<Uri>().ok().filter(|u| u.scheme().is_some()).map(|_| location.to_string()),
    }
}

/// `scheme://authority`, with the user name and password if there are any.
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

/// A path segment, percent-encoded.
fn encoded(part: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    part.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The offset of a response's body in the file, and the file's length if the response states it.
pub fn body_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
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
