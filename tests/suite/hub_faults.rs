//! A hub that is busy, breaks off, sends something else or tells lies.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::hub_server::{Answer, Request, etag, file};
use crate::support::hub_home::{EVAL, Home, hub, lines, weights};
use crate::support::{fixture, stderr};

#[test]
fn a_busy_hub_is_asked_again_and_then_given_up() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    hub.play(|_| Some(Answer::refusal(429, "").with("Retry-After", 0)));
    let said = home.refused(&hub, &[])?;
    assert!(said.contains("too many requests from here") && said.contains("answers 429"), "{said}");
    assert_eq!(hub.requests().len(), 5);
    // One that wants to be left alone for an hour is not waited for.
    hub.play(|_| Some(Answer::refusal(429, "").with("RateLimit", "\"api\";r=0;t=3600")));
    home.refused(&hub, &[])?;
    assert_eq!(hub.requests().len(), 1);
    // Everything is refused twice, then given.
    let seen = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    hub.play(move |request| {
        let mut seen = seen.lock().unwrap();
        let times = seen.entry(request.line()).or_default();
        *times += 1;
        (*times <= 2).then(|| Answer::refusal(if *times == 1 { 429 } else { 503 }, "").with("Retry-After", 0))
    });
    home.eval(&hub, &[]).map(drop)
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_broke() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let whole = Home::new()?.eval(&hub, &[])?;
    let (bytes, hash) = weights()?;
    hub.requests();
    // Every answer is cut behind 10,000 bytes.
    let body = bytes.clone();
    hub.play(move |r| r.is_cdn.then(|| Answer { cut: Some(10_000), ..file(r, &body) }));
    assert_eq!(home.eval(&hub, &[])?, whole);
    let ranges: Vec<String> =
        hub.requests().iter().filter(|r| r.is_cdn).map(|r| r.header("range").unwrap_or("all").to_string()).collect();
    assert_eq!(ranges, ["all", "bytes=10000-", "bytes=20000-"]);
    assert_eq!(std::fs::read(home.cached().join("blobs").join(hash))?, bytes);
    Ok(())
}

/// The whole breaks off at one place, and the rest is refused: each second answer looks like progress, and none is.
#[test]
fn a_download_that_turns_in_a_circle_is_given_up() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, _) = weights()?;
    hub.play(move |r| {
        r.is_cdn.then(|| match r.header("range") {
            Some(_) => Answer::new(416, ""),
            None => Answer { cut: Some(10_000), ..file(r, &bytes) },
        })
    });
    assert!(!home.refused(&hub, &[])?.is_empty());
    assert!(hub.count(|r| r.is_cdn) < 12);
    Ok(())
}

#[test]
fn a_download_that_is_given_up_is_kept_and_gone_on_with() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, hash) = weights()?;
    let body = bytes.clone();
    // Nothing comes behind byte 9,000, however often it is asked for.
    hub.play(move |r| {
        let start = if r.header("range").is_some() { 0 } else { 9_000 };
        r.is_cdn.then(|| Answer { cut: Some(start), ..file(r, &body) })
    });
    let said = home.refused(&hub, &[])?;
    assert!(said.contains("pytorch_model.bin") && said.contains("the same command continues from there"), "{said}");
    assert!(home.blobs().contains(&format!("{hash}.incomplete")) && !home.blobs().contains(&hash), "{:?}", home.blobs());
    hub.behave();
    hub.requests();
    home.eval(&hub, &[])?;
    let asked: Vec<Request> = hub.requests().into_iter().filter(|r| r.is_cdn).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some("bytes=9000-"));
    assert_eq!(home.blobs().iter().filter(|name| name.contains("incomplete")).count(), 0);
    Ok(())
}

/// What a killed process leaves, a part and a lock, is gone on with; and only if it is of the same content.
#[test]
fn a_killed_process_leaves_what_the_next_goes_on_with() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, hash) = weights()?;
    let body = bytes.clone();
    hub.play(move |r| r.is_cdn.then(|| Answer { stall: Some(7_000), ..file(r, &body) }));
    let mut child = home.command(&hub, &EVAL, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let part = home.cached().join("blobs").join(format!("{hash}.incomplete"));
    while !part.metadata().is_ok_and(|m| m.len() == 7_000) {
        anyhow::ensure!(child.try_wait()?.is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    let lock = home.path().join(format!("hf/hub/.locks/models--facebook--opt-tiny/{hash}.lock"));
    assert!(lock.is_file());
    // Another part beside it, of a content that the hub no longer has.
    std::fs::write(home.cached().join("blobs").join(format!("{}.incomplete", "0".repeat(64))), "other")?;
    hub.behave();
    hub.requests();
    home.eval(&hub, &[])?;
    let asked: Vec<Request> = hub.requests().into_iter().filter(|r| r.is_cdn).collect();
    assert_eq!(lines(&asked), [format!("GET /{hash}?Signature=signed-for-you bytes=7000-")]);
    Ok(())
}

/// A lock that is held is another process that downloads: it is waited for, and then nothing is left to fetch.
#[cfg(unix)]
#[test]
fn another_process_that_downloads_is_waited_for() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, hash) = weights()?;
    let lock = home.path().join(format!("hf/hub/.locks/models--facebook--opt-tiny/{hash}.lock"));
    std::fs::create_dir_all(lock.parent().unwrap())?;
    let held = std::fs::File::create(&lock)?;
    held.lock()?;
    let mut child = home.command(&hub, &EVAL, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for another process") {
        line.clear();
        anyhow::ensure!(std::io::BufRead::read_line(&mut said, &mut line)? > 0, "it did not wait");
    }
    std::fs::write(home.cached().join("blobs").join(&hash), &bytes)?;
    drop(held);
    std::io::copy(&mut said, &mut std::io::sink())?;
    assert!(child.wait()?.success());
    assert_eq!(hub.count(|r| r.is_cdn), 0);
    Ok(())
}

#[test]
fn contents_of_a_wrong_length_and_damaged_ones_are_not_kept() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, hash) = weights()?;
    type Spoil = fn(&[u8]) -> Vec<u8>;
    let cases: [(Spoil, &str); 3] = [
        (|bytes| bytes[..bytes.len() - 1].to_vec(), "its length is wrong"),
        (|bytes| [bytes, b"more"].concat(), "its length is wrong"),
        (|bytes| [b"X", &bytes[1..]].concat(), "the download is damaged"),
    ];
    for (spoil, expected) in cases {
        let body = spoil(&bytes);
        hub.play(move |r| r.is_cdn.then(|| file(r, &body)));
        let said = home.refused(&hub, &[])?;
        assert!(said.contains(expected) && said.contains("nothing was kept"), "{said}");
        assert!(!home.blobs().iter().any(|name| name.starts_with(&hash)), "{:?}", home.blobs());
    }
    // A small file has no hash, but a length.
    hub.play(|r| {
        (r.method == "GET" && r.target.ends_with("/vocab.json"))
            .then(|| Answer { length: Some(3), ..Answer::new(200, "{}}") })
    });
    let said = Home::new()?.refused(&hub, &[])?;
    assert!(said.contains("vocab.json: its length is wrong"), "{said}");

    // Rubbish that was left as a part is found out by the hash, and fetched anew.
    hub.behave();
    std::fs::write(home.cached().join("blobs").join(format!("{hash}.incomplete")), vec![b'x'; 5_000])?;
    home.eval(&hub, &[])?;
    // As is one that is longer than the file.
    let home = Home::new()?;
    std::fs::create_dir_all(home.cached().join("blobs"))?;
    std::fs::write(home.cached().join("blobs").join(format!("{hash}.incomplete")), vec![b'x'; 50_000])?;
    home.eval(&hub, &[])?;
    // And a server that knows no ranges begins anew.
    let home = Home::new()?;
    std::fs::create_dir_all(home.cached().join("blobs"))?;
    std::fs::write(home.cached().join("blobs").join(format!("{hash}.incomplete")), &bytes[..5_000])?;
    hub.play(move |r| r.is_cdn.then(|| Answer::new(200, bytes.clone())));
    home.eval(&hub, &[]).map(drop)
}

/// An address on the content network is valid for a while; when it is over, the hub gives another.
#[test]
fn an_address_that_has_run_out_is_asked_for_anew() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, _) = weights()?;
    let times = AtomicUsize::new(0);
    hub.play(move |r| {
        r.is_cdn.then(|| match times.fetch_add(1, Ordering::SeqCst) {
            0 => Answer { cut: Some(8_000), ..file(r, &bytes) },
            1 => Answer::new(403, "expired"),
            _ => file(r, &bytes),
        })
    });
    home.eval(&hub, &[])?;
    assert_eq!(hub.count(|r| r.method == "HEAD" && r.target.ends_with("pytorch_model.bin")), 2);
    Ok(())
}

/// The largest file in a cache.
fn largest(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.path() {
        path if path.is_dir() && !path.is_symlink() => largest(&path),
        path => path.metadata().map_or(0, |metadata| metadata.len()),
    });
    sizes.max().unwrap_or(0)
}

/// A config.json of which nobody says how long it is, and which does not end; and one that unfolds to a thousand times what is sent.
#[test]
fn a_small_file_that_does_not_end_is_given_up() -> Result<()> {
    use std::io::Write;
    let (hub, home) = (hub()?, Home::new()?);
    let usual = hub.usual();
    let is_config = |request: &Request| request.target.contains("resolve") && request.target.ends_with("config.json");
    hub.play(move |request| {
        let answer = usual(request).filter(|answer| is_config(request) && answer.status == 200)?;
        Some(Answer { times: Some(4096), body: vec![b' '; 1 << 20], ..answer })
    });
    let said = home.refused(&hub, &[])?;
    assert!(
        said.contains("it is longer than 67108864 bytes") && said.contains("whose length the hub does not say"),
        "{said}"
    );
    assert!(largest(home.path()) < 1 << 20);

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    (0..200).try_for_each(|_| encoder.write_all(&vec![b' '; 1 << 20]))?;
    let (usual, body) = (hub.usual(), encoder.finish()?);
    assert!(body.len() < 2 << 20);
    hub.play(move |request| {
        let answer = usual(request).filter(|answer| is_config(request) && answer.status == 200)?;
        Some(Answer { body: body.clone(), ..answer }.with("Content-Encoding", "gzip"))
    });
    let said = home.refused(&hub, &[])?;
    assert!(said.contains("cannot download") && said.contains("config.json"), "{said}");
    assert!(largest(home.path()) < 1 << 20);
    Ok(())
}

/// Small files have git's hash for a name: what comes damaged is refused, and what an earlier process left of something else is begun anew.
#[test]
fn small_files_are_held_to_gits_hash() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let usual = hub.usual();
    hub.play(move |request| {
        let mut answer = usual(request).filter(|answer| request.target.ends_with("/config.json") && answer.status == 200)?;
        let middle = answer.body.len() / 2;
        answer.body[middle] ^= 1;
        Some(answer)
    });
    let said = home.refused(&hub, &[])?;
    assert!(said.contains("the download is damaged: its git hash is"), "{said}");
    hub.behave();
    let config = std::fs::read(fixture("opt-350m-tiny").join("config.json"))?;
    let name = etag("config.json", &config);
    std::fs::create_dir_all(home.cached().join("blobs"))?;
    std::fs::write(home.cached().join("blobs").join(format!("{name}.incomplete")), vec![b'x'; 100])?;
    home.eval(&hub, &[])?;
    assert_eq!(std::fs::read(home.cached().join("blobs").join(&name))?, config);
    Ok(())
}

/// Six processes that begin at once with nothing in the cache: none sees a file missing that another is putting in its place.
#[test]
fn processes_that_begin_at_once_do_not_take_files_from_each_other() -> Result<()> {
    let hub = hub()?;
    for _ in 0..3 {
        let home = Home::new()?;
        let begin = || home.command(&hub, &EVAL, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let begun: Vec<_> = (0..6).map(|_| begin()).collect::<std::io::Result<_>>()?;
        for process in begun {
            let output = process.wait_with_output()?;
            assert!(output.status.success(), "{}", stderr(&output));
        }
    }
    Ok(())
}
