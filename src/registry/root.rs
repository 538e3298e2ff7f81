//! The root: what the arc-swap holds, and what an owned snapshot is a reference to.

use super::tree::pool::List;
use crate::handler::node::Node;
use crate::sync::{NoMemory, Shared};
use core::cell::UnsafeCell;
use core::ptr;

/// The registry as of one tick.
pub(crate) struct Root {
    tick: u64,
    node: *mut Node,
    ranges: usize,
    /// Garbage that is not freed before this root: the writer's, under its lock.
    kept: UnsafeCell<List>,
}

/// A counted reference to a [`Root`]. The writer uses a root again that nobody has.
pub(crate) type RootRef = Shared<Root>;

// SAFETY: the nodes below a root are read-only for whoever holds it (N1, N4), and `kept` is touched by the writer only.
unsafe impl Send for Root {}
// SAFETY: as above.
unsafe impl Sync for Root {}

impl Root {
    /// A root that nobody else has, to be [`set`](Self::set) later.
    pub(crate) fn blank() -> Result<RootRef, NoMemory> {
        Shared::new(|| Self { tick: 0, node: ptr::null_mut(), ranges: 0, kept: UnsafeCell::new(List::new()) })
    }

    /// Makes a root stand for another tick.
    pub(crate) fn set(&mut self, tick: u64, node: *mut Node, ranges: usize) {
        self.tick = tick;
        self.node = node;
        self.ranges = ranges;
    }

    pub(crate) fn tick(&self) -> u64 {
        self.tick
    }

    /// The topmost node, null when there is none.
    pub(crate) fn node(&self) -> *mut Node {
        self.node
    }

    /// How many ranges there are below.
    pub(crate) fn ranges(&self) -> usize {
        self.ranges
    }

    /// # Safety
    /// The caller holds the writer lock, and `node` is its to list.
    pub(crate) unsafe fn keep(&self, node: *mut Node) {
        // SAFETY: the caller's.
        unsafe { (*self.kept.get()).push(node) };
    }

    /// # Safety
    /// The caller holds the writer lock, and calls nothing else of this root while it uses the list.
    pub(crate) unsafe fn kept(&self) -> &List {
        // SAFETY: the caller's.
        unsafe { &*self.kept.get() }
    }

    /// # Safety
    /// The caller holds the writer lock.
    pub(crate) unsafe fn take_kept(&self) -> List {
        // SAFETY: the caller's.
        unsafe { core::mem::replace(&mut *self.kept.get(), List::new()) }
    }
}
