//! The root: what the arc-swap holds, and what an owned snapshot is a reference to.
//!
//! A reference count of our own rather than `Arc`: the writer reuses a root that nobody has.

use super::tree::pool::{List, NoMemory};
use crate::handler::node::Node;
use crate::sync::{AtomicUsize, Site, ordering};
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

/// The registry as of one tick.
pub(crate) struct Root {
    references: AtomicUsize,
    tick: u64,
    node: *mut Node,
    ranges: usize,
    /// Garbage that is not freed before this root: the writer's, under its lock.
    kept: UnsafeCell<List>,
}

/// A counted reference to a [`Root`].
pub(crate) struct RootRef(NonNull<Root>);

// SAFETY: the nodes below a root are read-only for whoever holds it (N1, N4), `kept` is touched by the writer only, and
// the count is atomic.
unsafe impl Send for RootRef {}
// SAFETY: as above.
unsafe impl Sync for RootRef {}

impl RootRef {
    pub(crate) const LAYOUT: Layout = Layout::new::<Root>();

    /// A root that nobody else has, to be [`set`](Self::set) later.
    pub(crate) fn blank() -> Result<Self, NoMemory> {
        // SAFETY: the layout has a size, and all of the root is written before it is used.
        unsafe {
            let root = NonNull::new(std::alloc::alloc(Self::LAYOUT).cast::<Root>()).ok_or(NoMemory)?;
            root.write(Root {
                references: AtomicUsize::new(1),
                tick: 0,
                node: ptr::null_mut(),
                ranges: 0,
                kept: UnsafeCell::new(List::new()),
            });
            Ok(Self(root))
        }
    }

    /// Whether nobody else has this root. If so, all that others did with it happened before.
    pub(crate) fn is_unique(&self) -> bool {
        self.references.load(ordering(Site::SnapshotGone)) == 1
    }

    /// Makes a root that nobody else has stand for another tick.
    pub(crate) fn set(&mut self, tick: u64, node: *mut Node, ranges: usize) {
        debug_assert!(self.is_unique());
        // SAFETY: unique, and the writer's.
        let root = unsafe { self.0.as_mut() };
        root.tick = tick;
        root.node = node;
        root.ranges = ranges;
    }
}

impl Root {
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
    /// The caller holds the writer lock.
    pub(crate) unsafe fn take_kept(&self) -> List {
        // SAFETY: the caller's.
        unsafe { core::mem::replace(&mut *self.kept.get(), List::new()) }
    }
}

impl Deref for RootRef {
    type Target = Root;

    fn deref(&self) -> &Root {
        // SAFETY: counted references keep their root allocated.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for RootRef {
    fn clone(&self) -> Self {
        // Relaxed: who clones has a reference already. Nobody has enough memory for the count to overflow: each
        // reference takes a word somewhere, or was leaked; we do not defend against 2^63 leaked snapshots.
        self.references.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for RootRef {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `is_unique`, and with the one below.
        if self.references.fetch_sub(1, ordering(Site::SnapshotDrop)) == 1 {
            // The writer has a reference to every root of its own until it found it unique; of those that are made
            // without it, in the child of a fork, somebody else may be the last.
            self.references.load(ordering(Site::SnapshotGone));
            // SAFETY: the last reference; made by `blank` with this layout.
            unsafe {
                ptr::drop_in_place(self.0.as_ptr());
                std::alloc::dealloc(self.0.as_ptr().cast(), Self::LAYOUT);
            }
        }
    }
}

// SAFETY: the pointer is the reference; clones and drops count as arc-swap expects of an `Arc`.
#[cfg(not(trapline_loom))]
unsafe impl arc_swap::RefCnt for RootRef {
    type Base = Root;

    fn into_ptr(me: Self) -> *mut Root {
        core::mem::ManuallyDrop::new(me).0.as_ptr()
    }

    fn as_ptr(me: &Self) -> *mut Root {
        me.0.as_ptr()
    }

    unsafe fn from_ptr(root: *const Root) -> Self {
        // SAFETY: the caller's: from `into_ptr`, so not null.
        Self(unsafe { NonNull::new_unchecked(root.cast_mut()) })
    }
}
