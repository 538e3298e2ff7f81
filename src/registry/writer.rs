//! What writers share under their lock: the current tree, the garbage, and the reserve of nodes.
//!
//! Nothing here runs a destructor of a payload, calls user code, or calls crossbeam: all that is left to
//! [`State`](super::state::State), which does it unlocked.

use super::error::RegisterError;
use super::limbo::{Collected, Limbo};
use super::outcome::{Holder, Unregistered};
use super::root::{RootCell, Roots};
use super::stats::Stats;
use super::tree::{self, Buffer, Edit, List, Pool, Stack};
use crate::handler::gate::Gate;
use crate::handler::node::{Entry, Node};
use crate::sync::{FIRST_TICK, NoMemory, is_eager, new_ticks};
use alloc::vec::Vec;
use core::ops::Range;
use core::ptr;

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
    roots: Roots,
    limbo: Limbo,
}

// SAFETY: the nodes belong to the registry, whose payloads are Send and Sync; this is their owner.
unsafe impl Send for Writer {}

/// Where lookups find what a writer publishes.
#[derive(Clone, Copy)]
pub(super) struct Published<'r> {
    pub(super) gate: &'r Gate,
    pub(super) roots: &'r RootCell,
}

/// What nobody sees any more.
pub(super) struct Freed {
    /// Payloads to be dropped, while they are few.
    pub(super) payloads: Buffer<*const (), FEW>,
    /// Leaves with removed payloads: these are to be dropped, then the leaves go back to the pool.
    pub(super) leaves: Stack,
    /// Memory for the allocator.
    surplus: Stack,
}

/// Up to this many payloads are taken out of their leaves under the lock, which saves taking it again for the leaves.
const FEW: usize = 2;

impl Freed {
    pub(super) fn nothing() -> Self {
        Self { payloads: Buffer::new(), leaves: Stack::new(), surplus: Stack::new() }
    }
}

/// What a removal took out for its caller.
pub(super) struct Taken {
    pub(super) payload: *const (),
    /// A reader that sees the payload sees this leaf,
    leaf: *const Node,
    /// which died at this tick.
    death: u64,
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
            roots: Roots::new(),
            limbo: Limbo::new(),
        }
    }

    /// Registers ranges, in order of their starts and not empty, with one publication. Returns the number of the first;
    /// the others have those that follow it.
    ///
    /// On an error nothing has changed but the reserve.
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
        let no_memory = |range: Range<usize>| move |NoMemory { bytes }| RegisterError::OutOfMemory { range, bytes };
        // The roots of this publication and of a removal after it, which must not fail.
        let aside = self.sweep(published).and_then(|()| self.roots.set_aside(2, &mut self.limbo));
        aside.map_err(no_memory(first.clone()))?;
        // Each range has a number of its own, and the last one is the tick of the publication: no other publication of
        // this registry is among them.
        let births = new_ticks(count as u64);
        let tick = births + count as u64 - 1;
        let mut retired = List::new();
        // SAFETY: we are the writer, and nothing was published at this tick yet.
        let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, tick) };
        for (birth, (range, code)) in (births..).zip(ranges) {
            let entry = Entry { start: range.start, end: range.end, birth, code };
            let done = match edit.reserve() {
                Ok(()) => edit.insert(&entry).map_err(|existing| RegisterError::Overlap { range, existing }),
                Err(error) => Err(no_memory(range)(error)),
            };
            if let Err(error) = done {
                edit.abandon();
                return Err(error);
            }
        }
        let node = edit.finish();
        self.ranges += count;
        self.publish(published, node, tick, &mut retired);
        Ok(births)
    }

    /// Removes the range that starts at `start` and has number `birth`, and collects. `None` if there is no such range.
    ///
    /// Needs no memory: what registrations set aside does, or else what can be collected, or else the range is hidden
    /// in place.
    pub(super) fn unregister(
        &mut self,
        published: Published<'_>,
        start: usize,
        birth: u64,
        freed: &mut Freed,
        guards_through: impl Fn() -> u64,
    ) -> Option<(Unregistered, Collected)> {
        let mut aside = self.set_removal_aside();
        if aside.is_err() {
            self.collect(published.gate, freed, &guards_through, true);
            aside = self.set_removal_aside();
        }
        if aside.is_err() {
            let mut retired = List::new();
            // SAFETY: we are the writer, and this makes no nodes.
            let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, self.tick) };
            edit.hide(start, birth)?;
            self.ranges -= 1;
            self.retired_ranges += 1;
            self.hidden += 1;
            self.roots.uncount_one();
            return Some((Unregistered::Held(Holder::OutOfMemory), Collected::default()));
        }
        self.edit(published, 1, |edit| edit.remove(start, birth))?;
        self.retired_ranges += 1;
        let collected = self.collect(published.gate, freed, guards_through, false);
        Some((collected.held.map_or(Unregistered::Gone, Unregistered::Held), collected))
    }

    /// Removes the range that starts at `start` and has number `birth`, and leaves its payload to the caller, who
    /// drops it when it [`is_out_of_sight`](Self::is_out_of_sight). `None` if there is no such range; on an error
    /// nothing has changed.
    pub(super) fn take(
        &mut self,
        published: Published<'_>,
        start: usize,
        birth: u64,
    ) -> Option<Result<Taken, NoMemory>> {
        if let Err(error) = self.set_removal_aside() {
            return Some(Err(error));
        }
        let (leaf, payload) = self.edit(published, 1, |edit| edit.take(start, birth))?;
        Some(Ok(Taken { payload, leaf, death: self.tick }))
    }

    /// Whether nobody sees what was taken any more, as far as the collections so far have found out.
    pub(super) fn is_out_of_sight(&self, taken: &Taken) -> bool {
        !self.limbo.has(taken.leaf, taken.death)
    }

    /// Publishes what an edit makes of the tree, which has `fewer` ranges then, unless it finds nothing to do. What it takes
    /// was set aside.
    fn edit<R>(
        &mut self,
        published: Published<'_>,
        fewer: usize,
        change: impl FnOnce(&mut Edit<'_>) -> Option<R>,
    ) -> Option<R> {
        let tick = new_ticks(1);
        let mut retired = List::new();
        // SAFETY: we are the writer, and nothing was published at this tick yet.
        let mut edit = unsafe { Edit::new(&mut self.pool, &mut retired, self.node, tick) };
        let result = change(&mut edit)?;
        let node = edit.finish();
        self.ranges -= fewer;
        self.publish(published, node, tick, &mut retired);
        Some(result)
    }

    /// Gives leaves with hidden ranges new ones without them, now that there may be memory.
    pub(super) fn sweep(&mut self, published: Published<'_>) -> Result<(), NoMemory> {
        while self.hidden > 0 {
            self.set_removal_aside()?;
            match self.edit(published, 0, |edit| edit.sweep_one()) {
                Some(hidden) => self.hidden -= hidden,
                None => self.hidden = 0,
            }
        }
        Ok(())
    }

    fn publish(&mut self, published: Published<'_>, node: *mut Node, tick: u64, retired: &mut List) {
        // First what snapshots are taken from, then what lookups read: after a lookup that found the new tree nobody
        // takes a snapshot of the old one.
        self.roots.publish(published.roots, &mut self.limbo, tick, node, self.ranges);
        self.tick = tick;
        published.gate.publish(node, self.tick);
        self.node = node;
        self.limbo.retire(retired);
    }

    fn set_removal_aside(&mut self) -> Result<(), NoMemory> {
        self.roots.set_aside(1, &mut self.limbo)?;
        // SAFETY: we are the writer: the tree is alive.
        tree::reserve_removal(&mut self.pool, unsafe { tree::height(self.node) })
    }

    /// Frees what no handler, no guard and no snapshot sees. Never waits.
    ///
    /// `guards_through` says through which tick guards see nothing; it is asked after the look at the gate. Unless the
    /// collection is `thorough`, it may leave what snapshots that were dropped had kept.
    pub(super) fn collect(
        &mut self,
        gate: &Gate,
        freed: &mut Freed,
        guards_through: impl Fn() -> u64,
        thorough: bool,
    ) -> Collected {
        if !thorough && !is_eager() {
            return Collected::default();
        }
        let (mut nodes, roots) = (List::new(), &mut self.roots);
        let spare = |root| roots.put(root);
        let collected = self.limbo.collect(gate, self.tick, guards_through, thorough, &mut nodes, spare);
        self.let_go(&mut nodes, freed);
        collected
    }

    fn let_go(&mut self, nodes: &mut List, freed: &mut Freed) {
        while let Some(node) = nodes.pop() {
            // SAFETY: nobody sees these nodes any more, nor the payloads that were removed from them.
            let mut node = unsafe { node.into_free() };
            let payloads = node.payloads();
            self.retired_ranges -= payloads;
            if freed.payloads.len() + payloads > FEW {
                freed.leaves.push(node);
                continue;
            }
            while let Some(payload) = node.take_payload() {
                freed.payloads.push(payload);
            }
            self.pool.put(node);
        }
        self.trim(freed);
    }

    /// Takes leaves back whose payloads are gone.
    pub(super) fn put_back(&mut self, mut leaves: Stack, freed: &mut Freed) {
        while let Some(node) = leaves.pop() {
            self.pool.put(node);
        }
        self.trim(freed);
    }

    fn trim(&mut self, freed: &mut Freed) {
        while let Some(node) = self.pool.surplus() {
            freed.surplus.push(node);
        }
    }

    /// Ends the registry: everything in it is retired, and freed unless a snapshot sees it.
    ///
    /// Of a leaf, a snapshot may see some payloads and others not: those go to `unseen`, if there is memory for that.
    pub(super) fn close(&mut self, roots: &RootCell, freed: &mut Freed, unseen: &mut Vec<*const ()>) {
        self.roots.close(roots, &mut self.limbo);
        let newest = self.limbo.newest_snapshot();
        let death = self.tick + 1;
        let node = core::mem::replace(&mut self.node, ptr::null_mut());
        let mut nodes = List::new();
        let mut take = |payload| {
            unseen.try_reserve(1).is_ok_and(|()| {
                unseen.push(payload);
                true
            })
        };
        // SAFETY: we are the writer, and nothing was published at this tick.
        unsafe { Edit::new(&mut self.pool, &mut nodes, node, death) }.clear(newest, &mut take);
        self.limbo.retire(&mut nodes);
        self.retired_ranges += self.ranges - unseen.len();
        self.ranges = 0;
        self.hidden = 0;
        let (mut nodes, roots) = (List::new(), &mut self.roots);
        self.limbo.collect_after_readers(&mut nodes, |root| roots.put(root));
        self.let_go(&mut nodes, freed);
    }

    /// Ends the last snapshot of a closed registry.
    pub(super) fn end(&mut self, freed: &mut Freed) {
        let mut all = self.limbo.take_all();
        self.let_go(&mut all, freed);
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
