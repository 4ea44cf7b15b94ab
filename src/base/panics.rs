//! Turns panics of other crates over damaged files into values.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local!(static EXPECTS_PANICS: Cell<bool> = const { Cell::new(false) });

/// The result of `read`, or None if it panics, as some crates do over damaged files; the panic message is suppressed.
/// A last resort: inputs known to cause a panic are rejected beforehand.
pub fn unless_panic<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous_hook = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTS_PANICS.get() {
                previous_hook(info)
            }
        }));
    });
    let before = EXPECTS_PANICS.replace(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    EXPECTS_PANICS.set(before);
    read.ok()
}
