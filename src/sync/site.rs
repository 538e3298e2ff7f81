//! Every ordering of our own protocols, by name.
//!
//! arc-swap's and crossbeam-epoch's orderings are theirs. Under loom one site at a time can be overridden through
//! `TRAPLINE_WEAKEN=Site=Ordering`, so that the models can show which of them is needed, without a rebuild.

use core::sync::atomic::Ordering;

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $ordering:ident,)*) => {
        /// One atomic operation of the gate, of publication or of retirement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Site { $($(#[$doc])* $name,)* }

        impl Site {
            /// The ordering that ships.
            const fn shipped(self) -> Ordering {
                match self { $(Self::$name => Ordering::$ordering,)* }
            }

            #[cfg(loom)]
            pub(crate) const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

sites! {
    /// Reader: which side of the stripe. Liveness only; any value is safe.
    PhaseLoad = Relaxed,
    /// Writer: send newcomers to the other side. Liveness only.
    PhaseStore = Relaxed,
    /// Reader: compare-exchange 0 -> 1 of its stripe's claim; pairs with `GateScan`, and with `GateYield` of the reader
    /// before: a reader that comes after a zero sees the new root.
    GateClaim = Acquire,
    /// Reader: store of 0 to its claim; pairs with `GateScan`: what the reader did happens before what the zero allows.
    GateYield = Release,
    /// Reader: `fetch_add` on its stripe's count; pairs with `GateScan`: a reader that comes after a zero sees the new
    /// root.
    GateEnter = Acquire,
    /// Reader: `fetch_sub`; pairs with `GateScan`: what the reader did happens before what the zero allows.
    GateLeave = Release,
    /// Writer: compare-exchange 0 -> 0; pairs with `GateClaim`, `GateYield`, `GateEnter` and `GateLeave`.
    GateScan = AcqRel,
    /// Reader: the root; pairs with `RootPublish`: the nodes are initialised.
    RootLoad = Acquire,
    /// Writer: the new root; pairs with `RootLoad`.
    RootPublish = Release,
    /// First pin of a registry, inside the gate; pairs with `PinnedLoad`.
    PinnedStore = Release,
    /// Later pins; pairs with `PinnedStore`: they are as visible to a scan as the first one. No model needs it, for
    /// crossbeam's pin, which follows, has a fence of its own; we do not rely on that.
    PinnedLoad = Acquire,
    /// The end of a reference to a root; pairs with `SnapshotGone`.
    SnapshotDrop = Release,
    /// Writer: whether a superseded root is nobody's; pairs with `SnapshotDrop`.
    SnapshotGone = Acquire,
    /// The deferred closure: every guard of that tick is gone; pairs with `EpochRead`. No model needs it, for
    /// crossbeam runs closures behind a fence of its own; we do not rely on that.
    EpochRaise = Release,
    /// Writer: how far the guards are; pairs with `EpochRaise`.
    EpochRead = Acquire,
}

/// The ordering to use at `site`.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn ordering(site: Site) -> Ordering {
    site.shipped()
}

/// The ordering to use at `site`, weakened when the environment says so.
#[cfg(loom)]
pub(crate) fn ordering(site: Site) -> Ordering {
    match weakened() {
        Some((weak, how)) if weak == site => how.unwrap_or(Ordering::Relaxed),
        _ => site.shipped(),
    }
}

/// Whether the read-modify-write at `site` is to be replaced by a plain load or store (`Site=plain`).
#[cfg(loom)]
pub(crate) fn plain(site: Site) -> bool {
    weakened() == Some((site, None))
}

#[cfg(loom)]
fn weakened() -> Option<(Site, Option<Ordering>)> {
    use std::sync::OnceLock;
    static WEAKENED: OnceLock<Option<(Site, Option<Ordering>)>> = OnceLock::new();
    *WEAKENED.get_or_init(|| {
        let text = std::env::var("TRAPLINE_WEAKEN").ok()?;
        let (name, how) = text.split_once('=').expect("TRAPLINE_WEAKEN is Site=Ordering or Site=plain");
        let (site, _) = Site::ALL.iter().find(|(_, n)| *n == name).expect("TRAPLINE_WEAKEN names no site");
        let how = match how {
            "Relaxed" => Some(Ordering::Relaxed),
            "Acquire" => Some(Ordering::Acquire),
            "Release" => Some(Ordering::Release),
            "AcqRel" => Some(Ordering::AcqRel),
            "plain" => None,
            _ => panic!("TRAPLINE_WEAKEN: unknown ordering {how}"),
        };
        Some((*site, how))
    })
}
