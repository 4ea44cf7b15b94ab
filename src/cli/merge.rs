//! `export --merge`: a model with its adapter merged into the weights.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::args::ExportArgs;
use super::format::eval_flags;
use super::screen::{self, on_threads, say};
use crate::base::text::shell_quoted;
use crate::config::{Common, Inputs};
use crate::model::adapter::Adapter;
use crate::model::adapter::stored::CONFIG as ADAPTER_CONFIG;
use crate::run::trajectory::Trajectory;
use crate::run::trajectory::record::FILE;
use crate::run::{Claim, LoadedModel, folder};

pub fn merge_verb(args: ExportArgs) -> Result<()> {
    on_threads(None, || merge(&args))
}

fn merge(args: &ExportArgs) -> Result<()> {
    let from = &args.run;
    let Some(out) = &args.output_dir else { return Err(usage!("--merge needs --output-dir")) };
    if from.is_dir() && !from.join(ADAPTER_CONFIG).exists() {
        return Err(usage!("{}: this folder has no adapter to merge ({ADAPTER_CONFIG} is missing)", from.display()));
    }
    let adapter = Adapter::open(from)?;
    adapter.check_merges()?;
    let then = match from.join(FILE).is_file() {
        true => Some(folder::inputs_of(&Trajectory::open(from)?, from)),
        false => None,
    };
    // A checkpoint has no log.
    let began = then.clone().or_else(|| Some(folder::run_of(from)?.1.inputs));
    let named =
        args.model.clone().or(began.as_ref().map(|inputs| inputs.model.clone())).or(adapter.base().map(String::from));
    let Some(model) = named else {
        return Err(usage!("{} does not record its base model; name it with --model", from.display()));
    };
    if let Some(began) = began.as_ref().filter(|_| args.model.is_none()) {
        began.check_began_here()?;
    }
    let common = Common {
        model: Some(model.clone()),
        revision: args.model.is_none().then(|| began.as_ref()?.revision.clone()).flatten(),
        adapter: Some(from.clone()),
        trajectory: began.as_ref().and_then(Trajectory::to_base).cloned(),
        dtype: args.dtype.or(then.as_ref().map(|inputs| inputs.dtype)),
        ..Common::default()
    };
    let inputs = Inputs::check(common)?;
    folder::check(out, args.overwrite_output_dir, &inputs.places())?;
    let claim = Claim::new(out, args.overwrite_output_dir)?;
    let start = Instant::now();
    let LoadedModel { model, params, .. } = screen::load(LoadedModel::open_meta(&inputs)?.0, &inputs, true)?;
    claim.clear(false)?;
    model.write_merged(params, out)?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        return say(&json!({ "model": inputs.model, "adapter": from, "output_dir": out, "seconds": seconds }).to_string());
    }
    let task = then.map_or("--task sst2".into(), |then| eval_flags(&Inputs { dtype: inputs.dtype, ..then }));
    say(&format!(
        "model    {}: base model {} with the adapter from {} merged in ({seconds:.1} s)\n\
         next     zotune eval --model {} {task}",
        out.display(),
        inputs.model,
        from.display(),
        shell_quoted(&out.to_string_lossy()),
    ))
}
