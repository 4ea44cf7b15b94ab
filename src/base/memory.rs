//! Memory accounting: bytes counted by the allocator, and the operating system's figures.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::Ordering::Relaxed;

// Signed: setting bytes aside before they are allocated makes the count negative for a moment.
static HELD: AtomicIsize = AtomicIsize::new(0);

static ASIDE: AtomicIsize = AtomicIsize::new(0);

// High-water marks since the last reset, of each counter and of their sum.
static HELD_PEAK: AtomicIsize = AtomicIsize::new(0);

static ASIDE_PEAK: AtomicIsize = AtomicIsize::new(0);

static BOTH_PEAK: AtomicIsize = AtomicIsize::new(0);

/// The system allocator with a count of live heap bytes. Installed by the binary and by the tests.
pub struct Counting;

fn grow(bytes: usize) {
    let held = HELD.fetch_add(bytes as isize, Relaxed) + bytes as isize;
    raise(&HELD_PEAK, held);
    raise(&BOTH_PEAK, held + ASIDE.load(Relaxed));
}

fn raise(peak: &AtomicIsize, to: isize) {
    if to > peak.load(Relaxed) {
        peak.fetch_max(to, Relaxed);
    }
}

// SAFETY: every call goes to the system allocator unchanged; only counters are updated.
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

/// Bytes counted separately from the heap's while this lives: gradients. Created before the allocation, so that the heap's
/// high-water mark never includes them.
#[derive(Debug)]
pub struct SetAside(usize);

impl SetAside {
    /// Counts `bytes` as set aside.
    pub fn new(bytes: usize) -> Self {
        HELD.fetch_sub(bytes as isize, Relaxed);
        raise(&ASIDE_PEAK, ASIDE.fetch_add(bytes as isize, Relaxed) + bytes as isize);
        SetAside(bytes)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        HELD.fetch_add(self.0 as isize, Relaxed);
        ASIDE.fetch_sub(self.0 as isize, Relaxed);
    }
}

/// Bytes in use at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    held: isize,
    aside: isize,
}

/// Peaks in bytes above a [`Mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// On the heap, without what was set aside.
    pub held: usize,
    /// Set aside.
    pub aside: usize,
    /// Of the sum of both; below the sum of their peaks if those do not coincide.
    pub both: usize,
}

impl Peaks {
    /// The elementwise maximum.
    pub fn max(self, other: Peaks) -> Peaks {
        Peaks { held: self.held.max(other.held), aside: self.aside.max(other.aside), both: self.both.max(other.both) }
    }
}

impl Mark {
    /// The current counts.
    pub fn now() -> Self {
        Mark { held: HELD.load(Relaxed), aside: ASIDE.load(Relaxed) }
    }

    /// Runs `work`; returns its result and the peaks during it, relative to this mark.
    ///
    /// Neither nested nor on two threads at once: the high-water marks are global.
    pub fn peaks_of<T>(self, work: impl FnOnce() -> T) -> (T, Peaks) {
        let now = Mark::now();
        HELD_PEAK.store(now.held, Relaxed);
        ASIDE_PEAK.store(now.aside, Relaxed);
        BOTH_PEAK.store(now.held + now.aside, Relaxed);
        let result = work();
        let above = |peak: &AtomicIsize, mark: isize| (peak.load(Relaxed) - mark).max(0) as usize;
        let peaks = Peaks {
            held: above(&HELD_PEAK, self.held),
            aside: above(&ASIDE_PEAK, self.aside),
            both: above(&BOTH_PEAK, self.held + self.aside),
        };
        (result, peaks)
    }
}

/// Runs `work`; returns its result and its peak of bytes in use, relative to the start.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let (result, peaks) = Mark::now().peaks_of(work);
    (result, peaks.both)
}

/// Resident set size in bytes; 0 if the operating system does not say.
pub fn rss_bytes() -> u64 {
    status("VmRSS:").unwrap_or(0)
}

/// Bytes that can be allocated without swapping (Linux: MemAvailable); None elsewhere.
pub fn available_bytes() -> Option<u64> {
    line_of("/proc/meminfo", "MemAvailable:")
}

/// Returns freed memory from the allocator to the operating system, so that the resident set is what is in use. glibc only.
pub fn release_freed() {
    // SAFETY: malloc_trim only touches free memory.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A field of /proc/self/status, in bytes.
fn status(field: &str) -> Option<u64> {
    line_of("/proc/self/status", field)
}

/// A field in kB of a file under /proc, in bytes.
fn line_of(file: &str, field: &str) -> Option<u64> {
    let file = std::fs::read_to_string(file).ok()?;
    let line = file.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}

/// Peak resident set size of the process, in bytes.
pub fn peak_rss_bytes() -> u64 {
    // VmHWM counts this program only; getrusage would include what ran before exec, `cargo run` for instance.
    if let Some(bytes) = status("VmHWM:") {
        return bytes;
    }
    // SAFETY: getrusage fills the struct it is given.
    let max_rss = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss as u64
    };
    // ru_maxrss is in KiB on Linux, in bytes on macOS.
    if cfg!(target_os = "macos") { max_rss } else { max_rss * 1024 }
}

/// Bytes of memory available to a process: the machine's, or its control group's limit if smaller; None if unknown.
pub fn machine_bytes() -> Option<u64> {
    let total = line_of("/proc/meminfo", "MemTotal:")?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |place: &&str| std::fs::read_to_string(place).ok()?.trim().parse::<u64>().ok();
    Some(limits.iter().filter_map(limit).fold(total, u64::min))
}

/// Bytes with a binary unit, for messages.
pub fn human(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    match mib {
        m if m < 1.0 => format!("{:.0} KiB", 1024.0 * m),
        m if m < 10.0 => format!("{m:.1} MiB"),
        m if m < 10_240.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}
