//! Mode C: a lookup inside a handler is interrupted by another handler's lookup, and that one by a third.
//!
//! The outer lookup is stepped; the handler of each step makes a lookup that is stepped too; and the handler of each of
//! its steps makes the innermost one. So every pair of instructions is interrupted, or every so many-th. Now and then
//! another thread changes what all three are looking for.

use super::case::{self, Case};
use super::page::page;
use super::stack::Painted;
use super::writer::range;
use super::{memory, step, turn, watch};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What is looked up. The looking thread sets these, and reads them in its handlers: Relaxed.
static CASE: AtomicPtr<Case> = AtomicPtr::new(ptr::null_mut());
static OUTER: AtomicU64 = AtomicU64::new(0);
static INNER: AtomicU64 = AtomicU64::new(0);
/// Of how many instructions of the outer lookup one is interrupted, and which is the first. The first round measures.
static STRIDE: AtomicU64 = AtomicU64::new(u64::MAX);
static FIRST: AtomicU64 = AtomicU64::new(0);

/// Where the stack is decides which counters of the gate are used. Lookups that interrupt each other use the same ones
/// in some of so many positions within a page, where the kernel's frame is smaller than that.
const SHIFTS: usize = 8;

/// Of how many innermost lookups one is preceded by a change.
const CHANGE_EVERY: u64 = 23;

/// Runs until `points` innermost lookups were made.
pub fn run(case: Case, points: u64) {
    memory::quarantine(true);
    CASE.store(Box::leak(Box::new(case)), Ordering::Relaxed);
    (case.prepare)();
    std::thread::scope(|scope| {
        scope.spawn(|| turn::serve(case.change));
        for round in 0.. {
            let stack = Painted::install_lower(round % SHIFTS * (4096 / SHIFTS));
            // Spread over the lookup, however many instructions are left out, and other ones for the same shift.
            let (shifts, turn) = (SHIFTS as u64, round as u64);
            let first = turn * STRIDE.load(Ordering::Relaxed).div_ceil(shifts) + turn / shifts;
            FIRST.store(first, Ordering::Relaxed);
            OUTER.store(0, Ordering::Relaxed);
            case::begin();
            step::in_handler(outer);
            (case.between)();
            drop(stack);
            page().count_round();
            if page().points() >= points && round >= SHIFTS {
                break;
            }
            if round == 0 {
                // Pairs of instructions, of which the outer one is every `stride`-th.
                let pairs = OUTER.load(Ordering::Relaxed) * page().points();
                let stride = (pairs * SHIFTS as u64).div_ceil(points).min(OUTER.load(Ordering::Relaxed));
                STRIDE.store(stride, Ordering::Relaxed);
                page().note_stride(stride);
            }
        }
        turn::over();
    });
}

fn case() -> &'static Case {
    // SAFETY: set by `run`, leaked.
    unsafe { &*CASE.load(Ordering::Relaxed) }
}

fn look(at_each: fn()) {
    let (case, since) = (case(), case::now());
    let pc = (case.pc)();
    let found = step::stepped(at_each, || (case.look)(pc));
    page().count_lookup();
    case::demand(found, since, pc);
}

fn outer() {
    look(inner);
}

/// After each instruction of the outer lookup.
fn inner() {
    let step = OUTER.fetch_add(1, Ordering::Relaxed);
    let stride = STRIDE.load(Ordering::Relaxed);
    if step % stride == FIRST.load(Ordering::Relaxed) % stride {
        look(innermost);
    }
}

/// After each instruction of the inner one.
fn innermost() {
    if INNER.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHANGE_EVERY) {
        turn::hand_over();
    }
    let (case, since) = (case(), case::now());
    let (pc, beside) = ((case.pc)(), range(BESIDE).start + 1);
    case::demand((case.look)(pc), since, pc);
    watch::demand((case.look)(beside), Some(case::OTHERS), beside);
    page().count_lookup();
    page().count_lookup();
    page().count_point();
}

/// A range that stays as it is.
const BESIDE: usize = 3;
