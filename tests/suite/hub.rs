//! Models and data sets from the hub: a server on 127.0.0.1 plays it, and the built binary is the client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use serde_json::Value;

use crate::hub_server::{Answer, Hub, Repo, Request, etag, file};
use crate::support::{Column, fixture, stderr, write_parquet};

const ID: &str = "facebook/opt-tiny";
const COMMIT: &str = "27dcfa74d334bc871f3234de431e71c6eeba5dd6";
const NEXT: &str = "0123456789abcdef0123456789abcdef01234567";

const TOKENIZER: &str = r#"{"tokenizer_class":"GPT2Tokenizer","add_bos_token":true,"bos_token":"</s>","eos_token":"</s>"}"#;

/// The files of a fixture with a tokenizer beside them, and all that a repo of OPT's has and nobody here wants.
fn files(name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(fixture(name))? {
        let path = entry?.path();
        files.insert(path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path)?);
    }
    let letters = "\u{120}abcdefghijklmnopqrstuvwxyz.,'!?";
    let tokens = ["<s>", "<pad>", "</s>", "<unk>"].into_iter().map(String::from).chain(letters.chars().map(String::from));
    let vocabulary: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    files.insert("vocab.json".into(), Value::Object(vocabulary).to_string().into());
    files.insert("merges.txt".into(), "#version: 0.2\n".into());
    files.insert("tokenizer_config.json".into(), TOKENIZER.into());
    for other in ["flax_model.msgpack", "tf_model.h5", "README.md", ".gitattributes", "onnx/model.onnx"] {
        files.insert(other.into(), b"not for us".into());
    }
    Ok(files)
}

/// A hub with an OPT whose weights are a pickle, as OPT's are.
fn hub() -> Result<Hub> {
    Hub::start(Repo::new(&format!("models/{ID}"), COMMIT, files("opt-350m-tiny")?))
}

/// Somebody's machine: an empty home, and no variables but those that are given.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Result<Self> {
        Ok(Home { folder: tempfile::tempdir()? })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `models--org--name` in its cache.
    fn cached(&self) -> PathBuf {
        self.path().join("hf/hub/models--facebook--opt-tiny")
    }

    fn blobs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cached().join("blobs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn command(&self, hub: &Hub, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zotune"));
        command.args(args).current_dir(self.path()).env_clear().env("RAYON_NUM_THREADS", "2");
        command.env("HOME", self.path()).env("HF_HOME", self.path().join("hf")).env("HF_ENDPOINT", &hub.url);
        command.envs(variables.iter().copied());
        command
    }

    fn run(&self, hub: &Hub, args: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        Ok(self.command(hub, args, variables).output()?)
    }

    /// Scores the model: what came out.
    fn eval(&self, hub: &Hub, variables: &[(&str, &str)]) -> Result<Value> {
        let output = self.run(hub, &EVAL, variables)?;
        anyhow::ensure!(output.status.success(), "{}", stderr(&output));
        let all: Value = serde_json::from_slice(&output.stdout)?;
        Ok(serde_json::json!([all["accuracy"], all["loss"]]))
    }

    /// Scores a model that cannot be had: what is said.
    fn refused(&self, hub: &Hub, variables: &[(&str, &str)]) -> Result<String> {
        let output = self.run(hub, &EVAL, variables)?;
        anyhow::ensure!(output.status.code() == Some(5), "{:?}: {}", output.status, stderr(&output));
        Ok(stderr(&output))
    }
}

const EVAL: [&str; 8] = ["eval", "--model", ID, "--task", "reviews", "--num-eval", "4", "--json"];

fn lines(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::line).collect()
}

/// The pickle, its etag, and whether a request is for its bytes.
fn weights() -> Result<(Vec<u8>, String)> {
    let bytes = std::fs::read(fixture("opt-350m-tiny").join("pytorch_model.bin"))?;
    let etag = etag("pytorch_model.bin", &bytes);
    Ok((bytes, etag))
}

#[test]
fn a_model_is_fetched_into_the_shared_cache_and_needs_no_network_again() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let output = home.run(&hub, &EVAL, &[])?;
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("model   facebook/opt-tiny@27dcfa7  "), "{said}");
    let requests = hub.requests();
    let wanted = ["config.json", "merges.txt", "pytorch_model.bin", "tokenizer_config.json", "vocab.json"];
    for request in &requests {
        assert!(
            !["flax", "tf_model", "README", "gitattr", "onnx"].iter().any(|o| request.target.contains(o)),
            "{request:?}"
        );
    }

    // The layout: a branch names a commit, a commit's folder links to contents.
    assert_eq!(std::fs::read_to_string(home.cached().join("refs/main"))?, COMMIT);
    let snapshot = home.cached().join("snapshots").join(COMMIT);
    let all = files("opt-350m-tiny")?;
    for name in wanted {
        assert_eq!(std::fs::read(snapshot.join(name))?, all[name], "{name}");
        let target = std::fs::read_link(snapshot.join(name))?;
        assert_eq!(target, Path::new("../../blobs").join(etag(name, &all[name])));
    }
    assert_eq!(std::fs::read_dir(&snapshot)?.count(), wanted.len());
    assert_eq!(home.blobs().len(), wanted.len());

    // The model that lies in a folder scores the same.
    let copy = home.path().join("copy");
    std::fs::create_dir(&copy)?;
    wanted.iter().try_for_each(|name| std::fs::write(copy.join(name), &all[*name]))?;
    let local = home.run(&hub, &["eval", "--model", "copy", "--task", "reviews", "--num-eval", "4", "--json"], &[])?;
    let (local, from_hub): (Value, Value) =
        (serde_json::from_slice(&local.stdout)?, serde_json::from_slice(&output.stdout)?);
    assert_eq!((&local["loss"], &local["accuracy"]), (&from_hub["loss"], &from_hub["accuracy"]));

    // Offline, and at a commit, nobody is asked; at a branch one question is.
    hub.requests();
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"] {
        home.eval(&hub, &[(variable, "1")])?;
        assert_eq!(lines(&hub.requests()), [""; 0], "{variable}");
    }
    let at_commit = home.run(&hub, &[&EVAL[..], &["--revision", COMMIT]].concat(), &[])?;
    assert!(at_commit.status.success(), "{}", stderr(&at_commit));
    assert_eq!(lines(&hub.requests()), [""; 0]);
    home.eval(&hub, &[])?;
    assert_eq!(lines(&hub.requests()), [format!("GET /api/models/{ID}/revision/main")]);

    // A hub that is away or busy is replaced by the cache, with a warning.
    hub.play(|_| Some(Answer::new(503, "")));
    let output = home.run(&hub, &EVAL, &[])?;
    assert!(output.status.success() && stderr(&output).contains("from the cache"), "{}", stderr(&output));
    let output = home.run(&hub, &EVAL, &[("HF_ENDPOINT", "http://127.0.0.1:1")])?;
    assert!(output.status.success() && stderr(&output).contains("continuing with facebook/opt-tiny@27dcfa7"));
    Ok(())
}

#[test]
fn safetensors_come_before_pickles_and_shards_are_fetched_by_their_index() -> Result<()> {
    for (name, kept, count) in [("opt-untied-tiny", ".safetensors", 2), ("llama3-tiny", ".bin", 2)] {
        let mut files = files(name)?;
        if name == "opt-untied-tiny" {
            files.insert("pytorch_model.bin".into(), b"not for us".into());
        }
        let hub = Hub::start(Repo::new(&format!("models/{ID}"), COMMIT, files))?;
        let home = Home::new()?;
        home.eval(&hub, &[])?;
        let weights = hub.count(|r| r.is_cdn && r.method == "GET");
        assert_eq!(weights, count, "{name}");
        let names = std::fs::read_dir(home.cached().join("snapshots").join(COMMIT))?.flatten();
        let shards = names.filter(|e| e.file_name().to_string_lossy().ends_with(kept)).count();
        assert_eq!(shards, count, "{name}");
    }
    Ok(())
}

#[test]
fn a_plan_fetches_no_weights() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let args = ["plan", "--model", ID, "--task", "reviews", "--num-dev", "8", "--max-steps", "2"];
    let output = home.run(&hub, &args, &[])?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hub.count(|r| r.target.contains("pytorch_model")), 0);
    // Offline now, what is missing is named, and so is what forbids it.
    let said = home.refused(&hub, &[("TRANSFORMERS_OFFLINE", "yes")])?;
    assert!(said.contains("TRANSFORMERS_OFFLINE=yes is set") && said.contains(".safetensors of the model"), "{said}");
    Ok(())
}

#[test]
fn what_is_not_there_says_what_to_do() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let said = home.refused(&hub, &[("HF_HUB_OFFLINE", "1")])?;
    assert!(said.contains("config.json of the model facebook/opt-tiny (revision main) is not in the cache"), "{said}");
    assert!(said.contains("HF_HUB_OFFLINE=1 is set") && hub.requests().is_empty(), "{said}");
    let said = home.refused(&hub, &[("HF_ENDPOINT", "http://127.0.0.1:1")])?;
    assert!(said.contains("cannot reach http://127.0.0.1:1/") && said.contains("refused"), "{said}");

    for status in [401, 403] {
        hub.play(move |_| Some(Answer::refusal(status, "GatedRepo")));
        let said = home.refused(&hub, &[])?;
        assert!(said.contains("is gated: accept its licence at ") && said.contains("set HF_TOKEN"), "{said}");
        let said = home.refused(&hub, &[("HF_TOKEN", "hf_secret")])?;
        assert!(said.contains("the token from HF_TOKEN gives no access to it") && !said.contains("hf_secret"), "{said}");
    }
    for (status, code) in [(401, "RepoNotFound"), (404, "RepoNotFound"), (404, "")] {
        hub.play(move |_| Some(Answer::refusal(status, code)));
        let said = home.refused(&hub, &[])?;
        assert!(said.contains("there is no model facebook/opt-tiny at ") && said.contains("private"), "{said}");
    }
    hub.behave();
    let output = home.run(&hub, &[&EVAL[..], &["--revision", "v9"]].concat(), &[])?;
    assert!(output.status.code() == Some(5) && stderr(&output).contains("has no revision \"v9\""), "{}", stderr(&output));
    hub.change(|repo| drop(repo.commits.get_mut(COMMIT).unwrap().remove("pytorch_model.bin")));
    let said = home.refused(&hub, &[])?;
    assert!(said.contains("has none of model.safetensors, "), "{said}");
    hub.change(|repo| drop(repo.commits.get_mut(COMMIT).unwrap().remove("config.json")));
    let said = Home::new()?.refused(&hub, &[])?;
    assert!(said.contains("has no config.json on the hub"), "{said}");
    hub.play(|_| Some(Answer::new(200, "<html>Please log in to the hotel's network</html>")));
    let said = home.refused(&hub, &[("HF_HUB_CACHE", "elsewhere")])?;
    assert!(said.contains("does not answer like the hub"), "{said}");
    hub.play(|_| Some(Answer { stall: Some(0), ..Answer::new(200, "late") }));
    let said = home.refused(&hub, &[("HF_HUB_CACHE", "elsewhere"), ("HF_HUB_ETAG_TIMEOUT", "0.1")])?;
    assert!(said.contains("cannot reach "), "{said}");
    Ok(())
}

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

/// A mirror may have its contents on its own host.
#[test]
fn a_mirror_that_sends_on_to_itself_is_understood() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let (bytes, hash) = weights()?;
    hub.play(move |r| match r.target.as_str() {
        "/contents/weights" => Some(file(r, &bytes).with("ETag", "\"another\"")),
        target if target.ends_with("/pytorch_model.bin") => Some(
            Answer::new(302, "")
                .with("Location", "/contents/weights")
                .with("X-Linked-Etag", format!("\"{hash}\""))
                .with("X-Repo-Commit", COMMIT),
        ),
        _ => None,
    });
    home.eval(&hub, &[])?;
    assert_eq!(home.blobs().len(), 5);
    // A name that was misspelt is a folder's, more likely.
    hub.behave();
    let output = home.run(&hub, &["eval", "--model", "modle", "--task", "reviews"], &[])?;
    let said = stderr(&output);
    assert!(output.status.code() == Some(5) && said.contains("--model modle: there is no such folder"), "{said}");
    Ok(())
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

#[test]
fn secrets_go_to_the_hub_and_nowhere_else() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let with_password = hub.url.replace("http://", "http://me:hunter2@");
    let variables = [("HF_TOKEN", "hf_secret"), ("HF_ENDPOINT", with_password.as_str()), ("RUST_LOG", "trace")];
    let train =
        ["train", "--model", ID, "--task", "reviews", "--num-dev", "8", "--max-steps", "2", "-v", "--output-dir", "run"];
    let output = home.run(&hub, &train, &variables)?;
    assert!(output.status.success(), "{}", stderr(&output));
    for request in hub.requests() {
        let token = request.header("authorization");
        assert_eq!(token, if request.is_cdn { None } else { Some("Bearer hf_secret") }, "{}", request.line());
    }
    let secrets = ["hf_secret", "hunter2", "signed-for-you"];
    let check = |text: &str| assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
    check(&stderr(&output));
    check(&String::from_utf8(output.stdout)?);
    check(&std::fs::read_to_string(home.path().join("run/run.json"))?);
    check(&String::from_utf8_lossy(&std::fs::read(home.path().join("run/trajectory.bin"))?));
    // Nor in what goes wrong: at the hub, on the content network, in the proxy.
    let variables = [&variables[..], &[("HF_HUB_CACHE", "other")]].concat();
    for trick in [
        |_: &Request| Some(Answer::refusal(401, "GatedRepo")),
        |_: &Request| Some(Answer::new(404, "").with("X-Error-Message", "hf_secret may not")),
        |r: &Request| r.is_cdn.then(|| Answer::new(403, "")),
        |_: &Request| Some(Answer::new(302, "").with("Location", "ftp://me:hunter2@elsewhere/?Signature=signed-for-you")),
    ] {
        hub.play(trick);
        check(&home.refused(&hub, &variables)?);
    }
    hub.behave();
    let proxied = [&variables[..], &[("HTTP_PROXY", "http://you:hunter2@127.0.0.1:1")]].concat();
    check(&home.refused(&hub, &proxied)?);
    home.eval(&hub, &[&proxied[..], &[("NO_PROXY", "localhost, 127.0.0.1")]].concat())?;
    // Without a token the endpoint's own password is used, and goes no further either.
    hub.requests();
    let output =
        home.run(&hub, &EVAL, &[("HF_ENDPOINT", &with_password), ("HF_HUB_CACHE", "third"), ("RUST_LOG", "trace")])?;
    check(&stderr(&output));
    for request in hub.requests() {
        assert_eq!(request.header("authorization").is_some(), !request.is_cdn, "{}", request.line());
    }
    Ok(())
}

#[test]
fn names_that_cannot_be_are_said_so_before_anybody_is_asked() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    std::fs::create_dir(home.path().join("folder"))?;
    let long = "x".repeat(200);
    let cases: &[(&[&str], &str)] = &[
        (&["--model", "./nowhere"], "--model ./nowhere: there is no such folder"),
        (&["--model", "/no/where"], "there is no such folder"),
        (&["--model", "~/nowhere"], "there is no such folder"),
        (&["--model", "a/b/c"], "there is no such folder"),
        (&["--model", "model.gguf"], "there is no such folder"),
        (&["--model", "my model"], "\"my model\" cannot be the name of a model on the hub"),
        (&["--model", "a/..b"], "cannot be the name of a model on the hub"),
        (&["--model", "a--b/c"], "cannot be the name of a model on the hub"),
        (&["--model", "a%2fb"], "cannot be the name of a model on the hub"),
        (&["--model", "modèle"], "cannot be the name of a model on the hub"),
        (&["--model", "a\u{202e}b"], "\"a\\u{202e}b\" cannot be the name of a model on the hub"),
        (&["--model", &long], "cannot be the name of a model on the hub"),
        (&["--model", ""], "cannot be the name of a model on the hub"),
        (&["--model", ID, "--revision", "../../main"], "cannot be a revision"),
        (&["--model", ID, "--revision", "a b"], "cannot be a revision"),
        (&["--model", "folder", "--revision", "main"], "--revision main: --model folder is a folder"),
        (&["--model", "opt-mini", "--revision", "main"], "--model opt-mini is built in"),
    ];
    for (args, expected) in cases {
        let output = home.run(&hub, &[&["eval", "--task", "reviews"], *args].concat(), &[])?;
        assert!(output.status.code() == Some(2) && stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
    let output = home.run(&hub, &EVAL, &[("HF_ENDPOINT", "me:hunter2@hub")])?;
    assert!(output.status.code() == Some(2) && !stderr(&output).contains("hunter2"), "{}", stderr(&output));
    assert_eq!(lines(&hub.requests()), [""; 0]);
    Ok(())
}

/// A branch moves on; a run stays with the commit that it began from.
#[test]
fn a_run_is_gone_on_with_and_replayed_from_its_own_commit() -> Result<()> {
    let (hub, home) = (hub()?, Home::new()?);
    let train = ["train", "--model", ID, "--task", "reviews", "--num-dev", "8", "--num-eval", "8", "--max-steps", "2"];
    let output = home.run(&hub, &[&train[..], &["--output-dir", "run"]].concat(), &[])?;
    assert!(output.status.success(), "{}", stderr(&output));
    let run: Value = serde_json::from_slice(&std::fs::read(home.path().join("run/run.json"))?)?;
    assert_eq!((&run["model"]["source"], &run["model"]["commit"]), (&ID.into(), &COMMIT.into()));
    assert_eq!(run["config"]["revision"], COMMIT);

    let other = files("opt-untied-tiny")?;
    hub.change(|repo| {
        repo.commits.insert(NEXT.into(), other);
        repo.refs.insert("main".into(), NEXT.into());
    });
    let ok = |args: &[&str], variables: &[(&str, &str)]| -> Result<String> {
        let output = home.run(&hub, args, variables)?;
        anyhow::ensure!(output.status.success(), "{args:?}: {}", stderr(&output));
        Ok(stderr(&output))
    };
    assert!(ok(&EVAL, &[])?.contains("opt-tiny@0123456  "));
    let empty = [("HF_HOME", "elsewhere")];
    assert!(ok(&["train", "--resume", "run", "--max-steps", "4"], &empty)?.contains("opt-tiny@27dcfa7  "));
    ok(&["replay", "run", "--output-dir", "again"], &[])?;
    ok(&["export", "run", "--trajectory", "mine.zot"], &[])?;
    let said = ok(&["eval", "--model", ID, "--trajectory", "mine.zot", "--task", "reviews", "--num-eval", "4"], &[])?;
    assert!(said.contains("opt-tiny@27dcfa7  "), "{said}");
    // Another model has other commits.
    let snapshot = home.cached().join("snapshots").join(COMMIT);
    ok(&["train", "--resume", "run", "--max-steps", "5", "--model", snapshot.to_str().unwrap()], &[])?;
    ok(&["replay", "run", "--model", snapshot.to_str().unwrap(), "--output-dir", "third"], &[])?;
    Ok(())
}

/// A data set's file by the library, as tasks fetch it.
#[test]
fn a_data_set_gives_single_files() -> Result<()> {
    let name = "data/train-00000-of-00001.parquet";
    let files = BTreeMap::from([(name.to_string(), vec![b'x'; 9_000])]);
    let server = Hub::start(Repo::new("datasets/stanfordnlp/sst2", COMMIT, files))?;
    let home = Home::new()?;
    let open = |offline: bool| {
        let cache = home.path().to_string_lossy().into_owned();
        zotune::hub::Hub::from_variables(&|variable| match variable {
            "HF_ENDPOINT" => Some(server.url.clone() + "/"),
            "HF_HUB_CACHE" => Some(cache.clone()),
            "HF_HUB_OFFLINE" => offline.then(|| "1".into()),
            _ => None,
        })
    };
    let repo = zotune::hub::Repo::dataset("stanfordnlp/sst2", None);
    let error = open(true)?.file(&repo, name).unwrap_err();
    assert_eq!(zotune::base::errors::exit_code(&error), 5);
    assert!(error.to_string().contains(&format!("{name} of the data set stanfordnlp/sst2")), "{error}");
    let path = open(false)?.file(&repo, name)?;
    assert_eq!(std::fs::read(&path)?.len(), 9_000);
    assert_eq!(path, home.path().join("datasets--stanfordnlp--sst2/snapshots").join(COMMIT).join(name));
    server.requests();
    assert_eq!(open(true)?.file(&repo, name)?, path);
    assert_eq!(open(false)?.file(&zotune::hub::Repo::dataset("stanfordnlp/sst2", Some(COMMIT)), name)?, path);
    assert_eq!(lines(&server.requests()), [""; 0]);
    let error = open(false)?.file(&repo, "data/none.parquet").unwrap_err().to_string();
    assert!(error.contains("has no data/none.parquet at revision \"main\""), "{error}");
    for bad in ["../etc/passwd", "/etc/passwd", "", "a//b", "a\\b"] {
        assert_eq!(zotune::base::errors::exit_code(&open(false)?.file(&repo, bad).unwrap_err()), 2, "{bad}");
    }
    Ok(())
}

/// SST-2 without --data comes from the hub: the same bits as from GLUE's files. What is not on the main branch is where the hub
/// converts it to.
#[test]
fn a_task_without_data_is_fetched_and_gives_the_same_bits_as_from_a_folder() -> Result<()> {
    let home = Home::new()?;
    let local = home.path().join("glue");
    std::fs::create_dir(&local)?;
    let mut parquets = Vec::new();
    for (ours, theirs, first) in [("train.tsv", "train", 0), ("dev.tsv", "validation", 500)] {
        let rows: Vec<(String, i64)> = (first..first + 90).map(|i| (format!("a film of number {i} "), i % 2)).collect();
        let text: String = rows.iter().map(|(sentence, label)| format!("{sentence}\t{label}\n")).collect();
        std::fs::write(local.join(ours), format!("sentence\tlabel\n{text}"))?;
        let path = home.path().join("x.parquet");
        let (sentences, labels): (Vec<String>, Vec<i64>) = rows.into_iter().unzip();
        let columns = [
            ("idx", Column::Numbers((0..90).collect())),
            ("sentence", Column::Texts(sentences)),
            ("label", Column::Numbers(labels)),
        ];
        write_parquet(&path, &columns, 40)?;
        parquets.push((theirs, std::fs::read(&path)?));
    }
    let named = |name: fn(&str) -> String| parquets.iter().map(|(split, bytes)| (name(split), bytes.clone())).collect();
    let main = named(|split| format!("data/{split}-00000-of-00001.parquet"));
    let converted = named(|split| format!("default/{split}/0000.parquet"));
    let hub = Hub::start(Repo::new("datasets/stanfordnlp/sst2", COMMIT, main))?;
    let ok = |args: &[&str], variables: &[(&str, &str)]| -> Result<Value> {
        let output = home.run(&hub, args, variables)?;
        anyhow::ensure!(output.status.success(), "{args:?}: {}", stderr(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let offline = [("HF_DATASETS_OFFLINE", "1")];
    let eval = ["eval", "--model", "opt-mini", "--task", "sst2", "--json"];
    let refused = home.run(&hub, &eval, &offline)?;
    assert_eq!(refused.status.code(), Some(5));
    let said = stderr(&refused);
    assert!(said.contains("data/validation-00000-of-00001.parquet of the data set stanfordnlp/sst2"), "{said}");

    let expected = ok(&[&eval[..], &["--data", "glue"]].concat(), &[])?;
    assert_eq!(lines(&hub.requests()), [""; 0]);
    for variables in [&[][..], &offline] {
        let found = ok(&eval, variables)?;
        assert_eq!((&found["loss"], &found["accuracy"]), (&expected["loss"], &expected["accuracy"]));
    }
    let said = stderr(&home.run(&hub, &eval, &[])?);
    assert!(said.contains("data    sst2: 90 eval rows (stanfordnlp/sst2 from the hub, seed 0)"), "{said}");
    // What is not looked at is not fetched.
    assert!(!lines(&hub.requests()).iter().any(|line| line.contains("train")));
    let train = ["train", "--model", "opt-mini", "--task", "sst2", "--num-train", "60", "--num-dev", "20", "--json"];
    let with = |more: &[&'static str]| [&train[..], more].concat();
    ok(&with(&["--max-steps", "3", "--data", "glue", "--output-dir", "a"]), &[])?;
    ok(&with(&["--max-steps", "2", "--output-dir", "b"]), &[])?;
    ok(&["train", "--resume", "b", "--max-steps", "3", "--json"], &offline)?;
    let weights = |run: &str| std::fs::read(home.path().join(run).join("model.safetensors"));
    assert_eq!(weights("a")?, weights("b")?);
    ok(&["replay", "b", "--output-dir", "c", "--json"], &[])?;
    assert_eq!(weights("a")?, weights("c")?);
    ok(&["train", "--resume", "b", "--max-steps", "4", "--data", "glue", "--json"], &[])?;

    let data = Home::new()?;
    hub.change(|repo| {
        repo.commits = [(COMMIT.to_string(), BTreeMap::new()), (NEXT.to_string(), converted)].into();
        repo.refs.insert("refs/convert/parquet".into(), NEXT.into());
    });
    let output = data.run(&hub, &eval, &[])?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["loss"], expected["loss"]);
    hub.change(|repo| repo.commits.values_mut().for_each(BTreeMap::clear));
    let said = stderr(&Home::new()?.run(&hub, &eval, &[])?);
    assert!(said.contains("has no data/validation-00000-of-00001.parquet at revision \"main\""), "{said}");
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
