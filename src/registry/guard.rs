//! Lookups for ordinary threads: pin once, look up often.

use super::{CodeRegistry, Found};
use crate::handler::{gate, node};
use crate::sync;
use alloc::sync::Arc;
use core::fmt;

/// A pinned thread: what it looks up stays alive for as long as the guard lives.
///
/// Pinning costs some nanoseconds and, mostly, shares no cache line with other threads. Lookups through a guard are as
/// fast as through a snapshot. A guard keeps what is retired from its registry while it lives from being freed: hold it for
/// a stack walk, not for a day. [`CodeRegistry::snapshot`] is for that. Other registries do not notice it. Guards of one
/// thread that overlap count as one, from the pin of the first to the end of the last. (Only where a registry is never
/// without guards, because those of several threads overlap without end, does it matter to it who else is pinned: the
/// epoch that then says which of them are gone is one for all registries.)
///
/// A guard stays on the thread that made it.
pub struct Guard<'r, T: Send + Sync + 'static> {
    registry: &'r CodeRegistry<T>,
    _counted: gate::Counted<'r>,
    // Not Send, and unpins when dropped.
    pub(crate) _pin: sync::epoch::Guard,
}

impl<'r, T: Send + Sync + 'static> Guard<'r, T> {
    pub(super) fn new(registry: &'r CodeRegistry<T>, counted: gate::Counted<'r>, pin: sync::epoch::Guard) -> Self {
        Self { registry, _counted: counted, _pin: pin }
    }

    /// Finds the range that holds `pc`, in the registry as it is now.
    ///
    /// O(log n). What is found borrows from the guard.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe, under a guard that exists already.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, pc: usize) -> Option<Found<'_, T>> {
        let root = self.registry.gate.current();
        // SAFETY: counted and pinned since before the load: the nodes below the root, and their payloads, are not freed
        // before that ends (N4). A payload of this registry is a T.
        unsafe { node::find(root, pc).map(|entry| Found::new(pc, entry)) }
    }

    /// As [`get`](Self::get), but gives the payload to keep, and the offset of `pc` in its range, in bytes.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: dropping an `Arc` may free.
    #[must_use]
    pub fn get_owned(&self, pc: usize) -> Option<(Arc<T>, usize)> {
        self.get(pc).map(|found| (found.to_arc(), found.offset()))
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
