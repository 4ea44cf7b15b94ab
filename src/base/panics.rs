//! Panics of other crates over damaged files, as a value.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local!(static EXPECTS_PANICS: Cell<bool> = const { Cell::new(false) });

/// What `read` gives, or None where it panics: some crates do so over damaged files. Nothing is said of it elsewhere. A last resort: what is
/// known to make them panic is refused by name before.
pub fn unless_panic<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTS_PANICS.get() {
                others(info)
            }
        }));
    });
    let before = EXPECTS_PANICS.replace(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    EXPECTS_PANICS.set(before);
    read.ok()
}
