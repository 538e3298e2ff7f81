//! The gate: how a handler holds off the freeing of what it reads, without a lock, a thread-local or a registration.
//!
//! # Protocol
//!
//! A stripe has, for each phase, a *claim*, 0 or 1, for one reader at a time, and a *count* for those who find it
//! taken.
//!
//! ```text
//! reader   s = stripes[hash of the stack's address], at phase.load(Relaxed) & 1
//!          if s.claim.compare_exchange(0, 1, Acquire) succeeds                  GateClaim
//!              root = current.load(Acquire) ... reads what hangs off root ...   RootLoad
//!              s.claim.store(0, Release)            the same claim              GateYield
//!          else
//!              s.count.fetch_add(1, Acquire)                                    GateEnter
//!              root = current.load(Acquire) ... reads what hangs off root ...   RootLoad
//!              s.count.fetch_sub(1, Release)        the same count              GateLeave
//!
//! writer   current.store(new, Release)          tick t: the old root is retired RootPublish
//!          for each side s of each stripe:                                      GateScan
//!              if compare_exchange(0, 0, AcqRel, Relaxed) succeeds on its claim and its count { quiet[s] = now }
//!          what was retired at t may be freed once quiet[s] >= t for every s
//! ```
//!
//! # Why it is enough
//!
//! Reader and writer both read-modify-write the same word, so their operations are totally ordered in its modification
//! order, whatever the machine reorders elsewhere. Take the writer's successful exchange of a zero, after its store at
//! t, and any reader of that word:
//!
//! - The reader comes in later. On a claim there are only exchanges of zeros between, and the comings and goings of
//!   other readers, each of which synchronised with the one before it; on a count everything is a read-modify-write,
//!   and continues the exchange's release sequence. Either way the entry (Acquire) happens after the exchange (Release
//!   part), the store happens before the reader's load of the root, and the reader finds the new root.
//! - The reader came in earlier. Since the word was zero, it had left. The exchange (Acquire part) reads what the last
//!   one to leave wrote, or an exchange that did: all that the reader did happens before what the writer does next,
//!   which may be a free. For a count, whose earlier leavers did not synchronise with later ones, their release
//!   sequences carry it: everything on a count is a read-modify-write.
//!
//! Leaving a claim takes a plain store, because while it is 1 nobody else changes it: readers and writers only exchange
//! zeros. That is what the claim is for: a read-modify-write less for the reader who is alone on its stripe. (Readers
//! could swap a 1 in, which is some percent faster; but loom does not know that nothing comes between the two halves of
//! a swap that changes nothing and reports a claim that stays taken, so that what ships could not be modelled.)
//!
//! The words need not be zero together: each has to be *seen* at zero once after the store. A plain load in the scan
//! would not do (it is not in the modification order), and on x86-64 no stress test could tell: the models can.
//!
//! # Liveness
//!
//! A stripe that always has some reader inside would never be seen at zero. So each has two of everything, and the
//! phase says which newcomers take. The writer flips it when the idle words are done with the oldest garbage and an
//! active one is not (`registry::quiet`). The phase is a hint: a reader that uses an old one is only slower to leave.
//!
//! # Cost
//!
//! One uncontended read-modify-write and a store. Which stripe is taken is a hash of where the stack is: different for
//! different threads and for alternate stacks; two that collide share a cache line, not an answer, and the second of
//! them pays two more read-modify-writes, as does a handler that interrupts a lookup.

use super::node::Node;
use crate::sync::{self, AtomicPtr, AtomicUsize, Site, ordering};
use core::sync::atomic::Ordering;

/// How many stripes there are.
pub(crate) const STRIPES: usize = if cfg!(loom) { 2 } else { 64 };

/// A stripe fills two lines, so that the adjacent-line prefetcher does not tie neighbours together.
#[repr(align(128))]
struct Stripe {
    claims: [AtomicUsize; 2],
    counts: [AtomicUsize; 2],
}

impl Stripe {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Stripe {
            claims: [AtomicUsize::new(0), AtomicUsize::new(0)],
            counts: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Stripe {
            claims: [AtomicUsize::new(0), AtomicUsize::new(0)],
            counts: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }
}

/// The published root, and who is reading it.
#[repr(C, align(128))]
pub(crate) struct Gate {
    // The two words that every lookup reads share a line; writers change them, readers never do.
    current: AtomicPtr<Node>,
    phase: AtomicUsize,
    stripes: [Stripe; STRIPES],
}

/// A reader inside the gate; leaves when dropped, unwinding included.
pub(crate) struct Inside<'g> {
    /// The claim that is this reader's, or the count that it is in.
    word: &'g AtomicUsize,
    claimed: bool,
}

impl Gate {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            current: AtomicPtr::new(core::ptr::null_mut()),
            phase: AtomicUsize::new(0),
            stripes: [const { Stripe::new() }; STRIPES],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            current: AtomicPtr::new(core::ptr::null_mut()),
            phase: AtomicUsize::new(0),
            stripes: core::array::from_fn(|_| Stripe::new()),
        }
    }

    /// Enters the gate: what [`Gate::current`] returns from here on stays alive until the result is dropped.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Inside<'_> {
        let phase = self.phase.load(ordering(Site::PhaseLoad)) & 1;
        let seed = sync::stripe_seed();
        let hash = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 6);
        // A model picks its stripes itself.
        let stripe = if cfg!(loom) { seed } else { hash as usize };
        let stripe = &self.stripes[stripe & (STRIPES - 1)];
        let claim = &stripe.claims[phase];
        #[cfg(loom)]
        if sync::plain(Site::GateClaim) {
            let free = claim.load(Ordering::Acquire) == 0;
            if free {
                claim.store(1, Ordering::Release);
                return Inside { word: claim, claimed: true };
            }
        }
        // Relaxed when it is taken: nothing was entered yet.
        if claim.compare_exchange(0, 1, ordering(Site::GateClaim), Ordering::Relaxed).is_ok() {
            return Inside { word: claim, claimed: true };
        }
        Self::enter_count(&stripe.counts[phase])
    }

    #[cold]
    fn enter_count(count: &AtomicUsize) -> Inside<'_> {
        #[cfg(loom)]
        if sync::plain(Site::GateEnter) {
            count.store(count.load(Ordering::Acquire) + 1, Ordering::Release);
            return Inside { word: count, claimed: false };
        }
        count.fetch_add(1, ordering(Site::GateEnter));
        Inside { word: count, claimed: false }
    }

    /// The root that was published last; null when nothing is registered.
    #[inline(always)]
    pub(crate) fn current(&self) -> *const Node {
        self.current.load(ordering(Site::RootLoad))
    }

    /// Publishes `root`.
    pub(crate) fn publish(&self, root: *mut Node) {
        // A store is enough: writers take turns under their lock, and the claims and counts do the rest.
        self.current.store(root, ordering(Site::RootPublish));
    }

    /// The writer's look at one side of a stripe: whether nobody is inside. Never waits.
    pub(crate) fn is_idle(&self, stripe: usize, phase: usize) -> bool {
        let stripe = &self.stripes[stripe];
        // Both are looked at after the publication; that is all that is needed of each.
        Self::is_zero(&stripe.claims[phase]) && Self::is_zero(&stripe.counts[phase])
    }

    fn is_zero(word: &AtomicUsize) -> bool {
        #[cfg(loom)]
        if sync::plain(Site::GateScan) {
            return word.load(Ordering::Acquire) == 0;
        }
        word.compare_exchange(0, 0, ordering(Site::GateScan), Ordering::Relaxed).is_ok()
    }

    /// Sends newcomers to the words of `phase`.
    pub(crate) fn set_phase(&self, phase: usize) {
        self.phase.store(phase, ordering(Site::PhaseStore));
    }
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.claimed {
            return self.word.store(0, ordering(Site::GateYield));
        }
        #[cfg(loom)]
        if sync::plain(Site::GateLeave) {
            self.word.store(self.word.load(Ordering::Acquire) - 1, Ordering::Release);
            return;
        }
        self.word.fetch_sub(1, ordering(Site::GateLeave));
    }
}
