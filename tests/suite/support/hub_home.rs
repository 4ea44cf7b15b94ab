//! A hub with a small model, and a home with its own cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Result;
use serde_json::Value;

use crate::hub_server::{Hub, Repo, Request, etag};
use crate::support::{fixture, stderr};

pub const ID: &str = "facebook/opt-tiny";

pub const COMMIT: &str = "27dcfa74d334bc871f3234de431e71c6eeba5dd6";

pub const NEXT: &str = "0123456789abcdef0123456789abcdef01234567";

pub const TOKENIZER: &str =
    r#"{"tokenizer_class":"GPT2Tokenizer","add_bos_token":true,"bos_token":"</s>","eos_token":"</s>"}"#;

/// The files of a fixture with a tokenizer beside them, and all that a repo of OPT's has and nobody here wants.
pub fn files(name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
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
pub fn hub() -> Result<Hub> {
    Hub::start(Repo::new(&format!("models/{ID}"), COMMIT, files("opt-350m-tiny")?))
}

/// Somebody's machine: an empty home, and no variables but those that are given.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Result<Self> {
        Ok(Home { folder: tempfile::tempdir()? })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `models--org--name` in its cache.
    pub fn cached(&self) -> PathBuf {
        self.path().join("hf/hub/models--facebook--opt-tiny")
    }

    pub fn blobs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cached().join("blobs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn command(&self, hub: &Hub, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zotune"));
        command.args(args).current_dir(self.path()).env_clear().env("RAYON_NUM_THREADS", "2");
        command.env("HOME", self.path()).env("HF_HOME", self.path().join("hf")).env("HF_ENDPOINT", &hub.url);
        command.envs(variables.iter().copied());
        command
    }

    pub fn run(&self, hub: &Hub, args: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        Ok(self.command(hub, args, variables).output()?)
    }

    /// Scores the model: what came out.
    pub fn eval(&self, hub: &Hub, variables: &[(&str, &str)]) -> Result<Value> {
        let output = self.run(hub, &EVAL, variables)?;
        anyhow::ensure!(output.status.success(), "{}", stderr(&output));
        let all: Value = serde_json::from_slice(&output.stdout)?;
        Ok(serde_json::json!([all["accuracy"], all["loss"]]))
    }

    /// Scores a model that cannot be had: what is said.
    pub fn refused(&self, hub: &Hub, variables: &[(&str, &str)]) -> Result<String> {
        let output = self.run(hub, &EVAL, variables)?;
        anyhow::ensure!(output.status.code() == Some(5), "{:?}: {}", output.status, stderr(&output));
        Ok(stderr(&output))
    }
}

pub const EVAL: [&str; 8] = ["eval", "--model", ID, "--task", "reviews", "--num-eval", "4", "--json"];

pub fn lines(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::line).collect()
}

/// The pickle, its etag, and whether a request is for its bytes.
pub fn weights() -> Result<(Vec<u8>, String)> {
    let bytes = std::fs::read(fixture("opt-350m-tiny").join("pytorch_model.bin"))?;
    let etag = etag("pytorch_model.bin", &bytes);
    Ok((bytes, etag))
}
