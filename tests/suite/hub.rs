//! Models and data sets from the hub: a server on 127.0.0.1 plays it, and the built binary is the client.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::hub_server::{Answer, Hub, Repo, Request, etag, file};
use crate::support::hub_home::{COMMIT, EVAL, Home, ID, NEXT, files, hub, lines, weights};
use crate::support::{Column, stderr, write_parquet};

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
    assert!(output.status.success() && stderr(&output).contains("using facebook/opt-tiny@27dcfa7 from the cache"));
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
    let small = ["--num-train", "60", "--num-dev", "20", "--learning-rate", "1e-4", "--json"];
    let train = [&["train", "--model", "opt-mini", "--task", "sst2"][..], &small].concat();
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
