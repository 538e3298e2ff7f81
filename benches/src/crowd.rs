//! Times of threads that do not have a processor each, all the time: there are more of them, or they wait.

use crate::harness::{on_threads, pin_to, processor_time, processors};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Nanoseconds of a processor's time for each of the `count` operations that a call of `f` does; `f` is told the thread
/// and the slice.
///
/// While each thread has a processor, that is the median of its slices ([`on_threads`]). Where threads take turns on a
/// processor, a slice says little, since it may be interrupted by another one: then it is the processors' time that
/// all of them took together over a while, for all that they did. What strangers took meanwhile does not count.
pub fn time(threads: usize, slices: usize, count: usize, f: impl Fn(usize, usize) -> usize + Sync) -> f64 {
    if threads <= processors() {
        return on_threads(threads, slices, count, f);
    }
    let done = for_a_while(threads, slices, f);
    let taken: Duration = done.iter().map(|done| done.processor).sum();
    let slices: usize = done.iter().map(|done| done.slices).sum();
    taken.as_nanos() as f64 / (slices * count) as f64
}

/// The same for operations that may wait for each other without a processor, in the kernel. That they wait counts: it
/// is the time that passes, for all that the threads do in it together, times the processors that they could have had.
pub fn time_with_waits(threads: usize, slices: usize, count: usize, f: impl Fn(usize, usize) -> usize + Sync) -> f64 {
    let done = for_a_while(threads, slices, f);
    let rate: f64 = done.iter().map(|done| (done.slices * count) as f64 / done.wall.as_nanos() as f64).sum();
    threads.min(processors()) as f64 / rate
}

/// What one thread did.
struct Done {
    slices: usize,
    wall: Duration,
    processor: Duration,
}

fn for_a_while(threads: usize, slices: usize, f: impl Fn(usize, usize) -> usize + Sync) -> Vec<Done> {
    // Each should have several turns on its processor; the scheduler's are some milliseconds.
    let time = Duration::from_millis(5 * slices as u64);
    let (ready, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let meet = || {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) <= threads {
            thread::yield_now();
        }
    };
    let body = |thread: usize| {
        pin_to(thread);
        black_box(f(thread, 0));
        meet();
        let (wall, processor) = (Instant::now(), processor_time());
        let mut slices = 0;
        while slices == 0 || !over.load(Ordering::Relaxed) {
            slices += 1;
            black_box(f(thread, slices));
        }
        Done { slices, wall: wall.elapsed(), processor: processor_time().saturating_sub(processor) }
    };
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || body(thread))).collect();
        meet();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        running.into_iter().map(|thread| thread.join().expect("no panics")).collect()
    })
}
