//! `report`: figures, tables and a page of runs.

use anyhow::Result;
use serde_json::json;

use super::args::ReportArgs;
use super::flags::with_flags;
use super::screen::say;
use crate::report::serve::{Server, Watched};
use crate::report::{Report, as_text, written};

/// The width of a table where there is no terminal, in characters.
const WIDTH: usize = 200;

pub fn report_verb(args: ReportArgs, quiet: bool) -> Result<()> {
    if args.watch {
        return watch(args);
    }
    let folder = args.output_dir.unwrap_or_else(|| written::default_folder(&args.runs));
    let report = Report::of(&args.runs, &args.to_loss, args.baseline.as_deref())?;
    written::check(&folder, args.overwrite_output_dir)?;
    let page = written::write(&report, &folder)?;
    let notes: Vec<String> = report.notes.iter().map(|note| with_flags(note).into_owned()).collect();
    if args.json {
        let baseline = report.baseline.map(|at| &report.rows[at].group);
        return say(&json!({
            "page": page,
            "targets": report.targets,
            "targets_given": report.targets_given,
            "baseline": baseline,
            "groups": report.rows,
            "notes": notes,
        })
        .to_string());
    }
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    let width = terminal_size::terminal_size_of(std::io::stdout()).map_or(WIDTH, |(width, _)| width.0 as usize);
    say(&as_text(&report, width))?;
    if !quiet {
        say(&format!("\nA ± B: mean and standard deviation over the seeds. Page, tables and figures: {}", page.display()))?;
    }
    Ok(())
}

/// Serves the page until the process is stopped.
fn watch(args: ReportArgs) -> Result<()> {
    let watched = Watched { places: args.runs, to_loss: args.to_loss, baseline: args.baseline };
    let server = Server::start(watched, args.port)?;
    say(&format!("http://{}/  keeps the report current; Ctrl-C ends it", server.address()?))?;
    server.run()
}
