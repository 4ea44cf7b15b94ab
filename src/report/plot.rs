//! The plot of one run: loss.svg.

use std::path::Path;

use anyhow::Result;

use super::svg::{Chart, Series, Style};
use crate::base::files;
use crate::run::log_line::read_log_so_far;

/// Plots a run's training and dev loss over steps into `loss.svg`. An empty log is skipped.
pub fn draw_losses(folder: &Path, title: &str) -> Result<()> {
    let (log, _) = read_log_so_far(folder)?;
    if log.is_empty() {
        return Ok(());
    }
    let train: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.loss?))).collect();
    let dev: Vec<(f64, f64)> = log.iter().filter_map(|l| Some((l.step as f64, l.dev_loss?))).collect();
    files::write_bytes(&folder.join("loss.svg"), losses_svg(title, train, dev).as_bytes())
}

fn losses_svg(title: &str, train: Vec<(f64, f64)>, dev: Vec<(f64, f64)>) -> String {
    let last = train.iter().chain(&dev).map(|p| p.0).fold(1.0, f64::max);
    let begin = dev.first().or(train.first()).map(|point| point.1);
    let cut = begin.and_then(|begin| cut(begin, train.iter().chain(&dev).map(|point| point.1)));
    let smooth = smoothed(&train);
    let is_smooth = smooth != train;
    let label = if is_smooth { "training loss (thin: not smoothed)" } else { "training loss" };
    let series = |label: &str, at: usize, line: Vec<(f64, f64)>, thin: Vec<(f64, f64)>, markers: bool| Series {
        label: label.into(),
        class: String::new(),
        style: Style::of(at),
        line,
        band: Vec::new(),
        thin,
        markers,
    };
    let few = train.len() <= 30;
    let thin = if is_smooth { train } else { Vec::new() };
    let chart = Chart {
        title: title.into(),
        x_label: "step".into(),
        y_label: "loss".into(),
        x_max: last,
        x_ticks: ticks(last as u64),
        series: vec![series(label, 0, smooth, thin, few), series("dev loss", 1, dev, Vec::new(), true)],
        cut,
        log: false,
        alone: true,
        captions: Vec::new(),
    };
    chart.svg()
}

/// At most ten round step numbers; the first and the last are included.
pub fn ticks(last: u64) -> Vec<f64> {
    let steps = (0..20).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power.min(18))));
    let step = steps.into_iter().find(|step| last / step <= 8).unwrap_or(last.max(1));
    // Too close to the last tick, labels would overlap.
    let round = (0..=last / step).map(|i| i * step).filter(|tick| *tick == last || 5 * (last - tick) >= 3 * step);
    let round: Vec<u64> = round.collect();
    let end = round.last().filter(|tick| **tick != last).map(|_| last);
    round.into_iter().chain(end).map(|tick| tick as f64).collect()
}

/// The upper limit of the axis if losses grew far beyond the one at the begin, which would flatten the rest.
pub fn cut(begin: f64, mut losses: impl Iterator<Item = f64>) -> Option<f64> {
    let most = (4.0 * begin).max(begin + 3.0);
    losses.any(|loss| loss > most).then_some(most)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_step_are_on_the_axis() {
        assert_eq!(ticks(1), [0.0, 1.0]);
        assert_eq!(ticks(5), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(20_000), [0.0, 5e3, 1e4, 1.5e4, 2e4]);
        for last in 1..3000 {
            let ticks = ticks(last);
            assert!(ticks.len() <= 10 && ticks[0] == 0.0 && ticks.last() == Some(&(last as f64)), "{last}: {ticks:?}");
            assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{last}: {ticks:?}");
        }
    }

    /// The legend's text for smoothed and unsmoothed curves, and for losses beyond the axis.
    #[test]
    fn the_legend_says_what_is_drawn() -> Result<()> {
        let curve = |n: usize, loss: fn(usize) -> f64| -> Vec<(f64, f64)> { (1..=n).map(|i| (i as f64, loss(i))).collect() };
        let dev = vec![(0.0, 0.8), (20.0, 0.7)];
        let short = losses_svg("short", curve(20, |i| 1.0 / i as f64), dev.clone());
        assert!(!short.contains("not smoothed") && !short.contains("top edge"));
        let long = losses_svg("long", curve(200, |i| 1.0 + (i % 7) as f64), dev.clone());
        assert!(long.contains("thin: not smoothed") && long.contains("top edge: losses of 3.8 or more"));
        let exploded = losses_svg("exploded", curve(20, |i| if i < 5 { 0.7 } else { 2e16 }), dev);
        assert!(exploded.contains("top edge: losses of 3.8 or more") && !exploded.contains("e16"));
        if let Some(place) = std::env::var_os("ZOTUNE_TEST_PICTURES") {
            for (name, svg) in [("short", short), ("long", long), ("exploded", exploded)] {
                std::fs::write(Path::new(&place).join(format!("{name}.svg")), svg)?;
            }
        }
        Ok(())
    }
}
