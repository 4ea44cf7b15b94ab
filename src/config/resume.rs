//! The options that may change when a run is resumed.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::args::RawArgs;
use super::run_config::RunConfig;

/// Options that change neither what a run computes nor which of it is kept, but what is written of it and how fast.
pub const OF_THE_RECORD: [&str; 8] =
    ["logging_steps", "save_steps", "save_total_limit", "fsync", "report_to", "run_name", "stop_if_diverged", "threads"];

/// Other options that may change: the length of the run, intervals, locations.
const CHANGEABLE: [&str; 10] = [
    "max_steps",
    "eval_steps",
    "early_stopping_patience",
    "early_stopping_threshold",
    "target_loss",
    "model",
    "revision",
    "data",
    "trajectory",
    "adapter",
];

impl RunConfig {
    /// The config of the run in `folder`, resumed with the options `given`. Fails on an option that would change what
    /// is computed.
    pub fn resumed(self, given: &RawArgs, folder: &Path) -> Result<Self> {
        if given.overwrite_output_dir == Some(true) {
            return Err(usage!(
                "`overwrite_output_dir` and `resume` exclude each other: a resumed run continues with the files \
                in its folder"
            ));
        }
        if let Some(other) = given.output_dir.as_deref().filter(|other| *other != folder) {
            return Err(usage!(
                "`output_dir` {}: `resume` continues the run in {}; leave `output_dir` out",
                other.display(),
                folder.display()
            ));
        }
        if let Some(steps) = given.max_steps.filter(|steps| *steps < self.max_steps) {
            return Err(usage!("`max_steps` {steps}: the run has {}; it can only be increased", self.max_steps));
        }
        // The same checks as for a new run.
        let Value::Object(checked) = serde_json::to_value(RunConfig::check(given.clone())?)? else { return Ok(self) };
        let Value::Object(given) = serde_json::to_value(given)? else { return Ok(self) };
        let mut config = serde_json::to_value(&self)?;
        if given["model"].as_str().is_some_and(|model| model != self.inputs.model) {
            // The commit belongs to the other model.
            config["revision"] = Value::Null;
        }
        for (name, value) in given.into_iter().filter(|(name, value)| !value.is_null() && checked.contains_key(name)) {
            let is_rate = name == "learning_rate";
            if is_rate && self.learning_rate_auto && value == "auto" {
                continue;
            }
            let auto = Value::from("auto");
            let then = if is_rate && self.searches_rate() { &auto } else { &config[&name] };
            if OF_THE_RECORD.iter().chain(&CHANGEABLE).any(|changeable| *changeable == name) {
                config[&name] = value;
            } else if name != "output_dir" && name != "overwrite_output_dir" && *then != value {
                let then = if then.is_null() { "was started without it".into() } else { format!("uses {then}") };
                return Err(usage!("`{name}` {value}: the run {then}, and `resume` cannot change it"));
            }
        }
        Ok(RunConfig { output_dir: folder.into(), overwrite_output_dir: false, ..serde_json::from_value(config)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_may_change_and_the_rest_is_refused() -> Result<()> {
        let begun = RunConfig::check(RawArgs::from_toml("lr = 1e-4\nmax_steps = 100", "a")?)?;
        let resumed = |toml: &str| begun.clone().resumed(&RawArgs::from_toml(toml, "b")?, Path::new("run"));
        let config = resumed("max_steps = 200\nlr = 1e-4\nfsync = \"every\"\nsave_steps = 0\nbatch_size = 16")?;
        assert_eq!((config.max_steps, config.eval_steps, config.save_steps, config.learning_rate), (200, 5, 0, Some(1e-4)));
        for (toml, expected) in [
            ("max_steps = 99", "`max_steps` 99: the run has 100; it can only be increased"),
            ("lr = 2e-4", "`learning_rate` 0.0002: the run uses 0.0001"),
            ("zo_eps = 1e-2", "`zo_eps` 0.01: the run was started without it"),
            ("optimizer = \"r-adazo\"", "`optimizer` \"r-adazo\": the run uses \"zo-sgd\""),
            ("dtype = \"bf16\"", "`dtype` \"bf16\": the run uses \"f32\""),
            ("micro_batch_size = 1", "`micro_batch_size` 1"),
            ("output_dir = \"other\"", "`output_dir` other: `resume` continues the run in run"),
            ("overwrite_output_dir = true", "`overwrite_output_dir`"),
        ] {
            let error = resumed(toml).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        // The rate that a search found may be named, and so may the search.
        let found = RunConfig { learning_rate_auto: true, ..begun.clone() };
        for lr in ["\"auto\"", "1e-4"] {
            let toml = RawArgs::from_toml(&format!("lr = {lr}"), "b")?;
            assert_eq!(found.clone().resumed(&toml, Path::new("run"))?.learning_rate, Some(1e-4));
        }
        let error = resumed("lr = \"auto\"").unwrap_err().to_string();
        assert!(error.starts_with("`learning_rate` \"auto\": the run uses 0.0001"), "{error}");
        Ok(())
    }
}
