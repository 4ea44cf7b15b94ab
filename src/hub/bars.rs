//! Progress bars of downloads; the caller supplies them.

use std::sync::OnceLock;

use indicatif::ProgressBar;

type MakeBar = fn(&str, u64) -> ProgressBar;

static BARS: OnceLock<MakeBar> = OnceLock::new();

/// Sets the constructor of download bars, given a file's name and its length in bytes. Without it no bars are drawn.
pub fn draw_bars_with(make: MakeBar) {
    let _ = BARS.set(make);
}

/// The bar of a download of `len` bytes; hidden if [`draw_bars_with`] was not called.
pub fn bar(name: &str, len: u64) -> ProgressBar {
    BARS.get().map_or_else(ProgressBar::hidden, |make| make(name, len))
}
