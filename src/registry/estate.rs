//! What a registry and its snapshots own together, and the part of writing that is done unlocked.
//!
//! # Guards
//!
//! A guard is counted in its registry's gate, and pins the thread in crossbeam's epoch. While none is counted, guards see
//! nothing, and crossbeam is not asked. Where guards overlap without end, some always is: so once garbage waits for
//! guards, crossbeam is given a closure that it runs when those guards are gone that were there at the time, and that
//! raises `guards_through`. There is one such closure a registry, at most: what crossbeam keeps for us does not grow.
//!
//! It is given by [`pin`](super::CodeRegistry::pin) and by [`reclaim`](super::CodeRegistry::reclaim), never by a write:
//! crossbeam aborts when it has no memory for it, and writes promise to do without.

use super::limbo::Collected;
use super::panics::Panics;
use super::root::RootRef;
use super::stats::Counts;
use super::tree::{self, pool};
use super::writer::{Freed, Writer};
use crate::sync::{self, AtomicU64, Forked, Lock, LockGuard, NoMemory, RootCell, Shared, Site, ordering};
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use std::sync::Arc;

/// Made by the first registration; goes with the registry or, if that outlives it, the last snapshot.
pub(super) struct Estate<T> {
    writer: Lock<Writer>,
    roots: RootCell<RootRef>,
    counts: Counts,
    /// The last tick whose garbage no guard sees, as far as crossbeam's closures have found out.
    guards_through: Shared<AtomicU64>,
    /// What the last of these closures raises that to: if it is more, the closure is still to come.
    deferred: core::sync::atomic::AtomicU64,
    /// When the newest garbage died that waits for guards, or 0.
    guarded: AtomicU64,
    payloads: PhantomData<Arc<T>>,
}

impl<T> Estate<T> {
    pub(super) fn new() -> Result<Shared<Self>, NoMemory> {
        let guards_through = Shared::new(|| AtomicU64::new(0))?;
        Shared::new(|| Self {
            writer: Lock::new(Writer::new()),
            roots: RootCell::empty(),
            counts: Counts::default(),
            guards_through,
            deferred: core::sync::atomic::AtomicU64::new(0),
            guarded: AtomicU64::new(0),
            payloads: PhantomData,
        })
    }

    pub(super) fn lock(&self) -> Result<LockGuard<'_, Writer>, Forked> {
        self.writer.lock()
    }

    /// What snapshots are taken from.
    pub(super) fn roots(&self) -> &RootCell<RootRef> {
        &self.roots
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Through which tick the guards see nothing. To be asked after a look at the gate.
    pub(super) fn guards_through(&self) -> u64 {
        self.guards_through.load(ordering(Site::EpochRead))
    }

    /// Unlocks, and says what is left to be done.
    pub(super) fn unlock(
        &self,
        writer: LockGuard<'_, Writer>,
        freed: Freed,
        collected: &Collected,
    ) -> Aftermath<'_, T> {
        self.counts.set(&writer.stats());
        self.guarded.store(collected.guarded.unwrap_or(0), ordering(Site::GuardedStore));
        drop(writer);
        Aftermath { estate: self, freed }
    }

    /// Drops payloads and gives memory back.
    fn free(&self, mut freed: Freed, panics: &mut Panics) {
        // SAFETY: nobody else sees a freed payload, and those of this registry come from `Arc::into_raw` of an `Arc<T>`.
        let mut drop_payload = |code: *const ()| panics.drop(unsafe { Arc::from_raw(code.cast::<T>()) });
        freed.payloads.as_slice().iter().for_each(|code| drop_payload(*code));
        freed.payloads.clear();
        let mut emptied = pool::List::new();
        while let Some(leaf) = freed.leaves.pop() {
            // SAFETY: nobody else sees a freed leaf, and nobody else owns the payloads it dooms.
            unsafe {
                while let Some(code) = tree::take_doomed(leaf) {
                    drop_payload(code);
                }
                emptied.push(leaf);
            }
        }
        if emptied.len() > 0
            && let Ok(mut writer) = self.lock()
        {
            writer.take_back(emptied, &mut freed);
            self.counts.set(&writer.stats());
        }
        while let Some(node) = freed.surplus.pop() {
            // SAFETY: surplus nodes are nobody else's.
            unsafe { pool::free(node) };
        }
    }

    /// The tick of the newest garbage that waits for guards, if there is any. Mostly there is none.
    #[inline]
    pub(super) fn waits_for_guards(&self) -> Option<u64> {
        let waiting = self.guarded.load(ordering(Site::GuardedLoad));
        (waiting != 0 && waiting > self.guards_through()).then_some(waiting)
    }

    /// Has crossbeam tell us when every guard that may see the garbage of `tick` is gone, unless it has to tell us
    /// something already; and helps it on.
    ///
    /// Garbage of `tick` was replaced by a publication that happened before. What is deferred raises a number, and
    /// neither frees nor locks; it does not mind if the registry is gone. Not under the writer lock.
    #[cold]
    pub(super) fn defer(&self, tick: u64, guard: &sync::epoch::Guard) {
        let known = self.deferred.load(Ordering::Relaxed);
        // Relaxed: the exchange elects one who defers; crossbeam orders what matters.
        let elected = known <= self.guards_through()
            && known < tick
            && self.deferred.compare_exchange(known, tick, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if elected {
            let through = self.guards_through.clone();
            guard.defer(move || {
                through.fetch_max(tick, ordering(Site::EpochRaise));
            });
        }
        // Hands over what was deferred, moves the epoch on by one if all who are pinned are at the current one, and runs
        // what is due.
        guard.flush();
    }

    /// Has crossbeam run what is due, until no guard sees the garbage of `tick`, or guards are in the way.
    pub(super) fn follow_guards(&self, tick: u64) {
        for _ in 0..PATIENCE {
            let guard = sync::epoch::pin();
            self.defer(tick, &guard);
            if self.guards_through() >= tick {
                return;
            }
        }
    }
}

/// How many times the epoch is asked to move on. A closure is due after two moves; another one may be on its way.
const PATIENCE: usize = 8;

/// What a writer does after it unlocked.
#[must_use = "garbage is leaked unless this is run"]
pub(super) struct Aftermath<'e, T> {
    estate: &'e Estate<T>,
    freed: Freed,
}

impl<T> Aftermath<'_, T> {
    /// Holds the panics of payloads' destructors back.
    pub(super) fn run_holding(self, panics: &mut Panics) {
        self.estate.free(self.freed, panics);
    }
}

impl<T> Drop for Estate<T> {
    fn drop(&mut self) {
        let mut freed = Freed::nothing();
        self.writer.get_mut().end(&mut freed);
        let mut panics = Panics::default();
        self.free(freed, &mut panics);
        panics.go_on();
    }
}
