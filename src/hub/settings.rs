//! The settings of the hub, from the environment variables of `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use ureq::http::Uri;

/// The variables, resolved.
pub struct Settings {
    /// The URL of the hub, without a trailing slash: `https://huggingface.co`.
    pub endpoint: String,
    /// The folder of the `models--org--name` folders.
    pub cache: PathBuf,
    /// The token, and the variable or file it comes from. Never printed.
    pub token: Option<(String, String)>,
    /// The variable that forbids the network, as set: `HF_HUB_OFFLINE=1`.
    pub offline: Option<String>,
    /// Timeout of requests for metadata.
    pub etag_timeout: Duration,
    /// Timeout of a stalled download.
    pub download_timeout: Duration,
    /// Whether progress bars are drawn.
    pub bars: bool,
    /// The proxy of the requests.
    pub proxy: Option<ureq::Proxy>,
    /// Hosts reached without the proxy.
    no_proxy: Vec<String>,
    /// PEM certificates trusted instead of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// Texts that no message may show.
    secrets: Vec<String>,
}

/// The default endpoint.
const ENDPOINT: &str = "https://huggingface.co";

impl Settings {
    /// Resolves the variables that `get` returns; an empty one counts as unset. Fails on an invalid value.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| get(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let is_on = |name: &str| get(name).is_some_and(|v| is_true(&v));
        let path = |name: &str| get(name).map(|v| expanded(&v, get("HOME").as_deref()));

        let home = path("HF_HOME").unwrap_or_else(|| {
            let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| expanded("~/.cache", get("HOME").as_deref()));
            caches.join("huggingface")
        });
        let endpoint = get("HF_ENDPOINT").unwrap_or(ENDPOINT.into()).trim_end_matches('/').to_string();
        let mut secrets = Vec::new();
        let address = address("HF_ENDPOINT", &endpoint, &mut secrets)?;
        let token = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => token(get("HF_TOKEN"), &path("HF_TOKEN_PATH").unwrap_or(home.join("token")))?,
        };
        secrets.extend(token.iter().map(|(token, _)| token.clone()));
        // The token takes precedence over credentials in the endpoint: both need the Authorization header.
        let endpoint = if token.is_some() { without_password(&endpoint) } else { endpoint };
        let scheme = if address.scheme_str() == Some("https") { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        let either = |name: &str| get(name).or(get(&name.to_lowercase()));
        let proxy = match either(scheme).map(|v| (scheme, v)).or(either("ALL_PROXY").map(|v| ("ALL_PROXY", v))) {
            Some((name, url)) => Some(proxy(name, &url, &mut secrets)?),
            None => None,
        };
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"];
        Ok(Settings {
            endpoint,
            cache: path("HF_HUB_CACHE").unwrap_or(home.join("hub")),
            token,
            offline: offline.iter().find(|name| is_on(name)).map(|name| format!("{name}={}", get(name).unwrap_or_default())),
            etag_timeout: seconds("HF_HUB_ETAG_TIMEOUT", get("HF_HUB_ETAG_TIMEOUT"))?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT", get("HF_HUB_DOWNLOAD_TIMEOUT"))?,
            bars: !is_on("HF_HUB_DISABLE_PROGRESS_BARS"),
            proxy,
            no_proxy: either("NO_PROXY").unwrap_or_default().split(',').map(|h| h.trim().to_lowercase()).collect(),
            certificates: path("SSL_CERT_FILE"),
            secrets,
        })
    }

    /// The proxy of a request to `url`.
    pub fn proxy_for(&self, url: &Uri) -> Option<ureq::Proxy> {
        let host = url.host().unwrap_or_default().to_lowercase();
        let is_direct = |rule: &String| match rule.trim_start_matches('*').trim_start_matches('.') {
            "" => rule == "*",
            domain => host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        };
        self.proxy.clone().filter(|_| !self.no_proxy.iter().any(is_direct))
    }

    /// A text without the token and the credentials of the endpoint and the proxy.
    pub fn scrubbed(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_string(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The values that `huggingface_hub` accepts as true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

fn expanded(path: &str, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => path.into(),
    }
}

fn seconds(name: &str, value: Option<String>) -> Result<Duration> {
    let Some(value) = value else { return Ok(Duration::from_secs(10)) };
    match value.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e6 => Ok(Duration::from_secs_f64(seconds)),
        Ok(0.0) => Ok(Duration::from_secs(10)),
        _ => Err(usage!("{name}={value}: it must be a number of seconds")),
    }
}

/// The token and its origin: the variable, else the file that `hf auth login` writes.
fn token(variable: Option<String>, file: &Path) -> Result<Option<(String, String)>> {
    let found = match variable {
        Some(token) => Some((token, "HF_TOKEN".to_string())),
        None => match std::fs::read_to_string(file) {
            Ok(text) => Some((text.trim().to_string(), file.display().to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                tracing::warn!("cannot read the token in {}: {e}; continuing without a token", file.display());
                None
            }
        },
    };
    let found = found.filter(|(token, _)| !token.is_empty());
    match &found {
        Some((token, place)) if !token.chars().all(|c| c.is_ascii_graphic()) => {
            Err(usage!("{place} has characters that no token has; does it hold only the token?"))
        }
        _ => Ok(found),
    }
}

/// Parses the URL in a variable. Its credentials are added to `secrets`; the error does not show them.
fn address(name: &str, url: &str, secrets: &mut Vec<String>) -> Result<Uri> {
    let parsed = url.parse::<Uri>().ok().filter(|u| u.host().is_some() && matches!(u.scheme_str(), Some("http" | "https")));
    let Some(parsed) = parsed else {
        return Err(usage!("{name}={}: it must be a URL, as in {ENDPOINT}", without_password(url)));
    };
    secrets.extend(password(url).map(str::to_string));
    Ok(parsed)
}

fn proxy(name: &str, url: &str, secrets: &mut Vec<String>) -> Result<ureq::Proxy> {
    secrets.extend(password(url).map(str::to_string));
    ureq::Proxy::new(url).map_err(|_| usage!("{name}={}: it must be a URL, as in http://proxy:3128", without_password(url)))
}

/// The `name:password` of a URL, if any.
fn password(url: &str) -> Option<&str> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    Some(authority.rsplit_once('@')?.0).filter(|p| !p.is_empty())
}

fn without_password(url: &str) -> String {
    password(url).map_or(url.to_string(), |password| url.replacen(&format!("{password}@"), "", 1))
}

/// A URL for messages, without credentials and without the query, which may hold a CDN's signature.
pub fn shown(url: &str) -> String {
    without_password(url.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
        Settings::read(&|name| find(name).or((name == "HOME").then(|| "/none".into())))
    }

    #[test]
    fn the_cache_is_where_python_has_it() -> Result<()> {
        for (variables, cache) in [
            (&[][..], "/none/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")], "/none/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/hub"),
        ] {
            assert_eq!(read(variables)?.cache, Path::new(cache), "{variables:?}");
        }
        Ok(())
    }

    #[test]
    fn tokens_come_from_the_variable_then_the_file_and_can_be_kept_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n")?;
        std::fs::write(folder.path().join("other"), "hf_other")?;
        let token = |variables: &[(&str, &str)]| -> Result<Option<String>> {
            Ok(read(&[variables, &[("HF_HOME", home)]].concat())?.token.map(|t| t.0))
        };
        let other = folder.path().join("other");
        assert_eq!(token(&[])?.as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", " hf_a ")])?.as_deref(), Some("hf_a"));
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())])?.as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")])?, None);
        let error = token(&[("HF_TOKEN", "hf_a b")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN has characters") && !error.contains("hf_a"), "{error}");
        Ok(())
    }

    #[test]
    fn endpoints_lose_their_slash_and_never_show_a_password() -> Result<()> {
        let settings = read(&[("HF_ENDPOINT", "http://me:pass@mirror:8080/hub/"), ("HTTP_PROXY", "http://you:word@p:1")])?;
        assert_eq!(shown(&settings.endpoint), "http://mirror:8080/hub");
        assert_eq!(settings.scrubbed("at me:pass, through you:word"), "at ***, through ***");
        assert_eq!(shown("https://cdn/a?Signature=x#y"), "https://cdn/a");
        let error = read(&[("HF_ENDPOINT", "ftp://me:pass@mirror")]).err().unwrap().to_string();
        assert_eq!(error, "HF_ENDPOINT=ftp://mirror: it must be a URL, as in https://huggingface.co");
        Ok(())
    }

    #[test]
    fn proxies_go_by_the_scheme_and_spare_the_hosts_that_are_named() -> Result<()> {
        let through = |variables: &[(&str, &str)], url: &str| -> Result<bool> {
            Ok(read(variables)?.proxy_for(&url.parse()?).is_some())
        };
        let proxy = ("HTTPS_PROXY", "http://p:1");
        assert!(through(&[proxy], "https://huggingface.co/a")?);
        assert!(through(&[("https_proxy", "http://p:1")], "https://huggingface.co/a")?);
        assert!(through(&[("ALL_PROXY", "http://p:1")], "https://huggingface.co/a")?);
        assert!(!through(&[("HTTP_PROXY", "http://p:1")], "https://huggingface.co/a")?);
        for spared in ["huggingface.co", "a.b, .huggingface.co", "*", "co", "*.co"] {
            assert!(!through(&[proxy, ("NO_PROXY", spared)], "https://huggingface.co/a")?, "{spared}");
        }
        assert!(through(&[proxy, ("NO_PROXY", "face.co")], "https://huggingface.co/a")?);
        Ok(())
    }

    #[test]
    fn any_of_three_variables_forbids_the_network() -> Result<()> {
        assert_eq!(read(&[("TRANSFORMERS_OFFLINE", "Yes")])?.offline.as_deref(), Some("TRANSFORMERS_OFFLINE=Yes"));
        assert_eq!(read(&[("HF_HUB_OFFLINE", "0")])?.offline, None);
        assert_eq!(read(&[("HF_HUB_ETAG_TIMEOUT", "2")])?.etag_timeout, Duration::from_secs(2));
        assert!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
        Ok(())
    }
}
