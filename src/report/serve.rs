//! A server on this machine that keeps the page of running runs current.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::escape::html;
use super::goal::Goal;
use super::page::page;
use super::runs::{READ, folders};
use super::summary::Report;

/// The longest request line and header that is read.
const MOST_BYTES: u64 = 16 << 10;

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a page is made of.
pub struct Watched {
    /// The places of the runs.
    pub places: Vec<String>,
    /// The target losses, if given.
    pub to_loss: Vec<Goal>,
    /// The baseline, if given.
    pub baseline: Option<String>,
}

/// The page, and the state of the files that it was made from.
struct Current {
    watched: Watched,
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
    version: u64,
    page: String,
}

/// A server that has its port.
pub struct Server {
    listener: TcpListener,
    current: Arc<Mutex<Current>>,
}

impl Server {
    /// Makes the first page and takes the port; 0: a free one. Fails as [`Report::of`] does, and with a usage error if the
    /// port cannot be had.
    pub fn start(watched: Watched, port: u16) -> Result<Self> {
        let mut current = Current { watched, files: Vec::new(), version: 0, page: String::new() };
        current.renew()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                usage!("`port {port}` is in use on 127.0.0.1; choose another, or 0 for a free one")
            }
            _ => usage!("`port {port}` of 127.0.0.1 cannot be used: {e}"),
        })?;
        Ok(Server { listener, current: Arc::new(Mutex::new(current)) })
    }

    /// Where the page is.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers requests until the process ends. A browser opens connections before it needs them, so each has a thread.
    pub fn run(&self) -> Result<()> {
        for stream in self.listener.incoming() {
            let Ok(stream) = stream else { continue };
            let current = self.current.clone();
            let answer = move || {
                // A reader that went away needs no answer.
                let _ = answer(stream, &current);
            };
            // Where no thread is to be had, the browser asks again.
            let _ = std::thread::Builder::new().name("report".into()).spawn(answer);
        }
        Ok(())
    }
}

impl Current {
    /// Makes the page anew if a file has changed. The version counts the pages.
    fn renew(&mut self) -> Result<()> {
        let files = self.state()?;
        if files != self.files {
            let Watched { places, to_loss, baseline } = &self.watched;
            let report = Report::of(places, to_loss, baseline.as_deref())?;
            self.page = page(&report, Some(self.version + 1));
            self.version += 1;
            self.files = files;
        }
        Ok(())
    }

    /// The size and the time of every file that a report reads.
    fn state(&self) -> Result<Vec<(PathBuf, u64, Option<SystemTime>)>> {
        let mut files = Vec::new();
        for folder in folders(&self.watched.places)?.0 {
            for name in READ {
                let path = folder.join(name);
                let found = std::fs::metadata(&path).ok();
                files.push((path, found.as_ref().map_or(0, |f| f.len()), found.and_then(|f| f.modified().ok())));
            }
        }
        Ok(files)
    }
}

/// Answers one request: `/` is the page, `/version` the number of its state.
fn answer(mut stream: TcpStream, current: &Mutex<Current>) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(MOST_BYTES)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut host = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("host")) {
            host = Some(value.trim().to_string());
        }
    }
    let (status, kind, body) = respond(&request, host.as_deref(), current);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(stream.flush()?)
}

/// The status, the type and the body for a request line.
fn respond(request: &str, host: Option<&str>, current: &Mutex<Current>) -> (&'static str, &'static str, String) {
    // Another site's name that leads here must not read the page.
    let name = host.map_or("", |host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    if !["127.0.0.1", "localhost"].contains(&name) {
        return ("403 Forbidden", "text/plain", "this server answers to 127.0.0.1 only\n".into());
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next(), words.next());
    if method != Some("GET") {
        return ("405 Method Not Allowed", "text/plain", "only GET\n".into());
    }
    // A panic of another request leaves whole values.
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    let renewed = current.renew();
    match (path, renewed) {
        (Some("/version"), Ok(())) => ("200 OK", "text/plain", current.version.to_string()),
        (Some("/"), Ok(())) => ("200 OK", "text/html", current.page.clone()),
        (Some("/" | "/version"), Err(error)) => {
            let said =
                format!("<!DOCTYPE html><meta http-equiv=\"refresh\" content=\"5\"><p>{}</p>", html(&format!("{error:#}")));
            ("500 Internal Server Error", "text/html", said)
        }
        _ => ("404 Not Found", "text/plain", "there is only /\n".into()),
    }
}
