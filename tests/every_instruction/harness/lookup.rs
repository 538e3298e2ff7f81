//! Mode B: a handler's lookup is parked at each of its instructions, while another thread removes what it is looking
//! for, frees it, and registers something else at the same place.
//!
//! First there is one stop a lookup, at instruction 0, 1, 2 and so on until the lookup ends before it: the answers must
//! be the new truth up to some instruction, and the old one from there on. Then lookups stop at every instruction, and
//! each time the other thread goes one change further. Freed nodes and payloads are inaccessible, or in use for other
//! ranges.

use super::case::{self, Case};
use super::page::page;
use super::stack::Painted;
use super::{memory, step, turn};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The lookup in progress. The looking thread sets these, and reads them in its handlers: Relaxed.
static CASE: AtomicPtr<Case> = AtomicPtr::new(ptr::null_mut());
static STEP: AtomicU64 = AtomicU64::new(0);
static STOP_AT: AtomicU64 = AtomicU64::new(NOWHERE);
static FOUND: Mutex<Option<u64>> = Mutex::new(None);

const NOWHERE: u64 = u64::MAX;
const EVERYWHERE: u64 = u64::MAX - 1;

/// Single-stepping to a stop is not an interruption point: so many steps a point are put up with.
const STEPS_A_POINT: u64 = 5;

/// Runs until `points` stops were made.
pub fn run(case: Case, points: u64) {
    memory::quarantine(true);
    CASE.store(Box::leak(Box::new(case)), Ordering::Relaxed);
    (case.prepare)();
    std::thread::scope(|scope| {
        scope.spawn(|| turn::serve(case.change));
        let stack = Painted::install();
        sweep(&case, points);
        while page().points() < points {
            look(&case, EVERYWHERE);
            page().count_round();
        }
        drop(stack);
        turn::over();
    });
}

/// One lookup for each of its instructions (or for one of several, if that takes too long), with one stop there.
fn sweep(case: &Case, points: u64) {
    look(case, NOWHERE);
    let length = STEP.load(Ordering::Relaxed);
    let stride = (length * length / 2 / (points * STEPS_A_POINT)).max(1);
    page().note_stride(stride);
    let (mut new, mut old) = (0, 0);
    for stop in (0..).step_by(stride as usize) {
        let stopped = look(case, stop);
        let Some(is_new) = stopped else { break };
        assert!(!is_new || old == 0, "a lookup that stopped later found a newer answer");
        *(if is_new { &mut new } else { &mut old }) += 1;
    }
    page().count_round();
    assert!(old > 0 && (new > 0 || !case.shows), "the change came in time for some lookups, and too late for others");
}

/// One lookup in a handler. If it stopped at `stop`: whether it found the truth after the change.
fn look(case: &Case, stop: u64) -> Option<bool> {
    (case.between)();
    let since = case::begin();
    let before = page().points();
    STEP.store(0, Ordering::Relaxed);
    STOP_AT.store(stop, Ordering::Relaxed);
    step::in_handler(look_stepped);
    let found = *FOUND.lock().expect("no panics");
    case::demand(found, since, (case.pc)());
    (page().points() > before).then(|| case.shows && case::is_last(found))
}

fn look_stepped() {
    // SAFETY: set by `run`, leaked.
    let case = unsafe { &*CASE.load(Ordering::Relaxed) };
    let pc = (case.pc)();
    page().count_lookup();
    let found = step::stepped(stop, || (case.look)(pc));
    *FOUND.lock().expect("no panics") = found;
}

/// After each instruction.
fn stop() {
    let step = STEP.fetch_add(1, Ordering::Relaxed);
    if [EVERYWHERE, step].contains(&STOP_AT.load(Ordering::Relaxed)) {
        turn::hand_over();
        page().count_point();
    }
}
