//! What a registry and its snapshots own together, and the part of writing that is done unlocked.

use super::root::RootRef;
use super::stats::Counts;
use super::tree::{self, pool};
use super::writer::{Freed, Writer};
use crate::sync::{self, Arc, AtomicU64, Forked, Lock, LockGuard, RootCell, Site, ordering};
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Made by the first registration; goes with the registry or, if that outlives it, the last snapshot.
pub(super) struct Estate<T> {
    writer: Lock<Writer>,
    roots: RootCell<RootRef>,
    counts: Counts,
    /// The last tick whose garbage no guard sees. Shared with closures that crossbeam runs some day.
    guards_through: Arc<AtomicU64>,
    /// The last tick for which such a closure was made. Writers only, under their lock; atomic to be shared.
    deferred: core::sync::atomic::AtomicU64,
    payloads: PhantomData<std::sync::Arc<T>>,
}

impl<T> Estate<T> {
    pub(super) fn new() -> Self {
        Self {
            writer: Lock::new(Writer::new()),
            roots: RootCell::empty(),
            counts: Counts::default(),
            guards_through: Arc::new(AtomicU64::new(0)),
            deferred: core::sync::atomic::AtomicU64::new(0),
            payloads: PhantomData,
        }
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

    /// Through which tick the guards see nothing.
    pub(super) fn guards_through(&self) -> u64 {
        self.guards_through.load(ordering(Site::EpochRead))
    }

    /// Unlocks. `follow`: have crossbeam tell us when no guard sees the garbage of that tick.
    pub(super) fn unlock(&self, writer: LockGuard<'_, Writer>, freed: Freed, follow: Option<u64>) -> Aftermath<'_, T> {
        self.counts.set(&writer.stats());
        drop(writer);
        Aftermath { estate: self, freed, follow }
    }

    /// Drops payloads and gives memory back. A payload's panic goes on once the rest is freed.
    fn free(&self, mut freed: Freed) {
        let mut panic = None;
        let mut emptied = pool::List::new();
        while let Some(leaf) = freed.leaves.pop() {
            // SAFETY: nobody else sees a freed leaf, and nobody else owns the payloads it dooms.
            panic = unsafe { drop_doomed::<T>(leaf) }.or(panic);
            // SAFETY: as above.
            unsafe { emptied.push(leaf) };
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
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Has crossbeam tell us when every guard that may see the garbage of `tick` is gone.
    ///
    /// What is deferred raises a number, and neither frees nor locks; it does not mind if the registry is gone. Not
    /// under the writer lock.
    pub(super) fn defer(&self, tick: u64) {
        let through = self.guards_through.clone();
        let guard = sync::epoch::pin();
        guard.defer(move || {
            through.fetch_max(tick, ordering(Site::EpochRaise));
        });
        guard.flush();
        // After the flush: a fork in between must not make the child wait for a closure that it does not have.
        self.deferred.fetch_max(tick, Ordering::Relaxed);
    }

    /// Defers, unless the last closure is still to come, and moves the epoch on if no guard is held.
    fn follow_guards(&self, tick: u64) {
        // Relaxed: two writers that both defer do no harm.
        if self.guards_through() >= self.deferred.load(Ordering::Relaxed) {
            self.defer(tick);
        }
        sync::epoch::pin().flush();
    }
}

/// Drops the payloads that a leaf dooms; what the last of them panicked with.
///
/// # Safety
/// The leaf and the payloads are the caller's alone.
unsafe fn drop_doomed<T>(leaf: *mut crate::handler::node::Node) -> Option<Box<dyn core::any::Any + Send>> {
    let mut panic = None;
    // SAFETY: the caller's.
    while let Some(code) = unsafe { tree::take_doomed(leaf) } {
        // SAFETY: payloads of this registry come from `Arc::into_raw` of an `Arc<T>`.
        let payload = unsafe { std::sync::Arc::from_raw(code.cast::<T>()) };
        panic = catch_unwind(AssertUnwindSafe(|| drop(payload))).err().or(panic);
    }
    panic
}

/// What a writer does after it unlocked. It may panic, where a payload's destructor does: so whoever has something to
/// put in order first does that, and then runs it.
#[must_use = "garbage is leaked unless this is run"]
pub(super) struct Aftermath<'e, T> {
    estate: &'e Estate<T>,
    freed: Freed,
    follow: Option<u64>,
}

impl<'e, T> Aftermath<'e, T> {
    pub(super) fn nothing(estate: &'e Estate<T>) -> Self {
        Self { estate, freed: Freed::nothing(), follow: None }
    }

    pub(super) fn run(self) {
        if let Some(tick) = self.follow {
            self.estate.follow_guards(tick);
        }
        self.estate.free(self.freed);
    }
}

impl<T> Drop for Estate<T> {
    fn drop(&mut self) {
        let mut freed = Freed::nothing();
        self.writer.get_mut().end(&mut freed);
        self.free(freed);
    }
}
