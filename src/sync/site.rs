//! Every ordering of our own protocols, by name.
//!
//! arc-swap's and crossbeam-epoch's orderings are theirs. Under loom one site at a time can be overridden through
//! `TRAPLINE_WEAKEN=Site=Ordering`, so that the models can show which of them is needed, without a rebuild.

use super::Ordering;

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $ordering:ident,)*) => {
        /// One atomic operation of the gate, of publication or of retirement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(all(feature = "snapshot", feature = "guard")), allow(dead_code))]
        pub(crate) enum Site { $($(#[$doc])* $name,)* }

        impl Site {
            /// The ordering that ships.
            const fn shipped(self) -> Ordering {
                match self { $(Self::$name => Ordering::$ordering,)* }
            }

            #[cfg(trapline_loom)]
            pub(crate) const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

sites! {
    /// Reader: which side of the stripe. Liveness only; any value is safe.
    PhaseLoad = Relaxed,
    /// Writer: send newcomers to the other side. Liveness only.
    PhaseStore = Relaxed,
    /// Reader: the tick to announce; pairs with `TickStore`: no tree before the one before it is found afterwards. No model
    /// needs it, for the fence that stands in a model for the one total order comes behind it, and would do.
    TickLoad = Acquire,
    /// Reader: whether the tick is still that; ordered by `RootLoad`, which synchronised with the root's publication.
    TickCheck = Relaxed,
    /// Writer: the tick that is about to be published; pairs with `TickLoad`, and with `TickCheck` by way of the root.
    TickStore = Release,
    /// Reader: compare-exchange of its claim from 0. SeqCst, with `RootLoad` and `ScanFence`: a reader that the scan does
    /// not see finds the new root. Acquire pairs with the `GateYield` of the reader before, and Release with `GateScan`:
    /// what that one did is known to the writer that sees this one.
    GateClaim = SeqCst,
    /// Reader: another announcement in its claim; SeqCst as `GateClaim` is, and Release pairs with `GateScan` likewise.
    GateRaise = SeqCst,
    /// Reader: store of 0 to its claim; pairs with `GateScan`, and with `GateClaim` of the next one: what the reader did
    /// happens before what the zero allows.
    GateYield = Release,
    /// Reader: `fetch_add` on a count; SeqCst as `GateClaim` is.
    GateEnter = SeqCst,
    /// Reader: `fetch_sub`; pairs with `GateScan`: what the reader did happens before what the zero allows.
    GateLeave = Release,
    /// Writer: between the publications and the look at claims and counts; with `GateClaim`, `GateRaise` and `GateEnter`.
    ScanFence = SeqCst,
    /// Writer: the look at a claim or a count; pairs with all that readers write there.
    GateScan = Acquire,
    /// Reader: the root; pairs with `RootPublish`: the nodes are initialised, and the tick is known. SeqCst with
    /// `GateClaim`, `GateRaise` and `GateEnter`.
    RootLoad = SeqCst,
    /// Writer: the new root; pairs with `RootLoad`.
    RootPublish = Release,
    /// Guard: `fetch_add` on the guards of a stripe; SeqCst as `GateEnter` is.
    GuardEnter = SeqCst,
    /// Guard: `fetch_sub`; pairs with `GateScan`: what was done under the guard happens before what the zero allows.
    GuardLeave = Release,
    /// The end of a counted reference, as a snapshot is one to a root; pairs with `SharedGone`.
    SharedDrop = Release,
    /// Writer: whether a superseded root is unused; and the thread that drops the last reference; pairs with `SharedDrop`.
    SharedGone = Acquire,
    /// Writer: the tick of garbage that waits for guards; pairs with `GuardedLoad`.
    GuardedStore = Release,
    /// Who defers: that tick; pairs with `GuardedStore`: what replaced the garbage was published before, so that guards
    /// which begin later do not see it. No model needs it, for crossbeam seals what is deferred behind a fence of its own;
    /// we do not rely on that.
    GuardedLoad = Acquire,
    /// The deferred closure: every guard of that tick is gone; pairs with `EpochRead`. No model needs it, for
    /// crossbeam runs closures behind a fence of its own; we do not rely on that.
    EpochRaise = Release,
    /// Writer: how far the guards are; pairs with `EpochRaise`.
    EpochRead = Acquire,
}

/// The ordering to use at `site`.
#[cfg(not(trapline_loom))]
#[inline(always)]
pub(crate) const fn ordering(site: Site) -> Ordering {
    site.shipped()
}

/// The ordering to use at `site`, weakened when the environment says so.
#[cfg(trapline_loom)]
pub(crate) fn ordering(site: Site) -> Ordering {
    match weakened() {
        Some((weak, how)) if weak == site => how.unwrap_or(Ordering::Relaxed),
        _ => site.shipped(),
    }
}

/// Whether the read-modify-write at `site` is to be replaced by a plain load or store (`Site=plain`).
#[cfg(not(trapline_loom))]
#[inline(always)]
pub(crate) const fn plain(_site: Site) -> bool {
    false
}

/// Whether the read-modify-write at `site` is to be replaced by a plain load or store (`Site=plain`).
#[cfg(trapline_loom)]
pub(crate) fn plain(site: Site) -> bool {
    weakened() == Some((site, None))
}

/// The fence at `site`.
#[cfg(not(trapline_loom))]
#[inline(always)]
pub(crate) fn fence(site: Site) {
    core::sync::atomic::fence(ordering(site));
}

/// The fence at `site`, weakened or left out when the environment says so.
#[cfg(trapline_loom)]
pub(crate) fn fence(site: Site) {
    match ordering(site) {
        Ordering::Relaxed => {}
        ordering => loom::sync::atomic::fence(ordering),
    }
}

/// Between two accesses of one thread that are both SeqCst, and so in the order in which they stand in the one total
/// order. Nothing is to be done about that.
#[cfg(not(trapline_loom))]
#[inline(always)]
pub(crate) const fn in_one_order(_first: Site, _second: Site) {}

/// Between two accesses of one thread that are both SeqCst. loom takes them for AcqRel and knows nothing of the one total
/// order but by fences: so there is one here, unless one of the accesses is weakened to less than SeqCst.
#[cfg(trapline_loom)]
pub(crate) fn in_one_order(first: Site, second: Site) {
    if [first, second].map(ordering) == [Ordering::SeqCst; 2] {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(trapline_loom)]
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
            "SeqCst" => Some(Ordering::SeqCst),
            "plain" => None,
            _ => panic!("TRAPLINE_WEAKEN: unknown ordering {how}"),
        };
        Some((*site, how))
    })
}
