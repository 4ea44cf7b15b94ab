//! Checks all cells of a sweep before the first one runs, and compares those that have begun with what the file says now.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::grid::Cell;
use super::names::cell_folder;
use super::standing::{Found, Standing, find};
use crate::base::Source;
use crate::base::hash::sha256;
use crate::config::{Inputs, OF_THE_RECORD, RunConfig};
use crate::formats::weight_files::weight_files;
use crate::run::OpenedLab;
use crate::run::trajectory::Trajectory;
use crate::run::{folder, start};
use crate::zo::{Data, Workload, methods};

/// A cell that has passed every check that needs no training.
#[derive(Clone, Debug)]
pub struct PlannedCell {
    /// The cell.
    pub cell: Cell,
    /// Its config, resolved. Its folder is in `output_dir`.
    pub config: RunConfig,
    /// The threads that the cell asks for.
    pub threads: Option<usize>,
    /// What it is forecast to cost, where that was asked for.
    pub cost: Option<Cost>,
    /// What it computes with. Shared by cells of one model and data.
    identity: Arc<Identity>,
}

/// What a run is forecast to cost. The names are those of `zotune plan`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The peak resident set of its process, in bytes.
    pub peak_rss_bytes: u64,
    /// Its wall time in seconds.
    pub seconds: f64,
    /// What is left of it on the disk, in bytes.
    pub disk_bytes: u64,
}

/// Forecasts the run of a cell. In a process of its own: what this one holds and has held would count as the run's.
pub type Forecaster<'a> = &'a dyn Fn(&Cell) -> Result<Cost>;

/// The model and the data of a run.
#[derive(Debug)]
struct Identity {
    data: Data,
    function: BTreeMap<String, Value>,
    /// The commit of a model from the hub.
    commit: Option<String>,
    /// SHA-256 of the model's files; None where no cell has begun that could be compared.
    model: Option<BTreeMap<String, String>>,
}

/// Numbers that change neither what a run costs nor which model and data it needs.
const COST_NOTHING: [&str; 10] =
    ["seed", "learning_rate", "zo_eps", "weight_decay", "momentum", "beta1", "beta2", "zeta", "alpha", "output_dir"];

/// Checks the options of cells, whose folders are in `folder`, without their models and data.
pub fn check(cells: &[Cell], folder: &Path) -> Result<()> {
    cells.iter().try_for_each(|cell| checked(cell, folder).map(drop).map_err(|error| cell.blame(error)))
}

/// Checks the cells, whose folders are in `folder`: options, method, model, data. `forecaster`: forecasts what a cell
/// costs, of each kind once. `proceed` is called between cells; its error ends the work. Errors in options name the line of the sweep file.
pub fn plan(
    cells: Vec<Cell>,
    folder: &Path,
    forecaster: Option<Forecaster>,
    proceed: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<PlannedCell>> {
    // What needs neither model nor data first, of all cells.
    let checked = cells.into_iter().map(|cell| {
        let config = checked(&cell, folder).map_err(|error| cell.blame(error))?;
        Ok((cell, config))
    });
    let checked = checked.collect::<Result<Vec<_>>>()?;
    let has_begun = checked.iter().any(|(_, config)| config.output_dir.exists());
    let mut kinds: HashMap<String, Kind> = HashMap::new();
    let mut hashes = HashMap::new();
    let mut planned = Vec::new();
    for (cell, config) in checked {
        proceed()?;
        let mut add = || -> Result<PlannedCell> {
            let key = cost_key(&config)?;
            if !kinds.contains_key(&key) {
                kinds.insert(key.clone(), Kind::open(&cell, &config, forecaster, has_begun, &mut hashes)?);
            }
            let kind = kinds.get_mut(&key).context("a kind that was opened")?;
            Ok(PlannedCell {
                threads: cell.raw()?.common.threads,
                config: kind.opened.resolve(config.clone())?,
                cost: kind.cost,
                identity: kind.identity.clone(),
                cell: cell.clone(),
            })
        };
        planned.push(add().map_err(|error| {
            let error = cell.blame(error);
            let names_its_line = error.to_string().starts_with(&cell.place);
            if names_its_line { error } else { error.context(format!("the cell {} cannot be run", cell.name)) }
        })?);
    }
    Ok(planned)
}

/// The checked config of a cell, without its model and data.
fn checked(cell: &Cell, folder: &Path) -> Result<RunConfig> {
    let mut raw = cell.raw()?;
    if raw.overwrite_output_dir.is_some() {
        return Err(usage!(
            "`overwrite_output_dir`: a sweep overwrites no cell; remove the folder of a cell to run it again"
        ));
    }
    raw.output_dir = Some(cell_folder(folder, &cell.name));
    let config = start::check_options(raw)?;
    if config.learning_rate_auto {
        return Err(usage!("`learning_rate` auto: a sweep compares the rates that its file lists; list some"));
    }
    methods::method(&config.optimizer)?.check(&config.settings)?;
    Ok(config)
}

/// What cells that cost the same have in common.
struct Kind {
    opened: Opened,
    cost: Option<Cost>,
    identity: Arc<Identity>,
}

/// What a kind of cell trains.
enum Opened {
    Model(Box<start::CheckedRun>),
    Lab(Box<OpenedLab>),
}

impl Opened {
    fn resolve(&mut self, config: RunConfig) -> Result<RunConfig> {
        match self {
            Opened::Model(checked) => checked.resolve(config),
            Opened::Lab(opened) => opened.resolve(config),
        }
    }
}

impl Kind {
    fn open(
        cell: &Cell,
        config: &RunConfig,
        forecaster: Option<Forecaster>,
        has_begun: bool,
        hashes: &mut HashMap<String, BTreeMap<String, String>>,
    ) -> Result<Self> {
        if config.lab.lab.is_some() {
            let opened = OpenedLab::open(config.clone())?;
            let cost = forecaster.map(|forecast| forecast(cell)).transpose()?;
            let (data, function) = (opened.lab.data(), opened.lab.function());
            let identity = Identity { data, function, commit: None, model: None };
            return Ok(Kind { opened: Opened::Lab(Box::new(opened)), cost, identity: identity.into() });
        }
        let mut checked = start::check(config.clone())?;
        checked.resolve(config.clone())?;
        let cost = forecaster.map(|forecast| forecast(cell)).transpose()?;
        let workload = checked.workload();
        let inputs = &checked.job.config.inputs;
        let place = format!("{:?}", (&inputs.model, &inputs.revision));
        let model = match (has_begun, hashes.get(&place)) {
            (false, _) => None,
            (true, Some(known)) => Some(known.clone()),
            (true, None) => {
                // A model on the hub whose weights are not here is compared when a run fetches them.
                let files = hashes_of(checked.opened.model.source()).ok();
                hashes.extend(files.clone().map(|files| (place, files)));
                files
            }
        };
        let commit = checked.job.config.inputs.revision.clone();
        let identity = Identity { data: workload.data(), function: workload.function(), commit, model };
        Ok(Kind { cost, identity: identity.into(), opened: Opened::Model(Box::new(checked)) })
    }
}

/// SHA-256 of the files of a model's weights, by name.
fn hashes_of(source: &Source) -> Result<BTreeMap<String, String>> {
    let hash = |name: String| Ok((name.clone(), sha256(&mut source.open(&name)?.0)?));
    weight_files(source)?.into_iter().map(hash).collect()
}

/// The options of a config that decide what it costs, as text.
fn cost_key(config: &RunConfig) -> Result<String> {
    let mut fields = serde_json::to_value(config)?;
    if let Some(fields) = fields.as_object_mut() {
        for name in COST_NOTHING {
            // A default depends on the method, which stays.
            if let Some(value) = fields.get_mut(name) {
                *value = value.is_null().into();
            }
        }
    }
    Ok(fields.to_string())
}

impl PlannedCell {
    /// Its run folder.
    pub fn folder(&self) -> &Path {
        &self.config.output_dir
    }

    /// Its config file, in which nothing depends on when it is read: on the length of a round, of which a default learning rate is a
    /// function, or on where a branch is.
    pub fn config_file(&self) -> Result<String> {
        let commit = self.identity.commit.as_ref().map(|commit| ("revision", commit.as_str().into()));
        let RunConfig { max_steps, eval_steps, learning_rate, .. } = self.config;
        let numbers =
            [("max_steps", max_steps.into()), ("eval_steps", eval_steps.into()), ("learning_rate", learning_rate.into())];
        self.cell.config_file(&numbers.into_iter().chain(commit).collect::<Vec<_>>())
    }

    /// How far the run in its folder is; None if it has not begun. Fails if the folder holds something else than a run that this
    /// cell would make, and says what differs.
    pub fn standing(&self) -> Result<Option<Standing>> {
        let (trajectory, standing) = match find(self.folder())? {
            Found::Nothing => return Ok(None),
            Found::Run(trajectory, standing) => (trajectory, standing),
        };
        match self.difference(&trajectory)? {
            None => Ok(Some(standing)),
            Some(what) => Err(usage!(
                "the cell {} has been begun with something else: {what}. It is kept: choose another `output_dir` for the new sweep, or \
                 remove {} to run the cell again",
                self.cell.name,
                self.folder().display()
            )),
        }
    }

    /// What differs between the run in its folder and this cell.
    fn difference(&self, trajectory: &Trajectory) -> Result<Option<String>> {
        let config = &self.config;
        let (now, then) = (comparable(config, config.inputs.clone())?, {
            let known = trajectory.config();
            comparable(&known, folder::inputs_of(trajectory, self.folder()))?
        });
        for (name, value) in &now {
            let before = then.get(name).unwrap_or(&Value::Null);
            if before != value {
                return Ok(Some(format!("{name} was {before} and is {value}")));
            }
        }
        if let Some(name) =
            then.iter().find(|(name, value)| !value.is_null() && !now.contains_key(*name)).map(|(name, _)| name)
        {
            return Ok(Some(format!("{name} was {} and is not set", then[name])));
        }
        if trajectory.max_steps > config.max_steps {
            return Ok(Some(format!("max_steps was {} and is {}", trajectory.max_steps, config.max_steps)));
        }
        if trajectory.max_steps < config.max_steps
            && let Some(why) = config.not_extended_exactly()
        {
            return Ok(Some(format!("max_steps was {} and is {}, and {why}", trajectory.max_steps, config.max_steps)));
        }
        let is_due = |step: u64| step.is_multiple_of(config.eval_steps) || step == config.max_steps;
        if let Some(step) = trajectory.dev.keys().find(|step| !is_due(**step)) {
            return Ok(Some(format!("it was scored after step {step}, which a run of {} steps is not", config.max_steps)));
        }
        let header = &trajectory.header;
        if let (Some(then), Some(now)) = (&header.config.inputs.revision, &self.identity.commit)
            && then != now
        {
            return Ok(Some(format!("revision was {then} and is {now}; set `revision` to keep to one commit")));
        }
        let same = header.check_function(&self.identity.function).and_then(|()| header.check_data(&self.identity.data));
        if let Err(other) = same {
            return Ok(Some(format!("{other:#}")));
        }
        let other_model = self.identity.model.as_ref().is_some_and(|model| *model != header.model);
        Ok(other_model.then(|| format!("the weights of {} have changed since", config.inputs.model)))
    }
}

/// The fields of a config that decide what a run computes and keeps, paths made absolute where they exist.
fn comparable(config: &RunConfig, inputs: Inputs) -> Result<serde_json::Map<String, Value>> {
    const FREE: [&str; 5] = ["revision", "max_steps", "stages", "output_dir", "overwrite_output_dir"];
    const PLACES: [&str; 5] = ["model", "task", "data", "adapter", "trajectory"];
    let Value::Object(mut fields) = serde_json::to_value(RunConfig { inputs, ..config.clone() })? else {
        return Ok(serde_json::Map::new());
    };
    fields.retain(|name, _| !FREE.iter().chain(&OF_THE_RECORD).any(|free| free == name));
    for name in PLACES {
        let whole = fields.get(name).and_then(Value::as_str).and_then(|place| PathBuf::from(place).canonicalize().ok());
        if let Some(whole) = whole {
            fields.insert(name.into(), whole.to_string_lossy().into());
        }
    }
    Ok(fields)
}
