//! A run folder's log as a picture: a pure function of files.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::base::files;
use crate::run::log_line::read_log;

/// Draws a run's training and dev loss over steps into `loss.svg`.
pub fn draw_losses(folder: &Path, title: &str) -> Result<()> {
    let log = read_log(folder)?;
    let train: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.loss?))).collect();
    let dev: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.dev_loss?))).collect();
    let svg = losses_svg(title, &train, &dev).map_err(|e| anyhow!("cannot draw the loss curves: {e}"))?;
    files::write_bytes(&folder.join("loss.svg"), svg.as_bytes())
}

fn losses_svg(title: &str, train: &[(f64, f64)], dev: &[(f64, f64)]) -> Result<String, Box<dyn std::error::Error>> {
    const INK: RGBColor = RGBColor(60, 60, 60);
    const TRAIN: RGBColor = RGBColor(31, 119, 180);
    const DEV: RGBColor = RGBColor(214, 80, 30);
    let smooth = smoothed(train);
    let last = train.iter().chain(dev).map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = range(train.iter().chain(dev).map(|p| p.1));
    let mut svg = String::new();
    let y_label = |y: &f64| if high >= 1e4 { format!("{y:.1e}") } else { format!("{y:.2}") };
    let few = train.len() <= 30;
    {
        let root = SVGBackend::with_string(&mut svg, (760, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 17).into_font().color(&INK))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..last, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(230, 230, 230))
            .axis_style(INK)
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .x_desc("step")
            .y_desc("loss")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&y_label)
            .x_labels((last as usize).clamp(1, 10))
            .draw()?;
        chart.draw_series(LineSeries::new(train.iter().copied(), TRAIN.mix(0.3).stroke_width(1)))?;
        chart
            .draw_series(LineSeries::new(smooth, TRAIN.stroke_width(2)))?
            .label("training (smoothed; thin: as logged)")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], TRAIN.stroke_width(2)));
        chart
            .draw_series(LineSeries::new(dev.iter().copied(), DEV.stroke_width(2)))?
            .label("dev")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], DEV.stroke_width(2)));
        chart.draw_series(dev.iter().map(|p| Circle::new(*p, 3, DEV.filled())))?;
        chart.draw_series(train.iter().filter(|_| few).map(|p| Circle::new(*p, 2, TRAIN.filled())))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13).into_font().color(&INK))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

/// Exponential running mean over a fiftieth of the points, corrected for its start.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        mean = keep * mean + (1.0 - keep) * y;
        weight = keep * weight + (1.0 - keep);
        (x, mean / weight)
    };
    points.iter().map(next).collect()
}

/// From a little below the smallest finite value to a little above the largest.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = (0.06 * (high - low)).max(1e-3);
    ((low - room).max(0.0), high + room)
}
