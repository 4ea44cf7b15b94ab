//! What is held, counted where it is allocated; and what the operating system saw.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::Ordering::Relaxed;

// Signed: what is set aside before it is allocated takes the count below what is held for a moment.
static HELD: AtomicIsize = AtomicIsize::new(0);

static ASIDE: AtomicIsize = AtomicIsize::new(0);

// The most of each since somebody asked, and of both together.
static HELD_PEAK: AtomicIsize = AtomicIsize::new(0);

static ASIDE_PEAK: AtomicIsize = AtomicIsize::new(0);

static BOTH_PEAK: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, with the bytes held on the heap counted. Installed by the binary and by the tests.
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

/// Bytes that are counted apart, gradients': while this lives they do not count as held on the heap. Taken before they are
/// allocated, so that no high-water mark sees them there.
#[derive(Debug)]
pub struct SetAside(usize);

impl SetAside {
    /// Sets `bytes` aside.
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

/// How much was held at some time.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    held: isize,
    aside: isize,
}

/// The most bytes that were held above a [`Mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// On the heap, without what was set aside.
    pub held: usize,
    /// Set aside.
    pub aside: usize,
    /// Both together: less than their sum where the two do not come at once.
    pub both: usize,
}

impl Peaks {
    /// The larger of each.
    pub fn max(self, other: Peaks) -> Peaks {
        Peaks { held: self.held.max(other.held), aside: self.aside.max(other.aside), both: self.both.max(other.both) }
    }
}

impl Mark {
    /// Now.
    pub fn now() -> Self {
        Mark { held: HELD.load(Relaxed), aside: ASIDE.load(Relaxed) }
    }

    /// Runs `work` and gives, beside its result, the most that was held meanwhile above this mark.
    ///
    /// Not for nesting or for two threads at once: there is one high-water mark of each kind.
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

/// Runs `work` and gives, beside its result, the most bytes that it held on the heap above what was there before it.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let (result, peaks) = Mark::now().peaks_of(work);
    (result, peaks.both)
}

/// The resident set now, in bytes; 0 where the operating system does not say.
pub fn rss_bytes() -> u64 {
    status("VmRSS:").unwrap_or(0)
}

/// What a process may still take without others being pushed out, in bytes, where the operating system says.
pub fn available_bytes() -> Option<u64> {
    line_of("/proc/meminfo", "MemAvailable:")
}

/// Gives memory that was freed back to the operating system, where the allocator would keep it for later: what is resident
/// is then what is used.
pub fn release_freed() {
    // SAFETY: malloc_trim only touches free memory.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A line of Linux's account of this process, in bytes.
fn status(field: &str) -> Option<u64> {
    line_of("/proc/self/status", field)
}

/// A line of an account of Linux's, in bytes.
fn line_of(account: &str, field: &str) -> Option<u64> {
    let account = std::fs::read_to_string(account).ok()?;
    let line = account.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}

/// The largest resident set that the process has had, in bytes, as the operating system counts it.
pub fn peak_rss_bytes() -> u64 {
    // Linux: of this program's memory alone. getrusage would count in what ran before exec, `cargo run` for instance.
    if let Some(bytes) = status("VmHWM:") {
        return bytes;
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

/// The memory that this machine has for a process, in bytes: what is there, or what its control group may take; None where the
/// operating system does not say.
pub fn machine_bytes() -> Option<u64> {
    let there = line_of("/proc/meminfo", "MemTotal:")?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |place: &&str| std::fs::read_to_string(place).ok()?.trim().parse::<u64>().ok();
    Some(limits.iter().filter_map(limit).fold(there, u64::min))
}

/// Bytes as people read them.
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
