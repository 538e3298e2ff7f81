//! In the build that RealtimeSanitizer watches, what a handler calls must not allocate, lock or block; these tests show
//! that it is awake. The others in that build are the evidence: see `verification/realtime/run`.
#![cfg(trapline_rtsan)]

mod common;

use common::in_child;
use std::hint::black_box;
use std::sync::Arc;
use trapline::CodeRegistry;

/// How a process ends that the sanitizer stopped.
const STOPPED: i32 = 43;

static REGISTRY: CodeRegistry<usize> = CodeRegistry::new();
const PC: usize = 0x1800;

fn register() {
    REGISTRY.register(0x1000..0x2000, Arc::new(7)).unwrap().leak();
}

#[test]
fn an_allocation_inside_a_lookup_is_caught() {
    in_child("", || {
        register();
        let _ = black_box(REGISTRY.with(PC, |found| black_box(Box::new(found.offset()))));
    })
    .with_status(STOPPED);
}

#[test]
fn locking_and_waiting_inside_a_lookup_are_caught() {
    in_child("lock", || {
        register();
        let mut lock = libc::PTHREAD_MUTEX_INITIALIZER;
        // SAFETY: a valid lock, which nobody else knows.
        REGISTRY.with(PC, |_| unsafe { libc::pthread_mutex_lock(&mut lock) });
    })
    .with_status(STOPPED);
    in_child("wait", || {
        register();
        // SAFETY: no preconditions.
        REGISTRY.with(PC, |_| unsafe { libc::usleep(1) });
    })
    .with_status(STOPPED);
}

#[test]
fn a_lookup_and_the_same_allocation_outside_are_not() {
    in_child("", || {
        register();
        let found = REGISTRY.with(PC, |found| found.offset());
        assert_eq!(black_box(Box::new(found)).unwrap(), 0x800);
        assert_eq!(REGISTRY.stats().live_ranges, 1);
    })
    .well();
}
