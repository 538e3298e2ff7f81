//! Many lookups inside the gate, for one entry.

use super::Found;
use crate::handler::node::{self, Node};
use core::fmt;
use core::marker::PhantomData;

/// The registry as a handler sees it while it stays inside the gate; see [`CodeRegistry::view`].
///
/// All lookups of a view see the registry as of one moment, the one at which the view was made.
///
/// [`CodeRegistry::view`]: super::CodeRegistry::view
pub struct View<'a, T> {
    // Not Send: there is no need.
    root: *const Node,
    payloads: PhantomData<&'a T>,
}

impl<'a, T> View<'a, T> {
    /// # Safety
    /// `root` is null, or for `'a` its nodes and their payloads, which are Ts, stay alive (N4).
    #[inline(always)]
    pub(super) unsafe fn new(root: *const Node) -> Self {
        Self { root, payloads: PhantomData }
    }

    /// Finds the range that holds `pc`.
    ///
    /// O(log n). What is found may be kept until the closure that was given the view returns.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, pc: usize) -> Option<Found<'a, T>> {
        // SAFETY: `new`'s caller keeps what is below the root alive for 'a, and says that payloads are Ts.
        unsafe { node::find(self.root, pc).map(|entry| Found::new(pc, entry)) }
    }
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<T> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}
