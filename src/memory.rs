//! What is held, counted where it is allocated; and what the operating system saw.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

// Signed: what is set aside before it is allocated takes the count below what is held for a moment.
static HELD: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, with the bytes held on the heap counted. Installed by the binary and by the tests.
pub struct Counting;

fn grow(bytes: usize) {
    let held = HELD.fetch_add(bytes as isize, Relaxed) + bytes as isize;
    if held > PEAK.load(Relaxed) {
        PEAK.fetch_max(held, Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) };
        HELD.fetch_sub(layout.size() as isize, Relaxed);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            grow(new_size);
            HELD.fetch_sub(layout.size() as isize, Relaxed);
        }
        moved
    }
}

/// Bytes that somebody else keeps count of: while this lives they do not count as held on the heap. Taken before they
/// are allocated, so that no high-water mark sees them.
#[derive(Debug)]
pub struct SetAside(usize);

impl SetAside {
    /// Sets `bytes` aside.
    pub fn new(bytes: usize) -> Self {
        HELD.fetch_sub(bytes as isize, Relaxed);
        SetAside(bytes)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        HELD.fetch_add(self.0 as isize, Relaxed);
    }
}

/// How much was held on the heap at some time.
#[derive(Clone, Copy, Debug)]
pub struct Mark(isize);

impl Mark {
    /// Now.
    pub fn now() -> Self {
        Mark(HELD.load(Relaxed))
    }

    /// Runs `work` and gives, beside its result, the most bytes that were held meanwhile above this mark.
    ///
    /// Not for nesting or for two threads at once: there is one high-water mark.
    pub fn peak_of<T>(self, work: impl FnOnce() -> T) -> (T, usize) {
        PEAK.store(HELD.load(Relaxed), Relaxed);
        let result = work();
        (result, (PEAK.load(Relaxed) - self.0).max(0) as usize)
    }
}

/// Runs `work` and gives, beside its result, the most bytes that it held on the heap above what was there before it.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    Mark::now().peak_of(work)
}

/// The largest resident set that the process has had, in bytes, as the operating system counts it.
pub fn peak_rss_bytes() -> u64 {
    // Linux: of this program's memory alone. getrusage would count in what ran before exec, `cargo run` for instance.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let high_water =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    if let Some(kib) = high_water {
        return kib * 1024;
    }
    // SAFETY: getrusage fills the struct that it is given.
    let max_rss = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss as u64
    };
    // Linux counts in KiB, macOS in bytes.
    if cfg!(target_os = "macos") { max_rss } else { max_rss * 1024 }
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    match mib {
        m if m < 10.0 => format!("{m:.1} MiB"),
        m if m < 10_240.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}
