//! Where a model or an adapter comes from, by what a person has typed: a folder, a GGUF file, what is built in, or the hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::builtin::OPT_MINI;
use crate::base::text::{listed, nearest};
use crate::base::{Source, Usage};
use crate::data::tokenizer::Tokenizer;
use crate::formats::gguf::folder;
use crate::formats::weight_files::{WEIGHT_FILES, weight_files};
use crate::hub::{Hub, Repo, Wanted};
use crate::model::adapter::stored::{CONFIG as ADAPTER_CONFIG, FILES as ADAPTER_FILES};

/// Where a model's files are: a folder or a GGUF file of that name, else the model built in under it, else the hub's, whose commit
/// comes with it. Of the hub's, the weights are still to come: [`fetch_weights`].
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
    let optional = std::iter::once("generation_config.json").chain(Tokenizer::FILES).map(Wanted::Optional);
    let wanted: Vec<Wanted> = std::iter::once(Wanted::Needed("config.json")).chain(optional).collect();
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

/// Of a name that the hub has not given: where its first part is a folder here, rather a folder in it that was misspelt.
fn or_misspelt(option: &str, name: &str, error: anyhow::Error) -> anyhow::Error {
    let Some((parent, _)) = name.split_once('/').filter(|(parent, _)| Path::new(parent).is_dir()) else { return error };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let there = if names.is_empty() { "none".into() } else { listed(names.iter().map(String::as_str)) };
    usage!("`{option}` {name}: there is no such folder in {parent}, which has {there}; and as a name on the hub: {error:#}")
}

/// Sees to it that the weights of a model on the hub are in the cache, beside what [`find`] brought.
pub fn fetch_weights(name: &str, commit: &str) -> Result<()> {
    let (hub, repo) = (Hub::from_env()?, Repo::model(name, Some(commit)));
    let snapshot = hub.snapshot(&repo, &[Wanted::FirstOf(&WEIGHT_FILES)])?;
    let shards = weight_files(&Source::Folder(snapshot.folder))?;
    let shards: Vec<Wanted> = shards.iter().map(|shard| Wanted::Needed(shard)).collect();
    hub.snapshot(&repo, &shards).map(drop)
}

/// An adapter's folder: of that name, else the hub's.
pub fn find_adapter(place: &Path) -> Result<PathBuf> {
    let repo = Repo::model(&place.to_string_lossy(), None);
    if place.exists() || !repo.id.contains('/') || repo.check().is_err() {
        return Ok(place.into());
    }
    let wanted = [Wanted::Needed(ADAPTER_CONFIG), Wanted::FirstOf(&ADAPTER_FILES)];
    let snapshot = Hub::from_env()?.snapshot(&repo, &wanted);
    let name = place.to_string_lossy();
    let snapshot = snapshot.map_err(|error| match or_misspelt("adapter", &name, error) {
        misspelt if misspelt.is::<Usage>() => misspelt,
        error => error.context(format!("`adapter` {name}: there is no such folder")),
    });
    Ok(snapshot?.folder)
}
