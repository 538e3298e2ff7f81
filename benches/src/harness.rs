//! Turns, threads and medians.

use crate::contenders::{Job, Lookup};
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// How many processors there are, as the process was started: pinning a thread makes it see one.
pub fn processors() -> usize {
    static PROCESSORS: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
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
/// that start together. Slices that end when another thread is done already do not count. Slice 0, which is not timed,
/// is there to warm up.
///
/// A run in which the threads did not overlap is repeated, and so is one in which a thread did not have its processor
/// all the time: where others take it, or a virtual one wakes up late, each thread would be measured alone.
pub fn on_threads(threads: usize, slices: usize, count: usize, f: impl Fn(usize, usize) -> usize + Sync) -> f64 {
    // After so many, what there is has to do: the quartiles show how much the machine was disturbed.
    const TRIES: usize = 3;
    const PATIENCE: Duration = Duration::from_millis(150);
    let (mut runs, mut tries, begin) = (Vec::new(), 0, Instant::now());
    while tries < TRIES || begin.elapsed() < PATIENCE {
        tries += 1;
        runs = together(threads, slices, count, &f);
        let overlapped = runs.iter().all(|run| run.times.len() > slices / 2);
        if overlapped && (threads > processors() || runs.iter().all(|run| run.undisturbed)) {
            break;
        }
    }
    median(&mut runs.into_iter().flat_map(|run| run.times).collect::<Vec<_>>())
}

/// What one thread did.
struct Run {
    times: Vec<f64>,
    /// Whether it had its processor all the time.
    undisturbed: bool,
}

fn together(threads: usize, slices: usize, count: usize, f: &(impl Fn(usize, usize) -> usize + Sync)) -> Vec<Run> {
    let ready = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let body = |thread: usize| {
        pin_to(thread);
        black_box(f(thread, 0));
        meet(&ready, threads);
        let mut times = Vec::new();
        let (start, processor_time) = (Instant::now(), processor_time());
        for slice in 1..=slices {
            let begin = Instant::now();
            black_box(f(thread, slice));
            let time = begin.elapsed().as_nanos() as f64 / count as f64;
            if !over.load(Ordering::Relaxed) {
                times.push(time);
            }
        }
        over.store(true, Ordering::Relaxed);
        let (wall, had) = (start.elapsed(), self::processor_time().saturating_sub(processor_time));
        Run { times, undisturbed: had.as_secs_f64() >= 0.93 * wall.as_secs_f64() }
    };
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || body(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panics")).collect()
    })
}

/// How long the calling thread has had a processor.
pub fn processor_time() -> Duration {
    // SAFETY: a zeroed time is one, and is filled in.
    unsafe {
        let mut time: libc::timespec = core::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Waits until as many threads as that have come here.
fn meet(ready: &AtomicUsize, threads: usize) {
    ready.fetch_add(1, Ordering::AcqRel);
    let mut looks = 0_u32;
    while ready.load(Ordering::Acquire) < threads {
        looks += 1;
        // Where there are more threads than processors, the others need this one.
        if looks.is_multiple_of(4096) { thread::yield_now() } else { spin_loop() }
    }
}

/// Nanoseconds for one lookup.
pub fn time_lookups(contender: &dyn Lookup, pcs: &[usize], threads: usize, dependent: bool) -> f64 {
    // Long enough for threads that share a processor with a stranger to meet, and short enough for all contenders to
    // have a turn within a second or two.
    const COUNT: usize = 10_000;
    on_threads(threads, 15, COUNT, |thread, slice| {
        let first = thread * 7919 + slice * COUNT;
        // Warms the caches with all there is to be looked up.
        let count = if slice == 0 { pcs.len() } else { COUNT };
        contender.session().run(&Job { pcs, first: black_box(first), count, dependent })
    })
}

/// Lookups per second of so many threads together, in that time. They may be more than there are processors.
pub fn throughput(contender: &dyn Lookup, pcs: &[usize], threads: usize, time: Duration) -> f64 {
    const COUNT: usize = 512;
    rate(threads, time, |thread| {
        let mut session = contender.session();
        let mut first = thread * 7919;
        // Warms the caches with all there is to be looked up.
        black_box(session.run(&Job { pcs, first, count: pcs.len(), dependent: false }));
        move || {
            black_box(session.run(&Job { pcs, first, count: COUNT, dependent: false }));
            first += COUNT;
            COUNT
        }
    })
}

/// Operations per second of so many pinned threads together, in that time. `start` is called on each thread, with its
/// number, and gives what is then done again and again, and returns how many operations it was.
pub fn rate<F: FnMut() -> usize>(threads: usize, time: Duration, start: impl Fn(usize) -> F + Sync) -> f64 {
    const MEASURED: usize = 1;
    const OVER: usize = 2;
    let ready = AtomicUsize::new(0);
    let stage = AtomicUsize::new(0);
    let body = |thread: usize| {
        pin_to(thread);
        let mut work = start(thread);
        work();
        meet(&ready, threads + 1);
        let mut done = 0;
        loop {
            let before = stage.load(Ordering::Relaxed);
            if before == OVER {
                return done;
            }
            let count = work();
            done += if before == MEASURED { count } else { 0 };
        }
    };
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || body(thread))).collect();
        meet(&ready, threads + 1);
        // Who wakes up takes a processor at once: the time is not that of a thread that waits for one.
        thread::sleep(Duration::from_millis(1));
        stage.store(MEASURED, Ordering::Relaxed);
        let begin = Instant::now();
        thread::sleep(time);
        stage.store(OVER, Ordering::Relaxed);
        let time = begin.elapsed();
        let done: usize = running.into_iter().map(|thread| thread.join().expect("no panics")).sum();
        done as f64 / time.as_secs_f64()
    })
}

/// Runs `f` while readers look up, one pinned to each of these processors, without a pause.
pub fn while_reading<R>(
    reader: &dyn Lookup,
    pcs: &[usize],
    processors: core::ops::Range<usize>,
    f: impl FnOnce() -> R,
) -> R {
    let over = AtomicBool::new(false);
    let ready = AtomicUsize::new(0);
    let all = processors.len() + 1;
    thread::scope(|scope| {
        for i in processors {
            let (over, ready) = (&over, &ready);
            scope.spawn(move || {
                pin_to(i);
                let mut session = reader.session();
                let mut first = i * 7919;
                let mut work = || {
                    black_box(session.run(&Job { pcs, first, count: 64, dependent: false }));
                    session.renew();
                    first += 64;
                };
                work();
                meet(ready, all);
                while !over.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        meet(&ready, all);
        let result = f();
        over.store(true, Ordering::Relaxed);
        result
    })
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

    /// Calls `f` for each of so many turns, when there are two processors; after too many turns without, regardless,
    /// so that it comes to an end. How many turns were waited for in vain.
    pub fn turns(&self, turns: usize, mut f: impl FnMut()) -> usize {
        let mut dropped = 0;
        for _ in 0..turns {
            while processors() > 1 && dropped < 4 * turns && !self.two_processors() {
                dropped += 1;
                thread::sleep(Duration::from_millis(20));
            }
            f();
        }
        dropped
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

    /// Lower quartile, median, upper quartile.
    pub fn quartiles(&self) -> [f64; 3] {
        let mut times = self.0.clone();
        [0.25, 0.5, 0.75].map(|part| quantile(&mut times, part))
    }

    /// The ratio to another one's times, turn by turn: lower quartile, median, upper quartile.
    pub fn ratio_to(&self, other: &Self) -> [f64; 3] {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect()).quartiles()
    }
}
