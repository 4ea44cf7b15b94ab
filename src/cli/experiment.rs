//! `lab`: experiments of papers, each one or more sweeps that are built in, and their reports.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::args::{ExperimentArgs, SweepOptions};
use super::experiments::{EXPERIMENTS, Experiment, Part};
use super::screen::say;
use super::sweep::run_sweep;
use crate::base::Stop;
use crate::base::text::{nearest, quoted};
use crate::config::{Common, RawArgs};
use crate::labs::LabArgs;
use crate::labs::mnist::Target;
use crate::report::{Goal, Report, as_text, written};
use crate::run::folder::RESULTS;
use crate::run::{alignment, lab_run};
use crate::sweep::{SweepFile, cell_folder, cells_folder, file, grid, plan};

pub fn experiment_verb(args: ExperimentArgs, quiet: bool) -> Result<()> {
    let Some(name) = &args.name else { return list() };
    let known = || EXPERIMENTS.iter().flat_map(|experiment| experiment.parts.iter().map(move |part| (experiment, part)));
    let mut named: Vec<&Part> =
        known().filter(|(experiment, part)| experiment.name == name || part.name == name).map(|(_, part)| part).collect();
    if named.is_empty() {
        let names = EXPERIMENTS.iter().map(|e| e.name).chain(known().map(|(_, part)| part.name));
        return Err(usage!("{name}: there is no experiment of this name: {}", nearest(name, names)));
    }
    let place = args.options.knobs.output_dir.clone().unwrap_or_else(|| Path::new("runs").join("labs"));
    if args.options.knobs.common.model.is_some() {
        // With a model at hand, what would train one is left out.
        let models: Vec<&str> = named.iter().filter_map(|part| Some(part.model?.0)).collect();
        named.retain(|part| !models.contains(&part.name));
    }
    let parts = selected(&named, &args.options, &place)?;
    parts.iter().try_for_each(Selected::check)?;
    let stop = Stop::listen()?;
    let mut failures = Ok(());
    for part in parts {
        let trains_a_model = part.trains_a_model;
        let failed = part.run(&stop, quiet)?;
        // The other parts do not need a cell that failed, but for a network.
        failures = failures.and(failed);
        if trains_a_model && failures.is_err() {
            break;
        }
    }
    failures
}

/// A part that is to run.
struct Selected {
    part: &'static Part,
    /// Its folder.
    folder: PathBuf,
    /// Its sweep, of the groups that are selected.
    file: SweepFile,
    options: SweepOptions,
    /// The run whose model it is about.
    model: Option<PathBuf>,
    /// Whether another part is about its model.
    trains_a_model: bool,
}

/// The parts with the groups that `--only` names. One that has none of them is left out, unless it trains the model of another.
fn selected(named: &[&'static Part], options: &SweepOptions, place: &Path) -> Result<Vec<Selected>> {
    let files = named.iter().map(|part| SweepFile::parse(part.text, &format!("configs/labs/{}.toml", part.name)));
    let files = files.collect::<Result<Vec<_>>>()?;
    let names = |file: &SweepFile| file.groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
    let mut all: Vec<String> = Vec::new();
    files.iter().flat_map(names).for_each(|name| {
        if !all.contains(&name) {
            all.push(name);
        }
    });
    if let Some(wrong) = options.only.iter().find(|name| !all.contains(name)) {
        return Err(match all.is_empty() {
            true => usage!("`only` {wrong}: the experiment has no groups"),
            false => {
                usage!("`only`: there is no group {}: {}", quoted(wrong), nearest(wrong, all.iter().map(String::as_str)))
            }
        });
    }
    let mut parts = Vec::new();
    for (part, mut file) in named.iter().copied().zip(files) {
        let own = names(&file);
        let wanted: Vec<String> = options.only.iter().filter(|name| own.contains(name)).cloned().collect();
        let trains_a_model = named.iter().any(|other| other.model.is_some_and(|(of, _)| of == part.name));
        if wanted.is_empty() && !options.only.is_empty() && !trains_a_model {
            continue;
        }
        file.select(&wanted)?;
        let model = part.model.map(|(of, run)| cell_folder(&place.join(of), run));
        if let Some(model) = &model {
            file.set_default("model", model.to_string_lossy().into());
        }
        let options = if trains_a_model { of_place(options) } else { options.clone() };
        parts.push(Selected { part, folder: place.join(part.name), file, options, model, trains_a_model });
    }
    Ok(parts)
}

/// The options that a part has which trains the model of another: what else is given is about the other.
fn of_place(options: &SweepOptions) -> SweepOptions {
    let Common { data, device, threads, .. } = options.knobs.common.clone();
    let common = Common { data, device, threads, ..Common::default() };
    SweepOptions {
        only: Vec::new(),
        halving: None,
        knobs: RawArgs { common, ..RawArgs::default() }.into(),
        ..options.clone()
    }
}

impl Selected {
    /// Checks the options of its cells, before any part is run.
    fn check(&self) -> Result<()> {
        plan::check(&grid::cells(&self.file, &file::typed(&self.options.knobs)?)?, &self.folder)?;
        let LabArgs { image, target: digit, .. } = self.options.knobs.lab;
        image.map_or(Ok(()), |image| {
            lab_run::check_target(self.options.knobs.common.data.as_deref(), Target { image, digit })
        })
    }

    /// Runs the cells and reports on them. The error inside names cells that failed.
    fn run(mut self, stop: &Stop, quiet: bool) -> Result<Result<()>> {
        let knobs = &self.options.knobs;
        let trained = self.model.as_ref().filter(|_| knobs.common.model.is_none());
        if let Some(model) = trained.filter(|model| self.options.dry_run && !model.join(RESULTS).is_file()) {
            tracing::warn!("{}: its cells are checked once {} is trained", self.part.name, model.display());
            return Ok(Ok(()));
        }
        if knobs.lab.image.is_none() {
            let model = knobs.common.model.as_ref().map(PathBuf::from).or(self.model.clone());
            leave_out_unfit(&mut self.file, model.as_deref(), knobs)?;
        }
        let baseline = self.part.baseline.filter(|name| self.file.groups.iter().any(|group| group.name == *name));
        let end = run_sweep(self.file, self.folder.clone(), &self.options, stop, quiet)?;
        if self.options.dry_run {
            return Ok(Ok(()));
        }
        let begun: Vec<PathBuf> = end.cells.into_iter().filter(|cell| cell.join("run.json").is_file()).collect();
        let aligned = if self.part.aligned { align(&begun, stop) } else { Ok(()) };
        let reported = aligned.and_then(|()| report(&self.folder, &begun, self.part.to_loss, baseline, self.options.json));
        match (reported, end.failures) {
            (Err(why), Err(failures)) => {
                tracing::warn!("there is no report: {why:#}");
                Ok(Err(failures))
            }
            (reported, failures) => reported.map(|()| failures),
        }
    }
}

/// Leaves out the images on which no attack can begin.
fn leave_out_unfit(file: &mut SweepFile, model: Option<&Path>, knobs: &RawArgs) -> Result<()> {
    let images: Vec<usize> = file.values("image").iter().filter_map(|image| usize::try_from(image.as_u64()?).ok()).collect();
    let (Some(model), false) = (model, images.is_empty()) else { return Ok(()) };
    let unfit = lab_run::unfit(model, knobs.common.data.as_deref(), &images, knobs.lab.target)?;
    for (image, why) in &unfit {
        tracing::warn!("image {image} is left out: {why}");
    }
    if unfit.len() == images.len() {
        return Err(usage!("`model` {}: an attack can begin on none of the {} images", model.display(), images.len()));
    }
    file.retain("image", |image| !unfit.iter().any(|(at, _)| image.as_u64() == Some(*at as u64)));
    Ok(())
}

/// Reports on all runs in the folder of a part; where they do not compare, on those of this call (`begun`).
fn report(folder: &Path, begun: &[PathBuf], to_loss: &[Goal], baseline: Option<&str>, as_json: bool) -> Result<()> {
    let names = |folders: &[PathBuf]| folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
    let of = |folders: &[PathBuf]| Report::of(&names(folders), to_loss, baseline);
    let report = of(&[cells_folder(folder)]).or_else(|why| {
        let report = of(begun)?;
        tracing::warn!("the report is on the runs of this call alone: {why:#}");
        anyhow::Ok(report)
    })?;
    let page = written::write(&report, &folder.join("report"))?;
    if !as_json {
        say(&format!("\n{}\n\nreport   {}", as_text(&report, 200), page.display()))?;
    }
    Ok(())
}

/// Compares the estimates of runs with true gradients, where that is not done up to their ends.
fn align(runs: &[PathBuf], stop: &Stop) -> Result<()> {
    for (i, run) in runs.iter().enumerate() {
        stop.check(|| "stopped while runs were compared with true gradients".into())?;
        if !alignment::is_current(run)? {
            tracing::info!("compare {:>5}/{}  {}", i + 1, runs.len(), run.display());
            alignment::compare(run)?;
        }
    }
    Ok(())
}

fn list() -> Result<()> {
    let mut text = String::new();
    for Experiment { name, about, parts } in EXPERIMENTS {
        let parts: Vec<&str> = parts.iter().map(|part| part.name).collect();
        text += &format!("{name:<14} {about}\n{:14} parts: {}\n", "", parts.join(", "));
    }
    say(text.trim_end())
}
