//! `replay` and `export`: a fine-tuned model from its trajectory, and the trajectory as a file to share.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::args::{ExportArgs, ReplayArgs};
use super::format::{self, eval_flags, model_flags};
use super::screen::{check_new, describe_model, load, on_threads, progress_bar, say};
use crate::base::Digest;
use crate::base::text::shell_quoted;
use crate::config::Inputs;
use crate::params::digest::trained_digests;
use crate::run::known::check_has_model;
use crate::run::replay::replay_model;
use crate::run::trajectory::Trajectory;
use crate::run::trajectory::export::{Exported, export};
use crate::run::{Claim, LoadedModel, folder};

pub fn replay_verb(args: ReplayArgs, quiet: bool) -> Result<()> {
    on_threads(args.threads, || replay_to(&args, quiet))
}

fn replay_to(args: &ReplayArgs, quiet: bool) -> Result<()> {
    let trajectory = Trajectory::open(&args.place)?;
    check_has_model(&trajectory.header.config, &args.place)?;
    trajectory.check_replays()?;
    trajectory.warn_if_part(&args.place);
    let recorded = &folder::inputs_of(&trajectory, &args.place);
    let is_recorded = args.model.as_ref().is_none_or(|model| *model == recorded.model);
    let inputs = Inputs {
        model: args.model.clone().unwrap_or(recorded.model.clone()),
        revision: args.revision.clone().or(recorded.revision.clone().filter(|_| is_recorded)),
        trajectory: args.trajectory.clone().or(recorded.trajectory.clone()),
        ..recorded.clone()
    };
    let (steps, to) = (trajectory.steps(), args.to_step.unwrap_or(trajectory.kept()));
    if to > steps {
        return Err(usage!("--to-step {to}: the trajectory has {steps} steps"));
    }
    if args.model.is_none() {
        inputs.check_began_here()?;
    }
    folder::check(&args.output_dir, args.overwrite_output_dir, &[&inputs.places()[..], &[&args.place]].concat())?;
    let claim = Claim::new(&args.output_dir, args.overwrite_output_dir)?;

    let start = Instant::now();
    let mut loaded = load(LoadedModel::open_meta(&inputs)?.0, &inputs, quiet)?;
    describe_model(&inputs, &loaded);
    let bar = progress_bar(to, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    replay_model(&trajectory, &mut loaded, to, &mut |step| {
        bar.set_position(step);
        Ok(())
    })?;
    bar.finish_and_clear();
    let (weights, out) = (loaded.params.settle()?, &args.output_dir);
    let digest = Digest::of_digests(&trained_digests(weights)?);
    claim.clear(inputs.is_adapted())?;
    loaded.model.write_companions(out, loaded.params.dtype(), &inputs.model)?;
    loaded.model.save(loaded.params.settle()?, out)?;

    let seconds = start.elapsed().as_secs_f64();
    let checked = trajectory.dev.range(..=to).next_back().map_or(0, |(step, _)| *step);
    if args.json {
        return say(&json!({
            "step": to, "of": steps, "digest": digest, "checked_to": checked, "seconds": seconds,
        })
        .to_string());
    }
    let agrees = match checked == to {
        true => "identical to the run's weights".into(),
        false => format!("the run has no digest for this step; at step {checked} the weights were identical"),
    };
    let kept = if to == trajectory.kept() { " (best step)" } else { "" };
    say(&format!(
        "step     {to} of {steps}{kept}: {agrees} (digest {digest}, {seconds:.1} s)\n\
         model    {}\n\
         next     zotune eval {} {}",
        out.display(),
        model_flags(&inputs, out),
        eval_flags(&inputs),
    ))
}

pub fn export_verb(args: ExportArgs) -> Result<()> {
    let Some(to) = &args.trajectory else {
        return Err(usage!("say what to export: --trajectory FILE, or for a merged model --merge --output-dir FOLDER"));
    };
    let from = &args.run;
    let trajectory = Trajectory::open(from)?;
    check_has_model(&trajectory.header.config, from)?;
    trajectory.warn_if_part(from);
    if !trajectory.header.replays {
        return Err(usage!(
            "{} cannot be exported as a trajectory (it uses first-order gradients); share the folder {} instead",
            trajectory.header.config.optimizer,
            from.display()
        ));
    }
    if to.is_dir() {
        return Err(usage!("--trajectory {}: it is a folder; give the name of a file", to.display()));
    }
    if to.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(usage!("--trajectory {}: its folder does not exist", to.display()));
    }
    check_new("--trajectory", to)?;
    let Exported { front, steps: of_steps } = export(&trajectory, to)?;
    let (steps, bytes) = (trajectory.steps(), front + of_steps);
    let a_step = of_steps as f64 / steps.max(1) as f64;
    if args.json {
        return say(&json!({ "steps": steps, "bytes": bytes, "bytes_per_step": a_step }).to_string());
    }
    let front = front as f64 / 1e3;
    let inputs = folder::inputs_of(&trajectory, from);
    say(&format!(
        "wrote    {}: {bytes} bytes for {} (header {front:.1} KB, {a_step:.1} bytes per step)\n\
         next     zotune eval --model {} --trajectory {} {}",
        to.display(),
        format::steps(steps),
        shell_quoted(&inputs.model),
        shell_quoted(&to.to_string_lossy()),
        eval_flags(&inputs),
    ))
}
