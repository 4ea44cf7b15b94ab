//! The figures of a report.

use super::axis::round_ticks;
use super::curves::{AXES, Axis, Band, MEASURES, Measure, of_group, thinned};
use super::plot::{cut, ticks};
use super::summary::Report;
use super::svg::{Bars, COLOURS, Chart, Series, Style, cut_text};
use super::table::MIB;
use crate::run::Memory;

/// The most points of a smoothed curve that are drawn; they are a thirtieth of its window apart.
const MOST_POINTS: usize = 300;

/// The colours of the parts of memory, in the order of [`parts`]: the program itself is grey.
const PART_COLOURS: [&str; 7] = [COLOURS[0], COLOURS[1], COLOURS[5], COLOURS[2], COLOURS[3], COLOURS[4], "#999999"];

/// A figure: where it belongs and how it is drawn.
pub struct Figure {
    /// Its name in file names.
    pub name: String,
    /// The axis of a chart; None: the bars of memory.
    pub axis: Option<Axis>,
    /// What it shows, for people.
    pub title: String,
    /// The picture, with its own title and legend.
    pub alone: String,
    /// The picture for a page that has both.
    pub inline: String,
    /// What a reader must know of it, in sentences.
    pub captions: Vec<String>,
}

/// The class by which a page finds all that belongs to a group.
pub fn class(group: usize) -> String {
    format!("g{group}")
}

/// All figures: each measure over each axis, as far as a run has logged it, and memory.
pub fn figures(report: &Report) -> Vec<Figure> {
    let mut all = Vec::new();
    let is_exact = report.is_exact();
    // The training loss of a function that is scored exactly is its score, some steps before.
    for measure in MEASURES.into_iter().filter(|measure| !is_exact || *measure != Measure::TrainLoss) {
        let groups = &report.groups.groups;
        let curves: Vec<Vec<Band>> = groups.iter().map(|group| of_group(group, measure)).collect();
        if curves.iter().all(Vec::is_empty) {
            continue;
        }
        let fits =
            |axis: &Axis| (report.has_tokens() || *axis != Axis::Tokens) && (!measure.is_by_step() || *axis == Axis::Steps);
        let axes = AXES.into_iter().filter(fits);
        all.extend(axes.map(|axis| curve_figure(report, measure, axis, &curves)));
    }
    all.extend(memory(report));
    all
}

fn curve_figure(report: &Report, measure: Measure, axis: Axis, curves: &[Vec<Band>]) -> Figure {
    let at = axis as usize;
    let last = curves.iter().flatten().map(|band| band.spent[at]).fold(0.0, f64::max);
    let (scale, x_label) = unit(axis, last);
    let begin = curves.iter().filter_map(|curve| curve.first()).map(|band| band.high).reduce(f64::max);
    let highs = curves.iter().flatten().map(|band| band.high);
    let (least, most) = curves
        .iter()
        .flatten()
        .fold((f64::INFINITY, 0f64), |(least, most), band| (least.min(band.low), most.max(band.high)));
    let is_exact = report.is_exact();
    let is_cosine = matches!(measure, Measure::GradientCosine | Measure::MomentCosine);
    let log = is_exact && !is_cosine && least > 0.0 && most > 20.0 * least && most.is_finite();
    let (title, y_label) = match is_exact && measure == Measure::DevLoss {
        true => ("loss", "f(x)"),
        false => (measure.title(), measure.label()),
    };
    let is_loss = matches!(measure, Measure::TrainLoss | Measure::DevLoss);
    let cut = begin.filter(|_| is_loss && !log).and_then(|begin| cut(begin, highs));
    let x_max = last / scale;
    let named = report.groups.groups.iter().zip(curves).enumerate().filter(|(_, (_, curve))| !curve.is_empty());
    let said = captions(report, measure, axis);
    let draw = |alone: bool| Chart {
        title: format!("{title} over {}", axis.title()),
        x_label: x_label.clone(),
        y_label: y_label.into(),
        x_max,
        x_ticks: if axis == Axis::Steps { ticks(last as u64) } else { round_ticks(0.0, x_max, 6) },
        series: named
            .clone()
            .map(|(i, (group, curve))| {
                let drawn = if measure == Measure::TrainLoss { thinned(curve, MOST_POINTS) } else { curve.clone() };
                let several = group.runs.len() > 1;
                Series {
                    label: group.label.clone(),
                    class: class(i),
                    style: Style::of(i),
                    line: drawn.iter().map(|band| (band.spent[at] / scale, band.mean)).collect(),
                    band: if several { drawn.iter().map(|band| (band.low, band.high)).collect() } else { Vec::new() },
                    thin: Vec::new(),
                    markers: measure != Measure::TrainLoss && drawn.len() <= 40,
                }
            })
            .collect(),
        cut,
        log,
        alone,
        captions: said.clone(),
    };
    Figure {
        name: format!("{}-by-{}", measure.name(), axis.name()),
        axis: Some(axis),
        title: title.into(),
        alone: draw(true).svg(),
        inline: draw(false).svg(),
        captions: said.iter().cloned().chain(cut.map(cut_text)).collect(),
    }
}

/// What the lines and bands of a chart are.
fn captions(report: &Report, measure: Measure, axis: Axis) -> Vec<String> {
    let mut said = Vec::new();
    if report.groups.groups.iter().any(|group| group.runs.len() > 1) {
        said.push("Line: mean over the seeds. Band: from the lowest seed to the highest.".into());
    }
    if measure == Measure::TrainLoss {
        said.push("Running mean over a tenth of the steps, from where it has as many.".into());
    }
    if axis == Axis::Evaluations {
        said.push("A backward pass counts as two function evaluations.".into());
    }
    said
}

/// The unit of an axis that ends at `last`: how many of its counts it has, and the axis' label.
fn unit(axis: Axis, last: f64) -> (f64, String) {
    let (scale, unit) = match axis {
        Axis::Seconds if last >= 3.0 * 3600.0 => (3600.0, "wall time (hours)"),
        Axis::Seconds if last >= 300.0 => (60.0, "wall time (minutes)"),
        Axis::Seconds => (1.0, "wall time (seconds)"),
        Axis::Steps => (1.0, "step"),
        _ if last >= 3e6 => (1e6, "millions"),
        _ if last >= 3e4 => (1e3, "thousands"),
        _ => (1.0, ""),
    };
    let of = |counted: &str| if unit.is_empty() { counted.into() } else { format!("{counted} ({unit})") };
    let label = match axis {
        Axis::Steps | Axis::Seconds => unit.into(),
        Axis::Evaluations => of("function evaluations"),
        Axis::Tokens => of("tokens in forward passes"),
    };
    (scale, label)
}

/// Memory by part of every group that has a finished run.
fn memory(report: &Report) -> Option<Figure> {
    let known: Vec<(usize, &str, Memory)> =
        report.rows.iter().enumerate().filter_map(|(i, row)| Some((i, row.group.as_str(), row.memory?))).collect();
    let (.., first) = known.first()?;
    let largest = known.iter().map(|(.., memory)| memory.peak_rss_bytes).max().unwrap_or(0);
    // Less than a hundredth of the longest bar is not seen.
    let seen = |at: &usize| known.iter().any(|(.., memory)| memory.parts()[*at].2 as u64 * 100 > largest);
    let kept: Vec<usize> = (0..7).filter(seen).collect();
    let draw = |alone: bool| Bars {
        title: "peak memory by part".into(),
        x_label: "peak resident memory (MiB)".into(),
        parts: kept.iter().map(|at| (first.parts()[*at].0.into(), PART_COLOURS[*at])).collect(),
        bars: known
            .iter()
            .map(|(i, name, memory)| {
                (name.to_string(), class(*i), kept.iter().map(|at| memory.parts()[*at].2 as f64 / MIB).collect())
            })
            .collect(),
        alone,
    };
    Some(Figure {
        name: "memory".into(),
        axis: None,
        title: "memory by part".into(),
        alone: draw(true).svg(),
        inline: draw(false).svg(),
        captions: vec!["Of each group the finished run with the largest peak.".into()],
    })
}
