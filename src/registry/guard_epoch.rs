//! How long the guards of a registry are waited for.
//!
//! A guard is counted in its registry's gate, and pins the thread in crossbeam's epoch. While none is counted, guards see
//! nothing, and crossbeam is not asked. Where guards overlap without end, some always is: so once garbage waits for
//! guards, crossbeam is given a closure that it runs when those guards are gone that were there at the time, and that
//! raises [`through`](GuardEpoch::through). There is one such closure a registry, at most: what crossbeam keeps for us does
//! not grow.
//!
//! It is given by [`pin`](super::CodeRegistry::pin) and by [`reclaim`](super::CodeRegistry::reclaim), never by a write:
//! crossbeam aborts when it has no memory for it, and writes promise to do without.

use super::limbo::Collected;
use crate::sync::{self, AtomicU64, NoMemory, Ordering, Shared, Site, ordering, unmodelled};

/// What is known of a registry's guards.
pub(super) struct GuardEpoch {
    /// The last tick whose garbage no guard sees, as far as crossbeam's closures have found out.
    through: Shared<AtomicU64>,
    /// What the last of these closures raises that to: if it is more, the closure is still to come.
    deferred: unmodelled::AtomicU64,
    /// When the newest garbage died that waits for guards, or 0.
    waiting: AtomicU64,
}

impl GuardEpoch {
    pub(super) fn new() -> Result<Self, NoMemory> {
        let through = Shared::new(|| AtomicU64::new(0))?;
        Ok(Self { through, deferred: unmodelled::AtomicU64::new(0), waiting: AtomicU64::new(0) })
    }

    /// Through which tick the guards see nothing. To be asked after a look at the gate.
    pub(super) fn through(&self) -> u64 {
        self.through.load(ordering(Site::EpochRead))
    }

    /// Notes what a collection found to wait for guards.
    pub(super) fn set_waiting(&self, collected: &Collected) {
        self.waiting.store(collected.guarded.unwrap_or(0), ordering(Site::GuardedStore));
    }

    /// The tick of the newest garbage that waits for guards, if there is any. Mostly there is none.
    #[inline]
    pub(super) fn waiting(&self) -> Option<u64> {
        let waiting = self.waiting.load(ordering(Site::GuardedLoad));
        (waiting != 0 && waiting > self.through()).then_some(waiting)
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
        let elected = known <= self.through()
            && known < tick
            && self.deferred.compare_exchange(known, tick, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if elected {
            let through = self.through.clone();
            guard.defer(move || {
                through.fetch_max(tick, ordering(Site::EpochRaise));
            });
        }
        // Hands over what was deferred, moves the epoch on by one if all who are pinned are at the current one, and runs
        // what is due.
        guard.flush();
    }

    /// Has crossbeam run what is due, until no guard sees the garbage of `tick`, or guards are in the way.
    pub(super) fn follow(&self, tick: u64) {
        for _ in 0..PATIENCE {
            let guard = sync::epoch::pin();
            self.defer(tick, &guard);
            if self.through() >= tick {
                return;
            }
        }
    }
}

/// How many times the epoch is asked to move on. A closure is due after two moves; another one may be on its way.
const PATIENCE: usize = 8;
