//! What a registry and its snapshots own together, and the part of writing that is done unlocked.

use super::guard_epoch::GuardEpoch;
use super::limbo::Collected;
use super::panics::Panics;
use super::root::RootCell;
use super::stats::Counts;
use super::tree::{Buffer, Stack};
use super::writer::{Freed, Writer};
use crate::sync::{Forked, Lock, LockGuard, NoMemory, Shared};
use alloc::sync::Arc;
use core::marker::PhantomData;

/// Made by the first registration; goes with the registry or, if that outlives it, the last snapshot.
pub(super) struct State<T> {
    writer: Lock<Writer>,
    /// What snapshots are taken from.
    pub(super) roots: RootCell,
    pub(super) counts: Counts,
    pub(super) guards: GuardEpoch,
    payloads: PhantomData<Arc<T>>,
}

impl<T> State<T> {
    pub(super) fn new() -> Result<Shared<Self>, NoMemory> {
        let guards = GuardEpoch::new()?;
        Shared::new(|| Self {
            writer: Lock::new(Writer::new()),
            roots: RootCell::empty(),
            counts: Counts::default(),
            guards,
            payloads: PhantomData,
        })
    }

    pub(super) fn lock(&self) -> Result<LockGuard<'_, Writer>, Forked> {
        self.writer.lock()
    }

    /// Unlocks, and says what is left to be done.
    pub(super) fn unlock(&self, writer: LockGuard<'_, Writer>, freed: Freed, collected: &Collected) -> Cleanup<'_, T> {
        self.counts.set(&writer.stats());
        self.guards.set_waiting(collected);
        drop(writer);
        Cleanup { state: self, freed }
    }

    /// Drops payloads and gives memory back.
    fn free(&self, freed: Freed, panics: &mut Panics) {
        let mut emptying = Emptying { state: self, freed, emptied: Stack::new() };
        // SAFETY: nobody else sees a freed payload, and those of this registry come from `Arc::into_raw` of an `Arc<T>`.
        let mut drop_payload = |code: *const ()| panics.drop(unsafe { Arc::from_raw(code.cast::<T>()) });
        let payloads = core::mem::replace(&mut emptying.freed.payloads, Buffer::new());
        payloads.as_slice().iter().for_each(|code| drop_payload(*code));
        while let Some(mut leaf) = emptying.freed.leaves.pop() {
            while let Some(code) = leaf.take_payload() {
                drop_payload(code);
            }
            emptying.emptied.push(leaf);
        }
    }
}

/// Leaves on their way back to the pool: all of them get there, also if a payload's destructor unwinds, which it does in
/// builds without `std`. (Payloads that were not dropped by then leak, and the leaf they were in.)
struct Emptying<'s, T> {
    state: &'s State<T>,
    freed: Freed,
    emptied: Stack,
}

impl<T> Drop for Emptying<'_, T> {
    #[inline]
    fn drop(&mut self) {
        while let Some(mut leaf) = self.freed.leaves.pop() {
            while leaf.take_payload().is_some() {}
            self.emptied.push(leaf);
        }
        if !self.emptied.is_empty()
            && let Ok(mut writer) = self.state.lock()
        {
            writer.put_back(core::mem::replace(&mut self.emptied, Stack::new()), &mut self.freed);
            self.state.counts.set(&writer.stats());
        }
    }
}

/// What a writer does after it unlocked.
#[must_use = "garbage is leaked unless this is run"]
pub(super) struct Cleanup<'s, T> {
    state: &'s State<T>,
    freed: Freed,
}

impl<T> Cleanup<'_, T> {
    /// Holds the panics of payloads' destructors back.
    pub(super) fn run_holding(self, panics: &mut Panics) {
        self.state.free(self.freed, panics);
    }
}

impl<T> Drop for State<T> {
    fn drop(&mut self) {
        let mut freed = Freed::nothing();
        self.writer.get_mut().end(&mut freed);
        let mut panics = Panics::default();
        self.free(freed, &mut panics);
        panics.go_on();
    }
}
