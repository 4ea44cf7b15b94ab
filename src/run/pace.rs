//! The remaining time of a long task, logged at intervals where no bar shows it.

use std::time::Instant;

/// Seconds until the first report; the elapsed time of each is twice that of the one before, but at most [`LONGEST`]
/// later.
const FIRST: f64 = 15.0;

const LONGEST: f64 = 600.0;

/// The pace of a task of a known number of parts.
pub struct Pace {
    start: Instant,
    /// Parts done at the start, and the total.
    begun: u64,
    total: u64,
    /// The time of the next report, in seconds from the start.
    next: f64,
}

impl Pace {
    /// Starts the clock with `begun` of `total` parts done.
    pub fn new(begun: u64, total: u64) -> Self {
        Pace { start: Instant::now(), begun, total, next: FIRST }
    }

    /// The remaining time in seconds after `done` parts; None before the first one finishes.
    pub fn left(&self, done: u64) -> Option<f64> {
        self.left_at(done, self.start.elapsed().as_secs_f64())
    }

    fn left_at(&self, done: u64, seconds: f64) -> Option<f64> {
        let made = done.checked_sub(self.begun).filter(|made| *made > 0)?;
        Some(seconds / made as f64 * self.total.saturating_sub(done) as f64)
    }

    /// The same if a report is due, else None.
    pub fn due(&mut self, done: u64) -> Option<f64> {
        self.due_at(done, self.start.elapsed().as_secs_f64())
    }

    fn due_at(&mut self, done: u64, seconds: f64) -> Option<f64> {
        let left = self.left_at(done, seconds).filter(|_| seconds >= self.next && done < self.total)?;
        self.next = (2.0 * seconds).min(seconds + LONGEST);
        Some(left)
    }
}

/// An estimated duration in seconds, for people.
pub fn roughly(seconds: f64) -> String {
    if seconds < 120.0 { format!("{:.0} s", seconds.max(1.0)) } else { duration(seconds) }
}

/// A duration in seconds, for people.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.1} ms", 1e3 * s),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_ever_less_often_and_never_at_the_end() {
        let mut pace = Pace::new(10, 1010);
        // One part per second since the start.
        let said: Vec<u64> = (1..=1000).filter(|s| pace.due_at(10 + s, *s as f64).is_some()).collect();
        assert_eq!(said, [15, 30, 60, 120, 240, 480, 960]);
        assert_eq!(Pace::new(10, 1010).due_at(30, 20.0), Some(980.0));
        assert_eq!(Pace::new(0, 100_000).left_at(0, 5.0), None);
        let mut long = Pace { next: 5000.0, ..Pace::new(0, 1_000_000) };
        assert!(long.due_at(1, 5000.0).is_some() && long.next == 5600.0);
        assert_eq!([0.0123, 3.456, 45.6, 600.0, 9000.0].map(duration), ["12.3 ms", "3.46 s", "46 s", "10 min", "2.5 h"]);
        assert_eq!([0.2, 5.81, 600.0].map(roughly), ["1 s", "6 s", "10 min"]);
    }
}
