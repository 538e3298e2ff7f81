//! What is counted: per thread, in memory that handlers may write to.
//!
//! A handler finds its thread's record through a thread-local that is const-initialised and has no destructor, which in
//! an executable is a plain load. Everything in a record is allocated before the thread's first signal, is never freed,
//! and is only ever added to atomically.

use crate::guest::Kind;
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use trapline::CodeId;

/// The hardware signals, in the order in which they are counted.
pub const SIGNALS: [(i32, &str); 4] =
    [(libc::SIGSEGV, "SIGSEGV"), (libc::SIGBUS, "SIGBUS"), (libc::SIGILL, "SIGILL"), (libc::SIGFPE, "SIGFPE")];

/// Ways for an answer to be wrong.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    /// A call returned another value, or left another word in memory.
    Value,
    /// A call returned that had to trap.
    Returned,
    /// A call trapped that had to return.
    Trapped,
    /// The right call trapped for another reason, or the host-raised trap came with a place.
    Code,
    /// The trap was reported at an address that is no such trap site of that function.
    Site,
    /// The trap was reported in another registration.
    Id,
    /// The trap was reported with another faulting address.
    Fault,
    /// Code was found before it was registered, or after it was unregistered, or not in between.
    Lifetime,
    /// A handler looked up the code its own thread was running, and did not find that registration.
    RunningCode,
    /// A handler looked up a trap site of a long-lived image and found anything else.
    KnownSite,
    /// A handler looked up an address of the program or a library, and found guest code.
    HostCode,
}

impl Wrong {
    pub const ALL: [Wrong; 11] = [
        Wrong::Value,
        Wrong::Returned,
        Wrong::Trapped,
        Wrong::Code,
        Wrong::Site,
        Wrong::Id,
        Wrong::Fault,
        Wrong::Lifetime,
        Wrong::RunningCode,
        Wrong::KnownSite,
        Wrong::HostCode,
    ];
}

/// A sum that a handler may add to.
pub struct Count(AtomicU64);

impl Count {
    const fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram of clock ticks with a relative error below 1/64, of fixed size.
pub struct Ticks {
    buckets: [Count; Ticks::BUCKETS],
    max: AtomicU64,
}

impl Ticks {
    const STEPS: usize = 64;
    /// Up to 2^40 ticks, minutes; what is longer counts as that.
    const OCTAVES: usize = 34;
    const BUCKETS: usize = Ticks::STEPS * (Ticks::OCTAVES + 1);

    const fn new() -> Ticks {
        Ticks { buckets: [const { Count::new() }; Ticks::BUCKETS], max: AtomicU64::new(0) }
    }

    pub fn record(&self, ticks: u64) {
        if let Some(bucket) = self.buckets.get(Ticks::bucket(ticks)) {
            bucket.add(1);
        }
        self.max.fetch_max(ticks, Relaxed);
    }

    /// Linear below 64, then 64 steps per power of two.
    fn bucket(ticks: u64) -> usize {
        let octave = (u64::BITS - ticks.leading_zeros()).saturating_sub(7);
        let index = octave as usize * Ticks::STEPS + (ticks >> octave) as usize;
        index.min(Ticks::BUCKETS - 1)
    }

    /// The middle of a bucket, in ticks.
    fn value(index: usize) -> f64 {
        if index < Ticks::STEPS {
            return index as f64;
        }
        let octave = index / Ticks::STEPS - 1;
        let step = index - octave * Ticks::STEPS;
        (step as f64 + 0.5) * (1_u64 << octave) as f64 - 0.5
    }

    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Every bucket that is not empty: its middle, in ticks, and its count.
    pub fn counts(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets
            .iter()
            .enumerate()
            .map(|(index, count)| (Ticks::value(index), count.get()))
            .filter(|&(_, count)| count != 0)
    }
}

/// The registration whose code a thread is running.
#[derive(Clone, Copy)]
pub struct Running {
    pub start: usize,
    pub end: usize,
    pub id: CodeId,
}

impl Running {
    pub fn contains(&self, pc: usize) -> bool {
        (self.start..self.end).contains(&pc)
    }
}

/// One thread's counts.
pub struct Record {
    pub role: &'static str,
    pub thread: libc::pid_t,
    pub samples_sent: Count,
    pub samples_handled: Count,
    pub samples_in_guest: Count,
    pub samples_in_host: Count,
    /// Lookups of the interrupted pc in the sample handler.
    pub sample_ticks: Ticks,
    /// Lookups of a known trap site in the sample handler.
    pub known_ticks: Ticks,
    /// Lookups of the faulting pc in the trap handler.
    pub trap_ticks: Ticks,
    pub signals: [Count; SIGNALS.len()],
    /// Traps that had to happen, of hardware.
    pub traps_expected: Count,
    /// Traps that were caught, of hardware.
    pub traps_caught: Count,
    /// Traps that host functions raised: no signal.
    pub traps_raised: Count,
    pub traps_by_kind: [Count; Kind::ALL.len()],
    /// By [`trapline::TrapCode::to_u8`].
    pub traps_by_code: [Count; 256],
    pub calls: Count,
    pub threads_started: Count,
    pub loads: Count,
    pub unloads: Count,
    pub compiled: Count,
    pub addresses_reused: Count,
    pub wrong: [Count; Wrong::ALL.len()],
}

static RECORDS: Mutex<Vec<&'static Record>> = Mutex::new(Vec::new());

/// What threads count together that come and go too fast to have a record each.
///
/// Samples are sent to them too, at any moment of their short lives; some die with their thread, so of these only the
/// handled ones are counted.
pub static VISITORS: Record = Record::new("visitor", 0);

thread_local! {
    static RECORD: Cell<Option<&'static Record>> = const { Cell::new(None) };
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

impl Record {
    const fn new(role: &'static str, thread: libc::pid_t) -> Record {
        Record {
            role,
            thread,
            samples_sent: Count::new(),
            samples_handled: Count::new(),
            samples_in_guest: Count::new(),
            samples_in_host: Count::new(),
            sample_ticks: Ticks::new(),
            known_ticks: Ticks::new(),
            trap_ticks: Ticks::new(),
            signals: [const { Count::new() }; SIGNALS.len()],
            traps_expected: Count::new(),
            traps_caught: Count::new(),
            traps_raised: Count::new(),
            traps_by_kind: [const { Count::new() }; Kind::ALL.len()],
            traps_by_code: [const { Count::new() }; 256],
            calls: Count::new(),
            threads_started: Count::new(),
            loads: Count::new(),
            unloads: Count::new(),
            compiled: Count::new(),
            addresses_reused: Count::new(),
            wrong: [const { Count::new() }; Wrong::ALL.len()],
        }
    }

    /// Makes this thread's record; to be called before it can be sent any sample.
    pub fn of_new_thread(role: &'static str) -> &'static Record {
        // SAFETY: no preconditions.
        let thread = unsafe { libc::gettid() };
        let record: &'static Record = Box::leak(Box::new(Record::new(role, thread)));
        RECORD.set(Some(record));
        RECORDS.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        record
    }

    /// This thread's record, or the visitors' for a thread that made none. For handlers.
    pub fn current() -> &'static Record {
        RECORD.get().unwrap_or(&VISITORS)
    }

    /// Whether the thread spends its time on calls of guest code.
    pub fn calls_guests(&self) -> bool {
        matches!(self.role, "guest" | "churn")
    }

    pub fn wrong(&self, what: Wrong) {
        self.wrong[what as usize].add(1);
    }
}

/// The records of threads that live until every sample sent to them has arrived.
pub fn residents() -> Vec<&'static Record> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Every record there is.
pub fn all() -> Vec<&'static Record> {
    let mut records = residents();
    records.push(&VISITORS);
    records
}

/// What this thread is running, if anything. For handlers.
pub fn running() -> Option<Running> {
    RUNNING.get()
}

/// Says what this thread is about to run, or with `None` that it is back.
///
/// Only handlers on the same thread look, and only when they did not interrupt host code: a half-written value is never
/// seen, because it is host code that writes it.
pub fn set_running(running: Option<Running>) {
    RUNNING.set(running);
    // The call of guest code that follows is opaque to the compiler; this says that the handler reads too.
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}
