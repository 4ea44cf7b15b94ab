//! The inputs of a command: model, adapter, trajectory, task, data.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::args::Common;
use super::limits::{MOST_BATCH, MOST_ROWS, MOST_TOKENS, positive, within};
use super::trainable::TrainableArgs;
use super::values::Precision;

/// Inputs, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there")]
pub struct Inputs {
    pub model: String,
    /// The commit of a model from the hub, set when it is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub trajectory: Option<PathBuf>,
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    #[serde(flatten)]
    pub tuned: TrainableArgs,
    /// None: the task is inferred from the data.
    pub task: Option<String>,
    pub data: Option<PathBuf>,
    pub dtype: Precision,
    pub bos_id: Option<u32>,
    pub max_length: Option<usize>,
    pub num_eval: Option<usize>,
    pub train_set_seed: u32,
    pub eval_batch_size: usize,
}

impl Inputs {
    /// Whether an adapter is used, stored or new.
    pub fn is_adapted(&self) -> bool {
        self.adapter.is_some() || self.tuned.is_adapter()
    }

    /// The local paths that are read: the model, if it is one, data, adapter and trajectory.
    pub fn places(&self) -> Vec<&Path> {
        let named = [&self.data, &self.adapter, &self.trajectory];
        std::iter::once(Path::new(&self.model)).chain(named.into_iter().flatten().map(PathBuf::as_path)).collect()
    }

    /// Fails if the model of a recorded run was a local folder that no longer exists, so that its name is not looked up
    /// on the hub.
    pub fn check_began_here(&self) -> Result<()> {
        let name = &self.model;
        match self.revision.is_some() || name == "opt-mini" || Path::new(name).exists() {
            true => Ok(()),
            false => Err(usage!(
                "the run started from the model folder {name}, which does not exist; say with `model` where it is now"
            )),
        }
    }

    /// Makes paths typed in the folder `from` absolute if they are relative and exist there.
    pub fn typed_in(mut self, from: &Path) -> Self {
        let here = std::env::current_dir().and_then(|here| here.canonicalize()).ok();
        if here.is_some_and(|here| from.canonicalize().is_ok_and(|from| from == here)) {
            return self;
        }
        let whole = |path: &Path| {
            let whole = Some(from.join(path)).filter(|whole| path.is_relative() && whole.exists())?;
            let goes_up = path.components().any(|part| part == Component::ParentDir);
            Some(if goes_up { whole.canonicalize().unwrap_or(whole) } else { whole })
        };
        for path in [&mut self.data, &mut self.adapter, &mut self.trajectory].into_iter().flatten() {
            *path = whole(path).unwrap_or_else(|| path.clone());
        }
        let is_builtin = self.model == "opt-mini" && !from.join("opt-mini/config.json").is_file();
        let task = self.task.as_mut().filter(|task| task.ends_with(".toml"));
        for name in task.into_iter().chain((!is_builtin).then_some(&mut self.model)) {
            if let Some(whole) = whole(Path::new(name.as_str())) {
                *name = whole.to_string_lossy().into_owned();
            }
        }
        self
    }

    /// Checks options and fills in defaults. Errors are usage errors.
    pub fn check(common: Common) -> Result<Self> {
        if let Some(device) = common.device.as_deref().filter(|d| *d != "cpu") {
            return Err(usage!("`device` {device}: this build supports only cpu"));
        }
        positive("threads", common.threads)?;
        let inputs = Inputs {
            model: common.model.unwrap_or("opt-mini".into()),
            revision: common.revision,
            trajectory: common.trajectory,
            adapter: common.adapter,
            tuned: TrainableArgs::default(),
            task: common.task.or_else(|| common.data.is_none().then(|| "reviews".into())),
            data: common.data,
            dtype: common.dtype.unwrap_or_default(),
            bos_id: common.bos_id,
            max_length: common.max_length,
            num_eval: common.num_eval,
            train_set_seed: common.train_set_seed.unwrap_or(0),
            eval_batch_size: common.eval_batch_size.unwrap_or(16),
        };
        inputs.check_extremes()?;
        Ok(inputs)
    }

    /// Fails on numbers outside of the supported range.
    pub(super) fn check_extremes(&self) -> Result<()> {
        let TrainableArgs { lora_r, lora_alpha, num_prefix, .. } = &self.tuned;
        within("max_length", self.max_length, 1, MOST_TOKENS)?;
        within("num_eval", self.num_eval, 0, MOST_ROWS)?;
        within("eval_batch_size", Some(self.eval_batch_size), 1, MOST_BATCH)?;
        within("lora_r", *lora_r, 1, 1 << 16)?;
        within("num_prefix", *num_prefix, 1, 65_535)?;
        match lora_alpha.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
            Some(alpha) => Err(usage!("`lora_alpha` {alpha}: it must be greater than 0")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_typed_in_another_folder_are_found_from_here() -> Result<()> {
        let there = tempfile::tempdir()?;
        let place = |name: &str| there.path().join(name);
        for name in ["rows.jsonl", "mine.toml", "base.zot"] {
            std::fs::write(place(name), "")?;
        }
        std::fs::create_dir(place("base"))?;
        let named = |model: &str, adapter: &str| Common {
            model: Some(model.into()),
            adapter: Some(adapter.into()),
            task: Some("mine.toml".into()),
            data: Some("rows.jsonl".into()),
            trajectory: Some("base.zot".into()),
            ..Common::default()
        };
        let found = Inputs::check(named("base", "org/on-the-hub"))?.typed_in(there.path());
        assert_eq!((Path::new(&found.model), found.data), (place("base").as_path(), Some(place("rows.jsonl"))));
        assert_eq!((found.task.map(PathBuf::from), found.trajectory), (Some(place("mine.toml")), Some(place("base.zot"))));
        // A name that is not a path is unchanged.
        assert_eq!(found.adapter, Some("org/on-the-hub".into()));
        std::fs::create_dir(place("opt-mini"))?;
        assert_eq!(Inputs::check(named("opt-mini", "a"))?.typed_in(there.path()).model, "opt-mini");
        // Unchanged if typed in the current directory.
        let here = std::env::current_dir()?;
        assert_eq!(Inputs::check(named("src", "tests"))?.typed_in(&here).model, "src");
        Ok(())
    }
}
