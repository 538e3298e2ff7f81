//! What lookups must say while an operation is under way.
//!
//! A [`Watch`] knows pcs whose answers never change, and the pcs that one operation changes: each had one answer before
//! and has another one after. During the operation a handler may see either, but the same for all of them, and once it
//! saw the new ones it never sees the old ones again.

use super::page::{Verdict, end, page};
use super::world::Look;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// What is expected of one registry. Its changing parts are written by the operation and read by handlers that
/// interrupt it, most of them on the same thread: Relaxed.
pub struct Watch {
    look: Look,
    stable: Vec<(usize, Option<u64>)>,
    changing: Vec<Change>,
    phase: AtomicU8,
    new_seen: AtomicBool,
    turn: AtomicUsize,
}

/// A pc, and its answers before and after the operation.
pub type Change = (usize, Option<u64>, Option<u64>);

const BEFORE: u8 = 0;
const DURING: u8 = 1;
const AFTER: u8 = 2;

/// So many of the stable pcs are asked for at each point, in turn.
const STABLE_AT_ONCE: usize = 4;

/// What handlers check.
static WATCHED: [AtomicPtr<Watch>; 3] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 3];

impl Watch {
    /// Watches pcs whose answers do not change.
    pub fn new(look: Look, stable: impl IntoIterator<Item = (usize, Option<u64>)>) -> Self {
        Self {
            look,
            stable: stable.into_iter().collect(),
            changing: Vec::new(),
            phase: AtomicU8::new(BEFORE),
            new_seen: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }
    }

    /// And pcs whose answers one operation changes, all at once.
    pub fn changing(mut self, changes: impl IntoIterator<Item = Change>) -> Self {
        self.changing.extend(changes);
        self
    }

    /// The operation that changes answers: from here to its end both are right.
    pub fn change<R>(&self, operation: impl FnOnce() -> R) -> R {
        self.phase.store(DURING, Ordering::Relaxed);
        let result = operation();
        self.phase.store(AFTER, Ordering::Relaxed);
        result
    }

    /// Has handlers check this watch while `f` runs.
    pub fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let place = self.place();
        let result = f();
        place.store(std::ptr::null_mut(), Ordering::Relaxed);
        // Once more, from ordinary code, and everything.
        self.check(self.stable.len());
        result
    }

    /// Has handlers check this watch until the process ends.
    pub fn for_ever(&'static self) {
        self.place();
    }

    fn place(&self) -> &'static AtomicPtr<Self> {
        let free = WATCHED.iter().find(|place| place.load(Ordering::Relaxed).is_null());
        let place = free.expect("a few at a time");
        place.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        place
    }

    fn check(&self, how_many: usize) {
        let turn = self.turn.fetch_add(how_many, Ordering::Relaxed);
        for i in turn..turn + how_many.min(self.stable.len()) {
            let (pc, right) = self.stable[i % self.stable.len()];
            demand((self.look)(pc), right, pc);
        }
        let phase = self.phase.load(Ordering::Relaxed);
        for (i, &(pc, before, after)) in self.changing.iter().enumerate() {
            let answer = (self.look)(pc);
            let new_is_due = phase == AFTER || self.new_seen.load(Ordering::Relaxed);
            if phase == DURING && !new_is_due && i == 0 && answer == after && before != after {
                self.new_seen.store(true, Ordering::Relaxed);
                continue;
            }
            demand(answer, if new_is_due { after } else { before }, pc);
        }
    }
}

/// A wrong answer is the end.
pub fn demand(answer: Option<u64>, right: Option<u64>, pc: usize) {
    if answer != right {
        let number = |who: Option<u64>| who.map_or(0, |who| who + 1);
        end(Verdict::WrongAnswer, [pc as u64, number(answer), number(right)]);
    }
}

/// One interruption point: everything that is watched is checked. For handlers.
pub fn check() {
    for place in &WATCHED {
        // SAFETY: null, or set by `during`, which is still running: handlers interrupt it, or another thread that it
        // waits for.
        if let Some(watch) = unsafe { place.load(Ordering::Relaxed).as_ref() } {
            watch.check(STABLE_AT_ONCE);
        }
    }
    page().count_point();
}
