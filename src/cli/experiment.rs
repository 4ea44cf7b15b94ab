//! `lab`: experiments of papers, each a sweep that is built in, and its report.

use std::path::Path;

use anyhow::{Context, Result};

use super::args::{ExperimentArgs, SweepOptions};
use super::experiments::{EXPERIMENTS, Experiment, Part};
use super::screen::say;
use super::sweep::run_sweep;
use crate::base::Stop;
use crate::base::text::{nearest, quoted};
use crate::report::{Report, as_text, written};
use crate::run::alignment;
use crate::sweep::SweepFile;

pub fn experiment_verb(args: ExperimentArgs, quiet: bool) -> Result<()> {
    let Some(name) = &args.name else { return list() };
    let known = || EXPERIMENTS.iter().flat_map(|experiment| experiment.parts.iter().map(move |part| (experiment, part)));
    let mut named: Vec<_> = known().filter(|(experiment, part)| experiment.name == name || part.name == name).collect();
    if named.is_empty() {
        let names = EXPERIMENTS.iter().map(|e| e.name).chain(known().map(|(_, part)| part.name));
        return Err(usage!("{name}: there is no experiment of this name: {}", nearest(name, names)));
    }
    if args.options.knobs.common.model.is_some() && named.iter().any(|(_, part)| part.model.is_some()) {
        // With a model at hand, what would train one is left out.
        named.retain(|(_, part)| part.model.is_some());
    }
    if named.len() > 1 && args.options.json {
        return Err(usage!("`json`: {name} has several parts; name one of them"));
    }
    let parse = |(experiment, part): &(&'static Experiment, &'static Part)| {
        let file = SweepFile::parse(part.text, &format!("configs/labs/{}.toml", part.name))?;
        Ok(Selected { experiment, part, file })
    };
    let mut parts = named.iter().map(parse).collect::<Result<Vec<_>>>()?;
    select(&mut parts, &args.options.only)?;
    let stop = Stop::listen()?;
    let place = args.options.knobs.output_dir.clone().unwrap_or_else(|| Path::new("runs").join("labs"));
    parts.into_iter().try_for_each(|part| run(part, &place, &args.options, &stop, quiet))
}

/// A part that is to run, with the groups that are selected.
struct Selected {
    experiment: &'static Experiment,
    part: &'static Part,
    file: SweepFile,
}

/// Keeps the groups called `names`. A part that has none of them, such as the network of the attack, stays whole. A name that no part
/// has is a usage error.
fn select(parts: &mut [Selected], names: &[String]) -> Result<()> {
    let groups = |file: &SweepFile| file.groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
    let all: Vec<String> = parts.iter().flat_map(|part| groups(&part.file)).collect();
    if let Some(wrong) = names.iter().find(|name| !all.contains(name)) {
        return Err(usage!(
            "`only`: there is no group {}: {}",
            quoted(wrong),
            nearest(wrong, all.iter().map(String::as_str))
        ));
    }
    parts.iter_mut().try_for_each(|Selected { file, .. }| {
        let own = groups(file);
        file.select(&names.iter().filter(|name| own.contains(name)).cloned().collect::<Vec<_>>())
    })
}

/// Runs a part in a folder of its name, and reports on it.
fn run(selected: Selected, place: &Path, options: &SweepOptions, stop: &Stop, quiet: bool) -> Result<()> {
    let Selected { experiment, part, mut file } = selected;
    if let Some(model) = part.model.map(|model| place.join(model)) {
        if options.dry_run && options.knobs.common.model.is_none() && !model.exists() {
            return say(&format!("{}: its cells are checked once {} is trained", part.name, model.display()));
        }
        file.set_default("model", model.to_string_lossy().into());
    }
    let folder = place.join(part.name);
    let baseline = experiment.baseline.filter(|name| file.groups.iter().any(|group| group.name == *name));
    run_sweep(file, folder.clone(), options, stop, quiet)?;
    if options.dry_run {
        return Ok(());
    }
    let cells = folder.join("cells").display().to_string();
    if experiment.aligned {
        align(&folder.join("cells"), stop)?;
    }
    let report = Report::of(&[cells], experiment.to_loss, baseline)?;
    let place = folder.join("report");
    written::check(&place, false)?;
    let page = written::write(&report, &place)?;
    if !options.json {
        say(&format!("\n{}\n\nreport   {}", as_text(&report, 200), page.display()))?;
    }
    Ok(())
}

/// Compares the estimates of the runs in `cells` with true gradients, where that is not done.
fn align(cells: &Path, stop: &Stop) -> Result<()> {
    let entries = std::fs::read_dir(cells).with_context(|| cells.display().to_string())?;
    let mut runs: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("run.json").is_file()).collect();
    runs.sort();
    for (i, run) in runs.iter().enumerate().filter(|(_, run)| !run.join(alignment::FILE).is_file()) {
        stop.check(|| "stopped while runs were compared with true gradients".into())?;
        tracing::info!("compare {:>5}/{}  {}", i + 1, runs.len(), run.display());
        alignment::compare(run)?;
    }
    Ok(())
}

fn list() -> Result<()> {
    let mut text = String::new();
    for Experiment { name, about, parts, .. } in EXPERIMENTS {
        let parts: Vec<&str> = parts.iter().map(|part| part.name).collect();
        text += &format!("{name:<14} {about}\n{:14} parts: {}\n", "", parts.join(", "));
    }
    say(text.trim_end())
}
