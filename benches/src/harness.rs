//! Turns, threads and medians.

use crate::contenders::{Job, Lookup, Write};
use crate::world::{Payload, Rng};
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Keeps the calling thread on one processor: the `i`th that the process may use. Threads that are not pinned may
/// share one for a whole measurement.
pub fn pin_to(i: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: plain system calls on sets that live on the stack; a zeroed set is an empty one.
    unsafe {
        use std::sync::OnceLock;
        static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
        let size = size_of::<libc::cpu_set_t>();
        let allowed = ALLOWED.get_or_init(|| {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            libc::sched_getaffinity(0, size, &raw mut set);
            (0..8 * size).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
        });
        if !allowed.is_empty() {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            libc::CPU_SET(allowed[i % allowed.len()], &mut set);
            libc::sched_setaffinity(0, size, &raw const set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = i;
}

/// The value that a given part of the others is below; 0.5 is the median.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len().max(1) - 1) as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The median.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// Nanoseconds for each of `count` operations of `f`, which is told the thread and the slice, on so many pinned threads
/// that start together. Slices that end when another thread is done already do not count.
///
/// A run in which the threads did not overlap is repeated: where one takes the other's processor, or a virtual one
/// wakes up late, each would be measured alone.
pub fn on_threads(threads: usize, slices: usize, count: usize, f: impl Fn(usize, usize) -> usize + Sync) -> f64 {
    const TRIES: usize = 50;
    let mut times = Vec::new();
    for _ in 0..TRIES {
        times = together(threads, slices, count, &f);
        if times.iter().all(|times| times.len() > slices / 2) {
            break;
        }
    }
    median(&mut times.concat())
}

/// The times of each thread's slices.
fn together(threads: usize, slices: usize, count: usize, f: &(impl Fn(usize, usize) -> usize + Sync)) -> Vec<Vec<f64>> {
    let ready = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let body = |thread: usize| {
        pin_to(thread);
        black_box(f(thread, 0));
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < threads {
            spin_loop();
        }
        let mut times = Vec::new();
        for slice in 1..=slices {
            let begin = Instant::now();
            black_box(f(thread, slice));
            let time = begin.elapsed().as_nanos() as f64 / count as f64;
            if !over.load(Ordering::Relaxed) {
                times.push(time);
            }
        }
        over.store(true, Ordering::Relaxed);
        times
    };
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || body(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panics")).collect()
    })
}

/// Nanoseconds for one lookup.
pub fn time_lookups(contender: &dyn Lookup, pcs: &[usize], threads: usize, dependent: bool) -> f64 {
    const COUNT: usize = 20_000;
    // Long enough for threads that share a processor with a stranger to meet.
    on_threads(threads, 15, COUNT, |thread, slice| {
        let first = thread * 7919 + slice * COUNT;
        // The first slice, which is not timed, warms the caches with all there is to be looked up.
        let count = if slice == 0 { pcs.len() } else { COUNT };
        contender.run(&Job { pcs, first: black_box(first), count, dependent })
    })
}

/// Nanoseconds for one registration and its removal, alone or with a reader on every one of `readers` processors.
pub fn time_pairs(
    writer: &dyn Write,
    reader: &dyn Lookup,
    free: &[usize],
    payload: &Arc<Payload>,
    pcs: &[usize],
    readers: usize,
) -> f64 {
    const COUNT: usize = 1_000;
    let over = AtomicBool::new(false);
    let reading = AtomicUsize::new(0);
    thread::scope(|scope| {
        for i in 0..readers {
            let (over, reading) = (&over, &reading);
            scope.spawn(move || {
                pin_to(i);
                let mut first = i * 7919;
                let mut job = || {
                    black_box(reader.run(&Job { pcs, first, count: 64, dependent: false }));
                    first += 64;
                };
                job();
                reading.fetch_add(1, Ordering::Relaxed);
                while !over.load(Ordering::Relaxed) {
                    job();
                }
            });
        }
        while reading.load(Ordering::Relaxed) < readers {
            thread::yield_now();
        }
        let pairs = |slice: usize| {
            let mut rng = Rng::new(4711 + slice as u64);
            for _ in 0..COUNT {
                writer.pair(free[rng.below(free.len())], payload);
            }
            0
        };
        let time = if readers == 0 {
            on_threads(1, 5, COUNT, |_, slice| pairs(slice))
        } else {
            // The writer shares its processor: only a time with many changes of turn says anything, and only its mean.
            scope.spawn(move || for_a_while(COUNT, pairs)).join().expect("no panics")
        };
        over.store(true, Ordering::Relaxed);
        time
    })
}

/// Nanoseconds for each of the `count` operations that `f` does a call, on processor 0, over some scheduler's turns.
fn for_a_while(count: usize, f: impl Fn(usize) -> usize) -> f64 {
    const WHILE: Duration = Duration::from_millis(80);
    pin_to(0);
    black_box(f(0));
    let begin = Instant::now();
    let mut slices = 0;
    while begin.elapsed() < WHILE {
        slices += 1;
        black_box(f(slices));
    }
    begin.elapsed().as_nanos() as f64 / (slices * count) as f64
}

/// Whether two threads have two processors just now.
pub struct Control {
    alone: f64,
}

impl Control {
    /// Finds out how fast one thread is.
    pub fn new() -> Self {
        Self { alone: (0..9).map(|_| Self::time(1)).fold(f64::MAX, f64::min) }
    }

    /// Whether two threads that share nothing are as fast.
    pub fn two_processors(&self) -> bool {
        Self::time(2) < self.alone * 1.15
    }

    fn time(threads: usize) -> f64 {
        const COUNT: usize = 50_000;
        on_threads(threads, 3, COUNT, |thread, _| {
            let mut x = black_box(thread | 1);
            for _ in 0..COUNT {
                x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 7);
            }
            x
        })
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

/// What was measured of one contender: a time for each turn.
#[derive(Clone, Debug, Default)]
pub struct Times(pub Vec<f64>);

impl Times {
    /// The median of the times.
    pub fn median(&self) -> f64 {
        median(&mut self.0.clone())
    }

    /// The ratio to another one's times, turn by turn: lower quartile, median, upper quartile.
    pub fn ratio_to(&self, other: &Self) -> [f64; 3] {
        let mut ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect();
        [0.25, 0.5, 0.75].map(|part| quantile(&mut ratios, part))
    }
}
