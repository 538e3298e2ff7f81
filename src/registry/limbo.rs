//! Garbage: what was retired and may still be seen.
//!
//! A node lives from the tick of its birth up to, not including, the tick of its death. It is freed when
//!
//! - the gate is quiet since its death, and so are the guards: no handler and no guard sees it, and
//! - no snapshot of a tick in its life is held.
//!
//! Garbage that only snapshots hold up is filed with the newest of them that sees it, and is not looked at again until
//! that one goes. So a snapshot keeps what it can see, and what is written later does not add to it; and no write
//! looks at more garbage than it may be able to free.

use super::root::RootRef;
use super::tree::pool::{List, book, bytes_of};
use crate::handler::node::Node;

/// Retired nodes, and the roots that snapshots hold.
pub(crate) struct Limbo {
    /// Not yet known to be out of reach of handlers and guards; in order of death.
    fresh: List,
    /// Superseded roots that snapshots still had when last looked at, in order of their ticks.
    held: Vec<RootRef>,
    /// How many nodes are filed with the held roots, and their bytes.
    kept: usize,
    kept_bytes: usize,
}

impl Limbo {
    pub(crate) const fn new() -> Self {
        Self { fresh: List::new(), held: Vec::new(), kept: 0, kept_bytes: 0 }
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
    pub(crate) fn retire(&mut self, mut nodes: List) {
        self.fresh.append(&mut nodes);
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

    /// The tick at which the oldest garbage died.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let first = self.fresh.first();
        // SAFETY: listed nodes are alive, and their books are the list's.
        (!first.is_null()).then(|| unsafe { book(first).death })
    }

    /// Finds what nobody sees any more, given that handlers and guards see nothing that died at `frontier` or before.
    /// Hands over the roots that may be used again. Takes time in proportion to the roots that are held and to what can
    /// be freed.
    pub(crate) fn collect(&mut self, frontier: u64, freed: &mut List, mut spare: impl FnMut(RootRef)) {
        let mut loose = List::new();
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

    /// Files a node with the newest snapshot that sees it, if there is one.
    fn file(&mut self, node: *mut Node, freed: &mut List) {
        // SAFETY: the node came from one of our lists, so it is alive and its book is ours. So are the lists of the
        // held roots: snapshots read a root's other fields only.
        unsafe {
            let book = book(node);
            let older = self.held.partition_point(|root| root.tick() < book.death);
            match older.checked_sub(1).and_then(|i| self.held.get(i)) {
                Some(root) if root.tick() >= book.birth => {
                    root.keep(node);
                    self.kept += 1;
                    self.kept_bytes += bytes_of((*node).shape);
                }
                _ => freed.push(node),
            }
        }
    }

    /// Everything, whoever may see it: the end of the registry and of all its snapshots.
    pub(crate) fn take_all(&mut self) -> List {
        let mut all = core::mem::replace(&mut self.fresh, List::new());
        for root in self.held.drain(..) {
            // SAFETY: the limbo is the writer's.
            all.append(&mut unsafe { root.take_kept() });
        }
        (self.kept, self.kept_bytes) = (0, 0);
        all
    }
}
