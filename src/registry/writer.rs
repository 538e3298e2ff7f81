//! What writers share under their lock: the current tree, the garbage, and the stock of nodes.
//!
//! Nothing here runs a destructor of a payload, calls user code, or calls crossbeam: all that is left to
//! [`Estate`](super::estate::Estate), which does it unlocked.

use super::error::RegisterError;
use super::limbo::Limbo;
use super::root::RootRef;
use super::stats::Stats;
use super::tree::pool::{List, NoMemory, Pool, book};
use super::tree::{self, Edit, Place};
use crate::handler::gate::{FIRST_TICK, Gate};
use crate::handler::node::{Entry, Node};
use crate::sync::RootCell;
#[cfg(trapline_loom)]
use crate::sync::model::collect_at;
use core::ops::Range;
use core::ptr;

/// How many nodes may wait in limbo before a writer looks whether they can be freed.
///
/// A write retires a leaf and its ancestors, so this is some twenty to thirty writes.
#[cfg(not(trapline_loom))]
const fn collect_at() -> usize {
    64
}

/// The writer's state.
pub(super) struct Writer {
    /// The tick of the last publication.
    tick: u64,
    node: *mut Node,
    ranges: usize,
    /// Ranges that were removed for want of memory without a new leaf.
    hidden: usize,
    /// Ranges whose payload is still to be dropped.
    retired_ranges: usize,
    pool: Pool,
    /// Whether snapshots are taken of the tree as it is: then the cell of roots holds one.
    rooted: bool,
    /// A root that nobody has, for the next snapshot.
    spare_root: Option<RootRef>,
    limbo: Limbo,
    /// How much garbage makes the next collection worth its while.
    collect_at: usize,
}

// SAFETY: the nodes belong to the registry, whose payloads are Send and Sync; this is their owner.
unsafe impl Send for Writer {}

/// Where lookups find what a writer publishes.
#[derive(Clone, Copy)]
pub(super) struct Published<'r> {
    pub(super) gate: &'r Gate,
    pub(super) roots: &'r RootCell<RootRef>,
}

/// Nodes that nobody sees any more: their payloads are to be dropped, then they go back to the pool.
pub(super) struct Freed {
    /// Leaves with doomed payloads.
    pub(super) leaves: List,
    /// Memory for the allocator.
    pub(super) surplus: List,
}

impl Freed {
    pub(super) const fn nothing() -> Self {
        Self { leaves: List::new(), surplus: List::new() }
    }
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            tick: FIRST_TICK,
            node: ptr::null_mut(),
            ranges: 0,
            hidden: 0,
            retired_ranges: 0,
            pool: Pool::new(),
            rooted: false,
            spare_root: None,
            limbo: Limbo::new(),
            collect_at: collect_at(),
        }
    }

    /// The tick of the last publication.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    /// Registers ranges, in order of their starts and not empty, with one publication. Returns its tick.
    ///
    /// On an error nothing has changed but the stock.
    pub(super) fn register(
        &mut self,
        published: Published<'_>,
        ranges: impl ExactSizeIterator<Item = (Range<usize>, *const ())>,
    ) -> Result<u64, RegisterError> {
        let count = ranges.len();
        let mut ranges = ranges.peekable();
        let Some((first, _)) = ranges.peek() else {
            return Ok(self.tick);
        };
        if self.sweep(published).is_err() {
            return Err(RegisterError::OutOfMemory { range: first.clone() });
        }
        let tick = self.tick + 1;
        let mut retired = List::new();
        // SAFETY: we are the writer, and nothing was published at this tick yet.
        let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, tick) };
        for (range, code) in ranges {
            let entry = Entry { start: range.start, end: range.end, birth: tick, code };
            let done = match edit.stock() {
                Ok(()) => edit.insert(&entry).map_err(|existing| RegisterError::Overlap { range, existing }),
                Err(NoMemory) => Err(RegisterError::OutOfMemory { range }),
            };
            if let Err(error) = done {
                edit.abandon();
                return Err(error);
            }
        }
        let node = edit.finish();
        self.ranges += count;
        self.publish(published, node, &mut retired);
        Ok(tick)
    }

    /// Removes the range that starts at `start` and was registered at tick `birth`; false if there is none.
    ///
    /// Needs no memory: what registrations set aside does, or else what can be collected, or else the range is hidden
    /// in place.
    pub(super) fn unregister(
        &mut self,
        published: Published<'_>,
        start: usize,
        birth: u64,
        freed: &mut Freed,
        frontier_of_guards: impl Fn() -> u64,
    ) -> bool {
        let mut place = Place::new();
        let mut retired = List::new();
        // SAFETY: we are the writer.
        if !unsafe { Edit::new(&mut self.pool, &mut retired, self.node, self.tick + 1) }
            .locate(start, birth, &mut place)
        {
            return false;
        }
        let mut room = self.set_removal_aside().is_ok();
        if !room {
            self.collect(published.gate, freed, frontier_of_guards);
            room = self.set_removal_aside().is_ok();
        }
        // SAFETY: as above.
        let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, self.tick + 1) };
        self.ranges -= 1;
        self.retired_ranges += 1;
        if room {
            edit.remove(&place);
            let node = edit.finish();
            self.publish(published, node, &mut retired);
        } else {
            edit.hide(&place);
            self.hidden += 1;
            // A new snapshot must not count it.
            self.unroot(published.roots);
        }
        true
    }

    /// Gives leaves with hidden ranges new ones without them, now that there may be memory.
    pub(super) fn sweep(&mut self, published: Published<'_>) -> Result<(), NoMemory> {
        while self.hidden > 0 {
            self.set_removal_aside()?;
            let mut retired = List::new();
            // SAFETY: we are the writer, and nothing was published at this tick yet.
            let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, self.tick + 1) };
            let swept = edit.sweep_one();
            let node = edit.finish();
            match swept {
                Some(hidden) => self.hidden -= hidden,
                None => self.hidden = 0,
            }
            self.publish(published, node, &mut retired);
        }
        Ok(())
    }

    fn publish(&mut self, published: Published<'_>, node: *mut Node, retired: &mut List) {
        // First what snapshots are taken from, then what lookups read: whoever has found the new tree takes no snapshot
        // of the old one. Who asks for a snapshot in between waits for our lock.
        self.unroot(published.roots);
        self.tick += 1;
        published.gate.publish(node, self.tick);
        self.node = node;
        self.limbo.retire(retired);
    }

    /// What snapshots of the tree as it is refer to. Made by the first of them after a write, so that writes that
    /// nobody takes snapshots between are not held up by it; the next write takes it out of the cell.
    pub(super) fn root(&mut self, roots: &RootCell<RootRef>) -> Result<RootRef, NoMemory> {
        if self.rooted
            && let Some(root) = roots.load()
        {
            return Ok(root);
        }
        // For when it is superseded.
        if !self.limbo.reserve(1) {
            return Err(NoMemory);
        }
        let mut root = match self.spare_root.take() {
            Some(root) => root,
            None => RootRef::blank()?,
        };
        root.set(self.tick, self.node, self.ranges);
        roots.swap(Some(root.clone()));
        self.rooted = true;
        Ok(root)
    }

    /// Takes the root out of the cell: the tree changes.
    fn unroot(&mut self, roots: &RootCell<RootRef>) {
        if self.rooted
            && let Some(root) = roots.swap(None)
        {
            if root.is_unique() {
                self.spare_root = Some(root);
            } else {
                self.limbo.hold(root);
            }
        }
        self.rooted = false;
    }

    fn set_removal_aside(&mut self) -> Result<(), NoMemory> {
        // SAFETY: we are the writer: the tree is alive.
        tree::stock_removal(&mut self.pool, unsafe { tree::height(self.node) })
    }

    /// Whether there is enough garbage to look whether it can be freed.
    pub(super) fn collection_is_due(&self) -> bool {
        self.limbo.waiting() >= self.collect_at
    }

    /// Whether there is anything that a collection might free.
    pub(super) fn has_garbage(&self) -> bool {
        self.limbo.len() > 0
    }

    /// Frees what no handler, no guard and no snapshot sees. Never waits.
    ///
    /// `frontier_of_guards` says through which tick the guards see nothing; it is asked after the look at the gate.
    pub(super) fn collect(&mut self, gate: &Gate, freed: &mut Freed, frontier_of_guards: impl Fn() -> u64) {
        let (mut nodes, spare) = (List::new(), &mut self.spare_root);
        self.limbo.collect(gate, self.tick, frontier_of_guards, &mut nodes, |root| *spare = Some(root));
        self.collect_at = self.limbo.waiting() + collect_at();
        self.let_go(nodes, freed);
    }

    fn let_go(&mut self, mut nodes: List, freed: &mut Freed) {
        while let Some(node) = nodes.pop() {
            // SAFETY: nobody else sees these nodes any more.
            unsafe {
                (*node).witness.free();
                let doomed = book(node).doomed.count_ones() as usize;
                if doomed > 0 {
                    self.retired_ranges -= doomed;
                    freed.leaves.push(node);
                } else {
                    self.pool.put(node);
                }
            }
        }
        self.trim(freed);
    }

    /// Takes back leaves whose payloads are gone.
    pub(super) fn take_back(&mut self, mut leaves: List, freed: &mut Freed) {
        while let Some(node) = leaves.pop() {
            // SAFETY: they came from [`let_go`](Self::let_go), and own no payload any more.
            unsafe { self.pool.put(node) };
        }
        self.trim(freed);
    }

    fn trim(&mut self, freed: &mut Freed) {
        while let Some(node) = self.pool.surplus() {
            // SAFETY: surplus nodes are nobody else's.
            unsafe { freed.surplus.push(node) };
        }
    }

    /// Ends the registry: everything in it is retired, and freed unless a snapshot sees it.
    pub(super) fn close(&mut self, roots: &RootCell<RootRef>, freed: &mut Freed) {
        self.unroot(roots);
        let death = self.tick + 1;
        let node = core::mem::replace(&mut self.node, ptr::null_mut());
        let mut nodes = List::new();
        // SAFETY: we are the writer; there is no handler and no guard, whose lookups borrow the registry.
        unsafe {
            tree::for_each_node(node, &mut |node| {
                if (*node).shape.is_leaf() {
                    tree::doom_all(node);
                }
                book(node).death = death;
                nodes.push(node);
            });
        }
        self.limbo.retire(&mut nodes);
        self.retired_ranges += self.ranges;
        self.ranges = 0;
        self.hidden = 0;
        let (mut nodes, spare) = (List::new(), &mut self.spare_root);
        self.limbo.collect_after_readers(&mut nodes, |root| *spare = Some(root));
        self.let_go(nodes, freed);
    }

    /// Ends the last snapshot of a closed registry.
    pub(super) fn end(&mut self, freed: &mut Freed) {
        let all = self.limbo.take_all();
        self.let_go(all, freed);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            live_ranges: self.ranges,
            live_bytes: self.pool.bytes_taken() - self.limbo.bytes(),
            retired_ranges: self.retired_ranges,
            retired_nodes: self.limbo.len(),
            retired_bytes: self.limbo.bytes(),
            spare_bytes: self.pool.bytes(),
        }
    }
}
