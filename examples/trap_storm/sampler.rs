//! The thread that sends samples: signals to every thread, at instants that keep no step with anything.

use crate::guest::Rng;
use crate::handlers;
use crate::record::Record;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// How often to look for threads that are not among the targets: it takes longer than everything else here.
const ROUNDS_PER_SEARCH: u32 = 4;

/// Threads that call guest code get three of four samples.
const TO_GUESTS: u64 = 3;

/// Sends samples to `targets`, about `hz` per second and thread, until told to stop.
pub fn run(targets: &[&'static Record], hz: u32, mut rng: Rng, stop: &AtomicBool) {
    let per_second = f64::from(hz) * targets.len() as f64;
    if per_second == 0.0 {
        return;
    }
    let guests: Vec<_> = targets.iter().filter(|target| target.calls_guests()).copied().collect();
    let start = Instant::now();
    let (mut sent, mut rounds) = (0_u64, 0_u32);
    while !stop.load(Relaxed) {
        // Late wake-ups are made up for, or a busy machine would never see the rate that was asked for.
        let due = (start.elapsed().as_secs_f64() * per_second) as u64;
        while sent < due && !stop.load(Relaxed) {
            let among = if !guests.is_empty() && rng.below(4) < TO_GUESTS { &guests } else { targets };
            let target = among[rng.below(among.len() as u64) as usize];
            // A signal that the kernel has no room to queue was never sent, and is not counted.
            if send(target.thread) {
                target.samples_sent.add(1);
            }
            sent += 1;
        }
        rounds += 1;
        if rounds % ROUNDS_PER_SEARCH == 0 {
            send_to_visitors(targets);
        }
        let jitter = 0.5 + rng.below(1 << 20) as f64 / (1 << 20) as f64;
        thread::sleep(Duration::from_secs_f64((jitter / per_second).min(0.05)));
    }
}

/// Whoever else is there, in whatever state: about to start, running, already on its way out.
fn send_to_visitors(targets: &[&'static Record]) {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return;
    };
    for entry in threads.flatten() {
        let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(thread) = thread
            && targets.iter().all(|target| target.thread != thread)
        {
            send(thread);
        }
    }
}

fn send(thread: libc::pid_t) -> bool {
    // SAFETY: the handler is installed; a thread that has ended in the meantime is an error and nothing else, because
    // the call names the process too.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, handlers::sample_signal()) };
    result == 0
}
