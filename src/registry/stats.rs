//! Counts of what a registry holds.

use crate::sync::Ordering;
use crate::sync::unmodelled::AtomicUsize;

/// How much there is in a registry, as of the last write to it.
///
/// With no handler inside, and no guard and no snapshot that sees it, nothing of what a write replaced is retired: where
/// there are none at all, the `retired_` counts are 0 after each write. (What only snapshots kept that have gone since may
/// take some writes, or a [`reclaim`](super::CodeRegistry::reclaim): see [`CodeRegistry`](super::CodeRegistry#memory).)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Stats {
    /// Ranges that lookups find.
    pub live_ranges: usize,
    /// Bytes of the nodes that hold them, without the payloads.
    pub live_bytes: usize,
    /// Payloads of ranges that were unregistered, and that somebody may still see.
    pub retired_ranges: usize,
    /// Nodes that were replaced, and that somebody may still see.
    pub retired_nodes: usize,
    /// Bytes of those nodes, without the payloads.
    pub retired_bytes: usize,
    /// Bytes set aside for the next writes.
    pub spare_bytes: usize,
}

/// Where writers leave the counts. They publish nothing else, so everything here is Relaxed.
#[derive(Default)]
pub(super) struct Counts {
    live_ranges: AtomicUsize,
    live_bytes: AtomicUsize,
    retired_ranges: AtomicUsize,
    retired_nodes: AtomicUsize,
    retired_bytes: AtomicUsize,
    spare_bytes: AtomicUsize,
}

impl Counts {
    pub(super) fn set(&self, stats: &Stats) {
        let Stats { live_ranges, live_bytes, retired_ranges, retired_nodes, retired_bytes, spare_bytes } = *stats;
        self.live_ranges.store(live_ranges, Ordering::Relaxed);
        self.live_bytes.store(live_bytes, Ordering::Relaxed);
        self.retired_ranges.store(retired_ranges, Ordering::Relaxed);
        self.retired_nodes.store(retired_nodes, Ordering::Relaxed);
        self.retired_bytes.store(retired_bytes, Ordering::Relaxed);
        self.spare_bytes.store(spare_bytes, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Stats {
        Stats {
            live_ranges: self.live_ranges.load(Ordering::Relaxed),
            live_bytes: self.live_bytes.load(Ordering::Relaxed),
            retired_ranges: self.retired_ranges.load(Ordering::Relaxed),
            retired_nodes: self.retired_nodes.load(Ordering::Relaxed),
            retired_bytes: self.retired_bytes.load(Ordering::Relaxed),
            spare_bytes: self.spare_bytes.load(Ordering::Relaxed),
        }
    }
}
