//! The files of a report.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::curves::{AXES, MEASURES};
use super::figures::figures;
use super::page::{MARK, page};
use super::png::Painter;
use super::runs::PAGE;
use super::summary::Report;
use super::table::{as_csv, as_markdown};
use crate::base::files;

/// The folder of a report that names none: `report` in the one folder that is reported on, else in the current one.
pub fn default_folder(places: &[String]) -> PathBuf {
    match places {
        [place] if Path::new(place).is_dir() => Path::new(place).join("report"),
        _ => "report".into(),
    }
}

/// Fails with a usage error if `folder` has content that is not an earlier report, without `overwrite`.
pub fn check(folder: &Path, overwrite: bool) -> Result<()> {
    let place = folder.display();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(usage!("`output_dir` {place}: {e}")),
    };
    // What a report that was interrupted has begun to write is no content.
    let mut whole = entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().ends_with(".partial"));
    match overwrite || whole.next().is_none() || is_report(folder) {
        true => Ok(()),
        false => Err(usage!(
            "`output_dir` {place} is not empty and holds no earlier report; choose another folder, or add `overwrite_output_dir`"
        )),
    }
}

/// Whether a report was written to this folder.
fn is_report(folder: &Path) -> bool {
    std::fs::read(folder.join(PAGE)).is_ok_and(|page| page.windows(MARK.len()).any(|part| part == MARK.as_bytes()))
}

/// Writes the page, the tables, and each figure as SVG and PNG to a folder that [`check`] allowed. Files that are not of a
/// report stay. Returns the path of the page.
pub fn write(report: &Report, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make the folder {}: {e}", folder.display()))?;
    // An earlier report may have had figures that this one has not.
    if is_report(folder) {
        remove_figures(folder)?;
    }
    // The page first: a report that is interrupted here is known as one, and written again.
    let place = folder.join(PAGE);
    files::write_bytes(&place, page(report, None).as_bytes())?;
    let painter = Painter::new();
    for figure in figures(report) {
        let path = |ending: &str| folder.join(format!("{}.{ending}", figure.name));
        files::write_bytes(&path("svg"), figure.alone.as_bytes())?;
        files::write_bytes(&path("png"), &painter.png(&figure.alone)?)?;
    }
    files::write_bytes(&folder.join("table.md"), as_markdown(report).as_bytes())?;
    files::write_bytes(&folder.join("table.csv"), as_csv(report).as_bytes())?;
    Ok(place)
}

fn remove_figures(folder: &Path) -> Result<()> {
    let curves = MEASURES.iter().flat_map(|m| AXES.iter().map(move |axis| format!("{}-by-{}", m.name(), axis.name())));
    for name in curves.chain(["memory".into()]) {
        for ending in ["svg", "png"] {
            files::remove(&folder.join(format!("{name}.{ending}")))?;
        }
    }
    Ok(())
}
