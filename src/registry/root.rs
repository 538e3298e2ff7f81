//! The root: what the arc-swap holds, and what an owned snapshot is a reference to.

use super::limbo::Limbo;
use super::tree::List;
use crate::handler::node::Node;
use crate::sync::unmodelled::AtomicUsize;
use crate::sync::{self, NoMemory, Ordering, Shared};
use core::cell::UnsafeCell;
use core::ptr;

/// The registry as of one tick.
pub(crate) struct Root {
    tick: u64,
    node: *mut Node,
    /// Relaxed: nothing else is published through it.
    ranges: AtomicUsize,
    /// Garbage that is not freed before this root: the writer's, under its lock.
    kept: UnsafeCell<List>,
}

/// A counted reference to a [`Root`]. The writer uses a root again that nobody has.
pub(crate) type RootRef = Shared<Root>;

/// What snapshots are taken from.
pub(super) type RootCell = sync::RootCell<RootRef>;

// SAFETY: the nodes below a root are read-only for its holders (N1, N4), and `kept` is touched by the writer only.
unsafe impl Send for Root {}
// SAFETY: the nodes below a root are read-only for its holders (N1, N4), and `kept` is touched by the writer only.
unsafe impl Sync for Root {}

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
        self.ranges.load(Ordering::Relaxed)
    }

    /// # Safety
    /// The caller holds the writer lock, and calls nothing else of this root while it uses the list.
    #[expect(clippy::mut_from_ref, reason = "the writer's, under its lock")]
    pub(crate) unsafe fn kept_mut(&self) -> &mut List {
        // SAFETY: the caller's.
        unsafe { &mut *self.kept.get() }
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

/// The writer's stock of roots: each publication takes one that was set aside before, so that it cannot fail.
pub(super) struct Roots {
    /// What the cell holds; null while it is empty. The reference is the cell's.
    current: *const Root,
    /// Roots that nobody has: with no snapshot about, writes use two of them in turns.
    spare: [Option<RootRef>; 2],
}

impl Roots {
    pub(super) const fn new() -> Self {
        Self { current: ptr::null(), spare: [const { None }; 2] }
    }

    /// Sets aside what `publications`, two at most, and the end of the registry take.
    pub(super) fn set_aside(&mut self, publications: usize, limbo: &mut Limbo) -> Result<(), NoMemory> {
        sync::prepare_to_swap()?;
        for spare in &mut self.spare[..publications] {
            if spare.is_none() {
                let kept = UnsafeCell::new(List::new());
                let ranges = AtomicUsize::new(0);
                *spare = Some(Shared::new(|| Root { tick: 0, node: ptr::null_mut(), ranges, kept })?);
            }
        }
        limbo.reserve(publications + 1)
    }

    /// Takes a root that nobody has any more, and whose garbage was taken.
    pub(super) fn put(&mut self, root: RootRef) {
        if let Some(empty) = self.spare.iter_mut().find(|spare| spare.is_none()) {
            *empty = Some(root);
        }
    }

    /// Has snapshots taken of another tree from now on.
    pub(super) fn publish(&mut self, cell: &RootCell, limbo: &mut Limbo, tick: u64, node: *mut Node, ranges: usize) {
        let mut new = self.spare.iter_mut().rev().find_map(Option::take).expect("a root was set aside");
        let root = new.get_mut().expect("a spare root is nobody else's");
        (root.tick, root.node, *root.ranges.get_mut()) = (tick, node, ranges);
        self.current = &raw const *new;
        self.supersede(cell.swap(Some(new)), limbo);
    }

    /// Empties the cell: there are no more publications.
    pub(super) fn close(&mut self, cell: &RootCell, limbo: &mut Limbo) {
        self.current = ptr::null();
        self.supersede(cell.swap(None), limbo);
    }

    fn supersede(&mut self, old: Option<RootRef>, limbo: &mut Limbo) {
        match old {
            Some(old) if old.is_unique() => self.put(old),
            Some(old) => limbo.hold(old),
            None => {}
        }
    }

    /// A range of the current tree was hidden in place: new snapshots do not count it.
    pub(super) fn uncount_one(&self) {
        // SAFETY: null, or the cell has a reference to it, which only the owner of this takes out.
        if let Some(current) = unsafe { self.current.as_ref() } {
            current.ranges.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
