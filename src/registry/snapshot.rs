//! Owned snapshots: the registry as of one moment, for as long as you like.

use super::Found;
use super::root::RootRef;
use super::state::State;
use super::tree;
use crate::handler::node::{self, Node, NodeRef};
use crate::sync::Shared;
use alloc::sync::Arc;
use core::fmt;
use core::iter::FusedIterator;
use core::marker::PhantomData;
use core::ptr;

/// The registry as it was at one moment.
///
/// Taking or cloning one takes constant time. It keeps what it can see alive, payloads included, however long it is held,
/// and even if the registry is dropped; what is registered and unregistered afterwards it neither sees nor keeps. What is
/// found may have been unregistered since. A snapshot that is taken after a lookup is never older than what that found.
///
/// What a snapshot alone has kept is freed by the first write after it was dropped (if many superseded snapshots are held,
/// within as many writes), or by [`reclaim`](super::CodeRegistry::reclaim); of a registry that is gone, when the last of
/// its snapshots is dropped.
///
/// There is one exception to "as it was": a range that is unregistered when there is no memory at all vanishes from
/// snapshots too, though older ones still count it in their [`len`](Self::len). Its payload is kept all the same.
///
/// # Signal safety
///
/// Async-signal-safe: looking up in a snapshot that exists already, and iterating it. Not for handlers: taking, cloning and
/// dropping one.
pub struct Snapshot<T: Send + Sync + 'static> {
    // Fields are dropped in order: the root is let go before the state, which frees what is below it.
    root: Option<RootRef>,
    state: Option<Shared<State<T>>>,
}

impl<T: Send + Sync + 'static> Snapshot<T> {
    pub(super) fn new(root: RootRef, state: Shared<State<T>>) -> Self {
        Self { root: Some(root), state: Some(state) }
    }

    pub(super) fn empty() -> Self {
        Self { root: None, state: None }
    }

    fn node(&self) -> *mut Node {
        self.root.as_ref().map_or(ptr::null_mut(), |root| root.node())
    }

    /// Finds the range that holds `pc`. O(log n).
    #[inline(always)]
    #[must_use]
    pub fn get(&self, pc: usize) -> Option<Found<'_, T>> {
        // SAFETY: a held root keeps its nodes and their payloads alive (N4), which are of the registry's type.
        unsafe { node::find(self.node(), pc).map(|entry| Found::new(pc, entry)) }
    }

    /// As [`get`](Self::get), but gives the payload to keep, and the offset of `pc` in its range, in bytes.
    #[must_use]
    pub fn get_owned(&self, pc: usize) -> Option<(Arc<T>, usize)> {
        self.get(pc).map(|found| (found.to_arc(), found.offset()))
    }

    /// All ranges in order of address, each as if its first address had been looked up. O(1) each.
    #[must_use]
    pub fn iter(&self) -> SnapshotIter<'_, T> {
        // SAFETY: a held root keeps its nodes alive (N4).
        let root = unsafe { NodeRef::new(self.node()) };
        SnapshotIter { ranges: tree::Ranges::new(root), left: self.len(), snapshot: PhantomData }
    }

    /// How many ranges there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.ranges())
    }

    /// Whether there were no ranges.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The ranges of a [`Snapshot`] in order of address.
pub struct SnapshotIter<'s, T> {
    ranges: tree::Ranges<'s>,
    left: usize,
    snapshot: PhantomData<&'s T>,
}

impl<'s, T> Iterator for SnapshotIter<'s, T> {
    type Item = Found<'s, T>;

    fn next(&mut self) -> Option<Found<'s, T>> {
        let Some(entry) = self.ranges.next() else {
            // Those that were removed without memory were counted, too.
            self.left = 0;
            return None;
        };
        self.left = self.left.saturating_sub(1);
        // SAFETY: the snapshot, which is borrowed, keeps payloads alive, which are of the registry's type.
        Some(unsafe { Found::new(entry.start, entry) })
    }

    /// Not exact: ranges that were removed without memory are counted, and missing.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl<T> FusedIterator for SnapshotIter<'_, T> {}

impl<T> fmt::Debug for SnapshotIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotIter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<'s, T: Send + Sync + 'static> IntoIterator for &'s Snapshot<T> {
    type Item = Found<'s, T>;
    type IntoIter = SnapshotIter<'s, T>;

    fn into_iter(self) -> SnapshotIter<'s, T> {
        self.iter()
    }
}

impl<T: Send + Sync + 'static> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), state: self.state.clone() }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("ranges", &self.len()).finish_non_exhaustive()
    }
}

// SAFETY: it borrows a snapshot, which is shared references to nodes that do not change and payloads that are Send and Sync.
unsafe impl<T: Send + Sync> Send for SnapshotIter<'_, T> {}
// SAFETY: it borrows a snapshot, which is shared references to nodes that do not change and payloads that are Send and Sync.
unsafe impl<T: Send + Sync> Sync for SnapshotIter<'_, T> {}

// SAFETY: a snapshot is shared references to nodes that do not change and to payloads that are Send and Sync.
unsafe impl<T: Send + Sync + 'static> Send for Snapshot<T> {}
// SAFETY: a snapshot is shared references to nodes that do not change and to payloads that are Send and Sync.
unsafe impl<T: Send + Sync + 'static> Sync for Snapshot<T> {}
