//! Everything of the storm that runs inside a signal handler.
//!
//! As for the library's own handlers: no allocation, no lock, no lazy initialiser, nothing that can panic. The
//! thread-local state used here is described in `record.rs`.

use crate::guest::{Cause, GuestImage, image};
use crate::record::{self, Record, SIGNALS, Ticks, Wrong};
use std::ffi::c_void;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};
use trapline::{CodeId, TrapCode};

/// A trap site that stays registered while samples are taken.
struct KnownSite {
    pc: usize,
    code: TrapCode,
    id: CodeId,
}

/// What the sample handler knows for certain.
struct Known {
    sites: Vec<KnownSite>,
    /// Executable mappings of files: the program and its libraries. Sorted, disjoint.
    host: Vec<(usize, usize)>,
}

/// Published once, before the first sample, and never freed.
static KNOWN: AtomicPtr<Known> = AtomicPtr::new(ptr::null_mut());

/// The handlers that ours stand in front of, by place in [`SIGNALS`].
static BEHIND: [AtomicUsize; SIGNALS.len()] = [const { AtomicUsize::new(0) }; SIGNALS.len()];

/// Any handler's first and last steps: the clock. Fenced, so that nothing of a lookup slips out of its measurement.
#[cfg(target_arch = "aarch64")]
fn clock() -> u64 {
    let ticks;
    // SAFETY: reads the virtual counter, which Linux lets user mode do; barriers.
    unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) ticks, options(nostack)) };
    ticks
}

/// Any handler's first and last steps: the clock. Fenced, so that nothing of a lookup slips out of its measurement.
#[cfg(target_arch = "x86_64")]
fn clock() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: both instructions are part of every x86-64 processor and touch no memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// The clock, for ordinary code that wants to convert ticks.
pub fn ticks() -> u64 {
    clock()
}

/// The cheapest of many empty measurements: what the clock itself adds to each.
pub fn clock_overhead() -> u64 {
    let empty = |_| {
        let start = clock();
        clock().wrapping_sub(start)
    };
    (0..1000).map(empty).min().unwrap_or(0)
}

fn timed<R>(ticks: &Ticks, lookup: impl FnOnce() -> R) -> R {
    let start = clock();
    let answer = lookup();
    ticks.record(clock().wrapping_sub(start));
    answer
}

fn interrupted_pc(context: *mut c_void) -> usize {
    // SAFETY: the kernel passed this pointer to an SA_SIGINFO handler, which has not returned.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "aarch64")]
    return registers.pc as usize;
    #[cfg(target_arch = "x86_64")]
    return registers.gregs[libc::REG_RIP as usize] as usize;
}

/// A profiler's handler: whose code was that?
extern "C" fn on_sample(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    let record = Record::current();
    let pc = interrupted_pc(context);
    let found = timed(&record.sample_ticks, || trapline::process::with(pc, |found| (found.id(), found.range())));
    // SAFETY: published with Release after it was complete, and never freed.
    let known = unsafe { KNOWN.load(Acquire).as_ref() };
    // Host code first: it may be about to write what `running` reads.
    if known.is_some_and(|known| known.is_host(pc)) {
        record.samples_in_host.add(1);
        if found.is_some() {
            record.wrong(Wrong::HostCode);
        }
    } else if let Some(running) = record::running().filter(|running| running.contains(pc)) {
        record.samples_in_guest.add(1);
        let right = found
            .is_some_and(|(id, range)| id == running.id && range.start == running.start && range.end == running.end);
        if !right {
            record.wrong(Wrong::RunningCode);
        }
    }
    if let Some(site) = known.and_then(Known::random_site) {
        let found = timed(&record.known_ticks, || trapline::process::with(site.pc, |found| found.id()));
        let code = timed(&record.known_ticks, || trapline::process::trap_code(site.pc));
        if found != Some(site.id) || code != Some(site.code) {
            record.wrong(Wrong::KnownSite);
        }
    }
    record.samples_handled.add(1);
}

/// In front of the library's handler: counts the signal, times a lookup, passes it on.
extern "C" fn on_trap(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let place = SIGNALS.iter().position(|&(number, _)| number == signal);
    let record = Record::current();
    let pc = interrupted_pc(context);
    let found = timed(&record.trap_ticks, || trapline::process::with(pc, |found| found.id()));
    if let Some(running) = record::running()
        && running.contains(pc)
    {
        if let Some(count) = place.and_then(|place| record.signals.get(place)) {
            count.add(1);
        }
        if found != Some(running.id) {
            record.wrong(Wrong::RunningCode);
        }
    }
    let behind = place.and_then(|place| BEHIND.get(place)).map_or(0, |behind| behind.load(Relaxed));
    if behind != 0 {
        // SAFETY: stored before this handler was installed, and only after `sigaction` said that it is a handler with
        // these arguments.
        let behind: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = unsafe { mem::transmute(behind) };
        behind(signal, info, context);
    }
}

impl Known {
    fn is_host(&self, pc: usize) -> bool {
        let after = self.host.partition_point(|&(start, _)| start <= pc);
        after.checked_sub(1).and_then(|index| self.host.get(index)).is_some_and(|&(_, end)| pc < end)
    }

    fn random_site(&self) -> Option<&KnownSite> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Relaxed);
        let index = crate::guest::mix(next).checked_rem(self.sites.len() as u64)?;
        self.sites.get(index as usize)
    }
}

/// Collects what sample handlers may rely on, until [`Facts::publish`].
#[derive(Default)]
pub struct Facts {
    sites: Vec<KnownSite>,
}

impl Facts {
    /// The trap sites of an image that stays registered at `base` for as long as samples are taken.
    pub fn add(&mut self, image: &GuestImage, base: usize, id: CodeId) {
        let site = |&(offset, cause): &(u32, Cause)| KnownSite {
            pc: base + offset as usize,
            code: image::trap_code(cause),
            id,
        };
        self.sites.extend(image.traps.iter().map(site));
    }

    pub fn publish(self) -> io::Result<()> {
        let known = Box::new(Known { sites: self.sites, host: host_code()? });
        KNOWN.store(Box::into_raw(known), Release);
        Ok(())
    }
}

/// The executable mappings that have a file (or are the kernel's) behind them.
fn host_code() -> io::Result<Vec<(usize, usize)>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut host: Vec<_> = maps.lines().filter_map(executable_file).collect();
    host.sort_unstable();
    Ok(host)
}

fn executable_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let named = fields.nth(3).is_some();
    let parse = |text| usize::from_str_radix(text, 16).ok();
    (executable && named).then_some(()).and_then(|()| Some((parse(start)?, parse(end)?)))
}

/// The signal that samples are sent with: one that queues, so that every one sent is one handled.
pub fn sample_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

pub fn install_sample_handler() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_sample as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `on_sample` is async-signal-safe and has an SA_SIGINFO handler's signature.
    let result = unsafe { libc::sigaction(sample_signal(), &action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts [`on_trap`] in front of whatever handles the hardware signals now, with the same mask and flags.
pub fn install_in_front() -> io::Result<()> {
    for ((signal, name), behind) in SIGNALS.iter().zip(&BEHIND) {
        // SAFETY: all zeroes is a valid `sigaction` to be overwritten.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: only asks.
        if unsafe { libc::sigaction(*signal, ptr::null(), &mut action) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if action.sa_flags & libc::SA_SIGINFO == 0 {
            return Err(io::Error::other(format!("no handler behind {name}")));
        }
        behind.store(action.sa_sigaction, Relaxed);
        action.sa_sigaction = on_trap as *const () as usize;
        // SAFETY: `on_trap` is async-signal-safe and has an SA_SIGINFO handler's signature.
        if unsafe { libc::sigaction(*signal, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
