//! Garbage: what was retired and may still be seen.
//!
//! A node lives from the tick of its birth up to, not including, the tick of its death. It is freed when
//!
//! - the guards are past its death, and so are the handlers that do not say what they see,
//! - no handler is inside that announced a tick in its life, and
//! - no snapshot of a tick in its life is held.
//!
//! Garbage that only snapshots or announced handlers hold up is filed with one of them that sees it, and is not looked at
//! again until that one goes. So each keeps what it can see, and what is written later does not add to it; and no write
//! looks at more garbage than it may be able to free.

use super::quiet::Quiet;
use super::root::RootRef;
use super::tree::pool::{List, book, bytes_of};
use crate::handler::gate::Gate;
use crate::handler::node::Node;

/// Retired nodes, and the roots that snapshots hold.
pub(crate) struct Limbo {
    /// Not yet known to be out of reach of handlers and guards; in order of death.
    fresh: List,
    /// Superseded roots that snapshots still had when last looked at, in order of their ticks.
    held: Vec<RootRef>,
    /// Who is inside the gate, and what is filed with them.
    quiet: Quiet,
    /// How many nodes are filed with held roots and handlers, and their bytes.
    kept: usize,
    kept_bytes: usize,
}

impl Limbo {
    pub(crate) const fn new() -> Self {
        Self { fresh: List::new(), held: Vec::new(), quiet: Quiet::new(), kept: 0, kept_bytes: 0 }
    }

    /// Sets memory aside for so many more held roots; false if there is none.
    pub(crate) fn reserve(&mut self, roots: usize) -> bool {
        self.held.try_reserve(roots).is_ok()
    }

    /// Takes what a publication replaced; room was [reserved](Self::reserve).
    pub(crate) fn hold(&mut self, root: RootRef) {
        self.held.push(root);
    }

    /// Takes what the publication of one tick retired.
    pub(crate) fn retire(&mut self, nodes: &mut List) {
        self.fresh.append(nodes);
    }

    /// How many nodes may be seen by handlers and guards still.
    pub(crate) fn waiting(&self) -> usize {
        self.fresh.len()
    }

    /// How many nodes are here in all.
    pub(crate) fn len(&self) -> usize {
        self.fresh.len() + self.kept
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.fresh.bytes() + self.kept_bytes
    }

    /// The tick at which the oldest garbage that may be seen by handlers and guards died.
    fn oldest(&self) -> Option<u64> {
        let first = self.fresh.first();
        // SAFETY: listed nodes are alive, and their books are the list's.
        (!first.is_null()).then(|| unsafe { book(first).death })
    }

    /// Finds what nobody sees any more, after the publication of tick `now`. Never waits.
    ///
    /// `frontier_of_guards` says through which tick the guards see nothing; it is asked after the look at the gate.
    /// Hands over the roots that may be used again. Takes time in proportion to the roots that are held, to the readers
    /// that are inside, and to what can be freed.
    pub(crate) fn collect(
        &mut self,
        gate: &Gate,
        now: u64,
        frontier_of_guards: impl Fn() -> u64,
        freed: &mut List,
        spare: impl FnMut(RootRef),
    ) {
        if self.len() == 0 && self.held.is_empty() {
            return;
        }
        let mut loose = List::new();
        let frontier = self.quiet.scan(gate, now, self.oldest().unwrap_or(0), &mut loose);
        self.sort_out(frontier.min(frontier_of_guards()), loose, freed, spare);
    }

    /// As [`collect`](Self::collect), when there is no handler and no guard any more.
    pub(crate) fn collect_after_readers(&mut self, freed: &mut List, spare: impl FnMut(RootRef)) {
        let mut loose = List::new();
        self.quiet.end(&mut loose);
        self.sort_out(u64::MAX, loose, freed, spare);
    }

    /// Given that handlers that are not announced, and guards, see nothing that died at `frontier` or before, nor
    /// anything that is `loose`.
    fn sort_out(&mut self, frontier: u64, mut loose: List, freed: &mut List, mut spare: impl FnMut(RootRef)) {
        for root in self.held.extract_if(.., |root| root.is_unique()) {
            // SAFETY: the limbo is the writer's.
            loose.append(&mut unsafe { root.take_kept() });
            spare(root);
        }
        self.kept -= loose.len();
        self.kept_bytes -= loose.bytes();
        while self.oldest().is_some_and(|death| death <= frontier) {
            let Some(node) = self.fresh.pop() else { break };
            self.file(node, freed);
        }
        while let Some(node) = loose.pop() {
            self.file(node, freed);
        }
    }

    /// Files a node with the newest snapshot that sees it, or with an announced handler that does, if there is one.
    fn file(&mut self, node: *mut Node, freed: &mut List) {
        // SAFETY: the node came from one of our lists, so it is alive and its book is ours. So are the lists of the
        // held roots: snapshots read a root's other fields only.
        unsafe {
            let (birth, death) = (book(node).birth, book(node).death);
            let older = self.held.partition_point(|root| root.tick() < death);
            match older.checked_sub(1).and_then(|i| self.held.get(i)) {
                Some(root) if root.tick() >= birth => root.keep(node),
                _ => match self.quiet.reader_of(birth, death) {
                    Some(kept) => kept.push(node),
                    None => return freed.push(node),
                },
            }
            self.kept += 1;
            self.kept_bytes += bytes_of((*node).shape);
        }
    }

    /// Everything, whoever may see it: the end of the registry and of all its snapshots.
    pub(crate) fn take_all(&mut self) -> List {
        let mut all = core::mem::replace(&mut self.fresh, List::new());
        self.quiet.end(&mut all);
        for root in self.held.drain(..) {
            // SAFETY: the limbo is the writer's.
            all.append(&mut unsafe { root.take_kept() });
        }
        (self.kept, self.kept_bytes) = (0, 0);
        all
    }
}
