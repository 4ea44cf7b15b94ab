//! The ticks and the range of an axis.

use crate::base::numbers::short;

/// The labelled values of an axis over this range of scaled values: of a logarithmic one powers of ten, and 2 and 5 times
/// these where there are few.
pub(super) fn labelled_ticks(low: f64, high: f64, log: bool) -> Vec<(f64, String)> {
    if !log {
        return round_ticks(low, high, 6).into_iter().map(|tick| (tick, tick_label(tick, high - low))).collect();
    }
    let digits: &[f64] = if high - low < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = ((high - low) / 8.0).ceil().max(1.0) as i32;
    let powers = (low.floor() as i32..=high.ceil() as i32).filter(|power| power.rem_euclid(every) == 0);
    let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    let inside = ticks.filter(|tick| (low..=high).contains(&tick.log10()));
    let label = |tick: f64| if (1e-3..1e5).contains(&tick) { short(tick) } else { format!("{tick:.0e}") };
    inside.map(|tick| (tick, label(tick))).collect()
}

/// A value as an axis has it: its logarithm to base 10 on a logarithmic one.
pub(super) fn scaled(y: f64, log: bool) -> f64 {
    if log { y.log10() } else { y }
}

/// Round numbers from `low` to `high`, at most `most` + 1 of them.
pub(super) fn round_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * (1.0 - 1e-9));
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A tick's number, with as many digits as an axis of this length needs.
pub(super) fn tick_label(tick: f64, length: f64) -> String {
    let digits = (1.0 - (length.log10() - 0.7).floor()).clamp(0.0, 6.0) as usize;
    if length >= 1e7 && tick != 0.0 {
        return format!("{tick:.1e}");
    }
    let text = format!("{tick:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text };
    if text == "-0" { "0".into() } else { text }
}

/// The finite range of scaled values with a margin, which does not go below 0 where they do not.
pub(super) fn range(values: impl Iterator<Item = f64>, log: bool) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = (0.06 * (high - low)).max(1e-3);
    (if log || low < 0.0 { low - room } else { (low - room).max(0.0) }, high + room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(round_ticks(0.0, 150.0, 6), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(round_ticks(0.0, 1.0, 5).len(), 6);
        let labels: Vec<String> = round_ticks(0.585, 0.742, 6).iter().map(|t| tick_label(*t, 0.157)).collect();
        assert_eq!(labels, ["0.6", "0.65", "0.7"]);
        assert_eq!(round_ticks(1.0, 1.0, 6), [0.0; 0]);
        assert_eq!(tick_label(40.0, 100.0), "40");
    }

    #[test]
    fn a_range_goes_below_zero_where_its_values_do() {
        assert_eq!(range([0.01, 1.0].into_iter(), false).0, 0.0);
        assert!(range([-3.0, 30.0].into_iter(), false).0 < -3.0);
        assert_eq!(range([f64::NAN].into_iter(), false), (0.0, 1.0));
    }
}
