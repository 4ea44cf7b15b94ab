//! Progress bars of downloads, drawn by whoever shows things.

use std::sync::OnceLock;

use indicatif::ProgressBar;

type MakeBar = fn(&str, u64) -> ProgressBar;

static BARS: OnceLock<MakeBar> = OnceLock::new();

/// Lets whoever shows things make the bars of downloads, from a file's name and its length; without it there are none.
pub fn draw_bars_with(make: MakeBar) {
    let _ = BARS.set(make);
}

/// The bar of a download of `len` bytes.
pub fn bar(name: &str, len: u64) -> ProgressBar {
    BARS.get().map_or_else(ProgressBar::hidden, |make| make(name, len))
}
