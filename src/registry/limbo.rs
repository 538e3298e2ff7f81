//! Limbo: where nodes are that were retired and may still be seen. (The literature of epoch-based reclamation calls such
//! lists *limbo lists*.)
//!
//! A node lives from the tick of its birth up to, not including, the tick of its death. It is freed when
//!
//! - the guards are past its death, and so are the handlers that do not say what they see,
//! - no handler is inside that announced a tick in its life, and
//! - no snapshot of a tick in its life is held.
//!
//! Every write looks, right after its publication: what nobody sees does not outlive the write that replaced it (P6).
//!
//! Garbage that only snapshots or announced handlers hold up is filed with one of them that sees it, and is not looked at
//! again until that one goes. So each keeps what it can see, and what is written later does not add to it; and no write
//! looks at more garbage than it may be able to free.

use super::outcome::Holder;
use super::readers::Readers;
use super::root::RootRef;
use super::tree::{List, Retired};
use crate::handler::gate::Gate;
use crate::handler::node::Node;
#[cfg(feature = "snapshot")]
use crate::sync::NoMemory;
use alloc::vec::Vec;

/// Up to this many held roots are all looked at in every write; more of them, in turns.
const FEW: usize = 8;

/// Retired nodes, and the roots that snapshots hold.
pub(crate) struct Limbo {
    /// Not yet known to be out of reach of handlers and guards; in order of death.
    fresh: List,
    /// Superseded roots that snapshots still had when last looked at, in order of their ticks.
    held: Vec<RootRef>,
    /// How many writes ago all of them were looked at.
    unswept: usize,
    /// Who is inside the gate, and what is filed with them.
    readers: Readers,
    /// How many nodes are filed with held roots and handlers, and their bytes.
    kept: usize,
    kept_bytes: usize,
}

/// What a collection found out.
#[derive(Default)]
pub(crate) struct Collected {
    /// Which reader may see a payload that the last write retired, if there is one.
    pub(crate) held: Option<Holder>,
    /// The tick at which the newest garbage died that guards are in the way of.
    pub(crate) guarded: Option<u64>,
}

impl Limbo {
    pub(crate) const fn new() -> Self {
        Self { fresh: List::new(), held: Vec::new(), unswept: 0, readers: Readers::new(), kept: 0, kept_bytes: 0 }
    }

    /// Sets memory aside for `more` held roots.
    #[cfg(feature = "snapshot")]
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let bytes = (self.held.len() + more).max(2 * self.held.len()) * size_of::<RootRef>();
        self.held.try_reserve(more).map_err(|_| NoMemory { bytes })
    }

    /// Takes what a publication replaced; room was [reserved](Self::reserve).
    #[cfg(feature = "snapshot")]
    pub(crate) fn hold(&mut self, root: RootRef) {
        self.held.push(root);
    }

    /// The tick of the newest snapshot that is held; 0 if there is none.
    pub(crate) fn newest_snapshot(&self) -> u64 {
        self.held.iter().rev().find(|root| !root.is_unique()).map_or(0, |root| root.tick())
    }

    /// Takes what the publication of one tick retired.
    pub(crate) fn retire(&mut self, nodes: &mut List) {
        self.fresh.append(nodes);
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
        self.fresh.first().map(Retired::death)
    }

    /// The same of the newest.
    fn newest(&self) -> Option<u64> {
        self.fresh.last().map(Retired::death)
    }

    /// Finds what nobody sees any more, after the publication of tick `now`. Never waits.
    ///
    /// `guards_through` says through which tick the guards see nothing, if there are guards; it is asked after the look at
    /// the gate. Hands over the roots that may be used again.
    ///
    /// Takes time in proportion to the readers that are inside and to what can be freed; and to the roots that are held,
    /// if these are few or the collection is to be `thorough`.
    pub(crate) fn collect(
        &mut self,
        gate: &Gate,
        now: u64,
        guards_through: impl Fn() -> u64,
        thorough: bool,
        freed: &mut List,
        mut spare: impl FnMut(RootRef),
    ) -> Collected {
        if self.len() == 0 && self.held.is_empty() {
            return Collected::default();
        }
        let mut loose = List::new();
        let seen = self.readers.scan(gate, now, self.oldest().unwrap_or(0), &mut loose);
        let guards_through = if seen.guards { guards_through() } else { u64::MAX };
        self.unswept += 1;
        if thorough || self.held.len() <= FEW || self.unswept >= self.held.len() {
            self.sweep(&mut loose, &mut spare);
        }
        let held = self.sort_out(now, seen.frontier.min(guards_through), loose, freed, spare);
        let newest = self.newest();
        Collected {
            held: match newest {
                Some(death) if death == now && seen.frontier < now => Some(Holder::Lookup),
                Some(death) if death == now => Some(Holder::Guard),
                _ => held,
            },
            // Nothing else than guards is in the way of the newest.
            guarded: newest.filter(|death| guards_through < *death),
        }
    }

    /// As [`collect`](Self::collect), when there is no handler and no guard any more.
    pub(crate) fn collect_after_readers(&mut self, freed: &mut List, mut spare: impl FnMut(RootRef)) {
        let mut loose = List::new();
        self.readers.end(&mut loose);
        self.sweep(&mut loose, &mut spare);
        self.sort_out(0, u64::MAX, loose, freed, spare);
    }

    /// Lets go of the held roots that are nobody's any more.
    fn sweep(&mut self, loose: &mut List, spare: &mut impl FnMut(RootRef)) {
        self.unswept = 0;
        for root in self.held.extract_if(.., |root| root.is_unique()) {
            // SAFETY: the limbo is the writer's.
            loose.append(&mut unsafe { root.take_kept() });
            spare(root);
        }
    }

    /// Given that handlers that are not announced, and guards, see nothing that died at `frontier` or before, nor
    /// anything that is `loose`. Says who holds a payload of what died `now`, if somebody does.
    fn sort_out(
        &mut self,
        now: u64,
        frontier: u64,
        mut loose: List,
        freed: &mut List,
        mut spare: impl FnMut(RootRef),
    ) -> Option<Holder> {
        let mut held = None;
        // What was filed is filed again, or freed.
        self.kept -= loose.len();
        self.kept_bytes -= loose.bytes();
        loop {
            let ripe = self.oldest().is_some_and(|death| death <= frontier);
            let Some(node) = (if ripe { self.fresh.pop() } else { loose.pop() }) else { return held };
            let is_of_now = node.death() == now && node.owns_payloads();
            let mut more = List::new();
            let holder = self.file(node, freed, &mut more, &mut spare);
            self.kept -= more.len();
            self.kept_bytes -= more.bytes();
            loose.append(&mut more);
            if is_of_now {
                held = holder.or(held);
            }
        }
    }

    /// Files a node with the newest snapshot that sees it, or with an announced handler that does, and says which; or
    /// frees it if there is none. What was filed with snapshots that turn out to be gone is let `loose`.
    fn file(
        &mut self,
        node: Retired,
        freed: &mut List,
        loose: &mut List,
        spare: &mut impl FnMut(RootRef),
    ) -> Option<Holder> {
        let (birth, death, bytes) = (node.birth(), node.death(), node.bytes());
        let (holder, list) = loop {
            let newest = self.held.partition_point(|root| root.tick() < death).checked_sub(1);
            let newest = newest.filter(|at| self.held[*at].tick() >= birth);
            let Some(at) = newest else {
                let Some(list) = self.readers.one_who_sees(birth, death) else {
                    freed.push(node);
                    return None;
                };
                break (Holder::Lookup, list);
            };
            if !self.held[at].is_unique() {
                // SAFETY: the limbo is the writer's, and so are the lists of the held roots: snapshots read a root's other
                // fields only.
                break (Holder::Snapshot, unsafe { self.held[at].kept_mut() });
            }
            let root = self.held.remove(at);
            // SAFETY: the limbo is the writer's, and so is the list of a root that was held.
            loose.append(&mut unsafe { root.take_kept() });
            spare(root);
        };
        list.push(node);
        self.kept += 1;
        self.kept_bytes += bytes;
        Some(holder)
    }

    /// Whether the node that died at tick `death` is here still. Takes time in proportion to what is here.
    pub(crate) fn has(&self, node: *const Node, death: u64) -> bool {
        // Memory that was used again may be here too, as another node.
        let is_it = |other: &Retired| other.is_at(node) && other.death() == death;
        // SAFETY: the limbo is the writer's, and so is what is filed with roots.
        self.fresh.iter().any(is_it)
            || self.held.iter().any(|root| unsafe { root.kept() }.iter().any(is_it))
            || self.readers.kept().any(|list| list.iter().any(is_it))
    }

    /// Everything, whether seen or not: the end of the registry and of all its snapshots.
    pub(crate) fn take_all(&mut self) -> List {
        let mut all = core::mem::replace(&mut self.fresh, List::new());
        self.readers.end(&mut all);
        for root in self.held.drain(..) {
            // SAFETY: the limbo is the writer's.
            all.append(&mut unsafe { root.take_kept() });
        }
        (self.kept, self.kept_bytes) = (0, 0);
        all
    }
}
