//! Plots a run's log; depends on the files only.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::base::files;
use crate::run::log_line::read_log;

/// Plots a run's training and dev loss over steps into `loss.svg`. An empty log is skipped.
pub fn draw_losses(folder: &Path, title: &str) -> Result<()> {
    let log = read_log(folder)?;
    if log.is_empty() {
        return Ok(());
    }
    let train: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.loss?))).collect();
    let dev: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.dev_loss?))).collect();
    let svg = losses_svg(title, &train, &dev).map_err(|e| anyhow!("cannot draw the loss curves: {e}"))?;
    files::write_bytes(&folder.join("loss.svg"), svg.as_bytes())
}

const INK: RGBColor = RGBColor(60, 60, 60);

const TRAIN: RGBColor = RGBColor(31, 119, 180);

const DEV: RGBColor = RGBColor(214, 80, 30);

/// The most characters of a title.
const TITLE: usize = 84;

fn losses_svg(title: &str, train: &[(f64, f64)], dev: &[(f64, f64)]) -> Result<String, Box<dyn std::error::Error>> {
    let smooth = smoothed(train);
    let last = train.iter().chain(dev).map(|p| p.0).fold(1.0, f64::max);
    let cut = cut(train, dev);
    let shown = |&(x, y): &(f64, f64)| (x, cut.map_or(y, |cut| y.min(cut)));
    let (low, high) = range(train.iter().chain(dev).map(|p| shown(p).1));
    let mut svg = String::new();
    let y_label = |y: &f64| if high >= 1e4 && *y != 0.0 { format!("{y:.1e}") } else { format!("{y:.2}") };
    let few = train.len() <= 30;
    {
        let root = SVGBackend::with_string(&mut svg, (760, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let (picture, below) = root.split_vertically(450);
        let mut chart = ChartBuilder::on(&picture)
            .caption(shortened(title, TITLE), ("sans-serif", 17).into_font().color(&INK))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(Steps(last), low..high)?;
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
            .draw()?;
        let is_smooth = smooth != train;
        if is_smooth {
            chart.draw_series(LineSeries::new(train.iter().map(shown), TRAIN.mix(0.3).stroke_width(1)))?;
        }
        chart.draw_series(LineSeries::new(smooth.iter().map(shown), TRAIN.stroke_width(2)))?;
        chart.draw_series(LineSeries::new(dev.iter().map(shown), DEV.stroke_width(2)))?;
        chart.draw_series(dev.iter().map(|p| Circle::new(shown(p), 3, DEV.filled())))?;
        chart.draw_series(train.iter().filter(|_| few).map(|p| Circle::new(shown(p), 2, TRAIN.filled())))?;
        legend(&below, is_smooth, cut)?;
        root.present()?;
    }
    Ok(svg)
}

/// The legend, below the plot.
fn legend<D: DrawingBackend>(
    area: &DrawingArea<D, Shift>,
    is_smooth: bool,
    cut: Option<f64>,
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    let train = if is_smooth { "training loss (thin: not smoothed)" } else { "training loss" };
    let cut = cut.map(|cut| format!("top edge: losses of {cut:.1} or more"));
    let mut x = 72;
    for (colour, text) in [(Some(TRAIN), train), (Some(DEV), "dev loss"), (None, cut.as_deref().unwrap_or_default())] {
        if let Some(colour) = colour {
            area.draw(&PathElement::new([(x, 8), (x + 22, 8)], colour.stroke_width(2)))?;
            x += 28;
        }
        area.draw(&Text::new(text.to_string(), (x, 2), ("sans-serif", 13).into_font().color(&INK)))?;
        // An estimate of the text's width.
        x += 6 * text.chars().count() as i32 + 26;
    }
    Ok(())
}

/// A title of at most `most` characters, shortened in the middle.
fn shortened(title: &str, most: usize) -> String {
    let letters: Vec<char> = title.chars().collect();
    if letters.len() <= most {
        return title.into();
    }
    let (begin, end) = (letters[..most / 2].iter(), letters[letters.len() - (most - most / 2 - 3)..].iter());
    format!("{}...{}", begin.collect::<String>(), end.collect::<String>())
}

/// The axis from step 0 to the last, with [`ticks`].
struct Steps(f64);

impl Ranged for Steps {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, step: &f64, limits: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(step, limits)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        ticks(self.0 as u64)
    }

    fn range(&self) -> Range<f64> {
        0.0..self.0
    }
}

/// At most eleven round step numbers; the first and the last are included.
fn ticks(last: u64) -> Vec<f64> {
    let steps = (0..20).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power.min(18))));
    let step = steps.into_iter().find(|step| last / step <= 10).unwrap_or(last.max(1));
    // Too close to the last tick, labels would overlap.
    let round = (0..=last / step).map(|i| i * step).filter(|tick| *tick == last || 2 * (last - tick) >= step);
    let round: Vec<u64> = round.collect();
    let end = round.last().filter(|tick| **tick != last).map(|_| last);
    round.into_iter().chain(end).map(|tick| tick as f64).collect()
}

/// The upper limit of the loss axis if losses grew far beyond the initial one, which would flatten the rest.
fn cut(train: &[(f64, f64)], dev: &[(f64, f64)]) -> Option<f64> {
    let begin = dev.first().or(train.first())?.1;
    let most = (4.0 * begin).max(begin + 3.0);
    train.iter().chain(dev).any(|p| p.1 > most).then_some(most)
}

/// The exponential moving average over a fiftieth of the points, bias-corrected.
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

/// The finite range of the values with a margin.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_step_are_on_the_axis() {
        assert_eq!(ticks(1), [0.0, 1.0]);
        assert_eq!(ticks(5), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(20_000).len(), 11);
        for last in 1..3000 {
            let ticks = ticks(last);
            assert!(ticks.len() <= 12 && ticks[0] == 0.0 && ticks.last() == Some(&(last as f64)), "{last}: {ticks:?}");
            assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{last}: {ticks:?}");
        }
    }

    #[test]
    fn a_long_title_keeps_its_ends() {
        assert_eq!(shortened("short", 84), "short");
        let short = shortened(&format!("{}, zo-sgd", "\u{e9}".repeat(200)), 84);
        assert!(short.chars().count() == 84 && short.contains("...") && short.ends_with(", zo-sgd"), "{short}");
    }

    /// The legend's text for smoothed and unsmoothed curves, and for losses beyond the axis.
    #[test]
    fn the_legend_says_what_is_drawn() -> Result<(), Box<dyn std::error::Error>> {
        let curve = |n: usize, loss: fn(usize) -> f64| -> Vec<(f64, f64)> { (1..=n).map(|i| (i as f64, loss(i))).collect() };
        let dev = [(0.0, 0.8), (20.0, 0.7)];
        let short = losses_svg("short", &curve(20, |i| 1.0 / i as f64), &dev)?;
        assert!(!short.contains("not smoothed") && !short.contains("top edge"));
        let long = losses_svg("long", &curve(200, |i| 1.0 + (i % 7) as f64), &dev)?;
        assert!(long.contains("thin: not smoothed") && long.contains("top edge: losses of 3.8 or more"));
        let exploded = losses_svg("exploded", &curve(20, |i| if i < 5 { 0.7 } else { 2e16 }), &dev)?;
        assert!(exploded.contains("top edge: losses of 3.8 or more") && !exploded.contains("e16"));
        if let Some(place) = std::env::var_os("ZOTUNE_TEST_PICTURES") {
            for (name, svg) in [("short", short), ("long", long), ("exploded", exploded)] {
                std::fs::write(Path::new(&place).join(format!("{name}.svg")), svg)?;
            }
        }
        Ok(())
    }
}
