//! Finds a model or an adapter by what --model or --adapter names: a folder, a GGUF file, the built-in model, or the
//! hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::builtin::OPT_MINI;
use crate::base::text::{listed, nearest};
use crate::base::{Source, Usage};
use crate::data::tokenizer::Tokenizer;
use crate::formats::gguf::folder;
use crate::formats::weight_files::{WEIGHT_FILES, weight_files};
use crate::hub::{FileRequest, Hub, Repo};
use crate::model::adapter::stored::{CONFIG as ADAPTER_CONFIG, FILES as ADAPTER_FILES};

/// The files of a model: the folder or GGUF file `name`, else the built-in model, else the hub's, with its commit. The
/// weights of a hub model are not downloaded yet; see [`fetch_weights`].
pub fn find(name: &str, revision: Option<&str>) -> Result<(Source, Option<String>)> {
    let (path, folder) = (Path::new(name), Source::Folder(name.into()));
    let (source, what) = if name == "opt-mini" && !folder.has("config.json") {
        (OPT_MINI, "built in")
    } else if path.is_dir() {
        (folder, "a folder")
    } else if folder::is_gguf(path) {
        (folder::open(path)?, "a file")
    } else {
        return from_hub(name, revision);
    };
    match revision {
        Some(revision) => {
            Err(usage!("`revision` {revision}: `model` {name} is {what}; only models on the hub have revisions"))
        }
        None => Ok((source, None)),
    }
}

fn from_hub(name: &str, revision: Option<&str>) -> Result<(Source, Option<String>)> {
    let is_path = name.starts_with(['/', '.', '~']) || name.ends_with(".gguf") || name.matches('/').count() > 1;
    if is_path || Path::new(name).exists() {
        let what = if Path::new(name).exists() { "the file is not a GGUF file" } else { "there is no such folder or file" };
        return Err(usage!(
            "`model` {name}: {what}; it must be a folder in Hugging Face layout, a GGUF file, a name on the hub (for example \
             facebook/opt-125m), or opt-mini, which is built in"
        ));
    }
    let repo = Repo::model(name, revision);
    repo.check().map_err(|why| usage!("`model` {name:?}: there is no such folder, and {why}"))?;
    let optional = std::iter::once("generation_config.json").chain(Tokenizer::FILES).map(FileRequest::Optional);
    let wanted: Vec<FileRequest> = std::iter::once(FileRequest::Required("config.json")).chain(optional).collect();
    let snapshot = Hub::from_env()?.snapshot(&repo, &wanted).map_err(|error| match name.contains('/') {
        true => or_misspelt("model", name, error),
        false => {
            let near = Some(nearest(name, ["opt-mini"])).filter(|near| near.starts_with("did you mean"));
            let near = near.map_or(String::new(), |near| format!("; {near}"));
            error.context(format!("`model` {name}: there is no such folder, and it could not be fetched from the hub{near}"))
        }
    })?;
    Ok((Source::Folder(snapshot.folder), Some(snapshot.commit)))
}

/// The error for a name that the hub does not have; if its first part is a local folder, the name is probably a
/// misspelt path.
fn or_misspelt(option: &str, name: &str, error: anyhow::Error) -> anyhow::Error {
    let Some((parent, _)) = name.split_once('/').filter(|(parent, _)| Path::new(parent).is_dir()) else { return error };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let there = if names.is_empty() { "none".into() } else { listed(names.iter().map(String::as_str)) };
    usage!("`{option}` {name}: there is no such folder in {parent}, which has {there}; and as a name on the hub: {error:#}")
}

/// Downloads the weights of a model on the hub, unless they are cached.
pub fn fetch_weights(name: &str, commit: &str) -> Result<()> {
    let (hub, repo) = (Hub::from_env()?, Repo::model(name, Some(commit)));
    let snapshot = hub.snapshot(&repo, &[FileRequest::FirstOf(&WEIGHT_FILES)])?;
    let shards = weight_files(&Source::Folder(snapshot.folder))?;
    let shards: Vec<FileRequest> = shards.iter().map(|shard| FileRequest::Required(shard)).collect();
    hub.snapshot(&repo, &shards).map(drop)
}

/// The folder of an adapter: `place` itself, else the hub's.
pub fn find_adapter(place: &Path) -> Result<PathBuf> {
    let repo = Repo::model(&place.to_string_lossy(), None);
    if place.exists() || !repo.id.contains('/') || repo.check().is_err() {
        return Ok(place.into());
    }
    let wanted = [FileRequest::Required(ADAPTER_CONFIG), FileRequest::FirstOf(&ADAPTER_FILES)];
    let snapshot = Hub::from_env()?.snapshot(&repo, &wanted);
    let name = place.to_string_lossy();
    let snapshot = snapshot.map_err(|error| match or_misspelt("adapter", &name, error) {
        misspelt if misspelt.is::<Usage>() => misspelt,
        error => error.context(format!("`adapter` {name}: there is no such folder")),
    });
    Ok(snapshot?.folder)
}
