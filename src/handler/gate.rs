//! The gate: how a handler holds off the freeing of what it reads, without a lock, a thread-local or a registration.
//!
//! # Protocol
//!
//! ```text
//! reader   c = stripes[hash of the stack's address][phase.load(Relaxed) & 1]
//!          c.fetch_add(1, Acquire)                                              GateEnter
//!          root = current.load(Acquire)                                         RootLoad
//!          ... reads what hangs off root ...
//!          c.fetch_sub(1, Release)              the same c, never derived anew  GateLeave
//!
//! writer   current.store(new, Release)          tick t: the old root is retired RootPublish
//!          for each counter c:                                                  GateScan
//!              if c.compare_exchange(0, 0, AcqRel, Relaxed) succeeds { quiet[c] = now }
//!          what was retired at t may be freed once quiet[c] >= t for every c
//! ```
//!
//! # Why it is enough
//!
//! Reader and writer both read-modify-write the same counter, so their operations are totally ordered in its
//! modification order, whatever the machine reorders elsewhere. Take the writer's successful exchange of a zero, after
//! its store at t, and any reader of that counter:
//!
//! - The reader's add comes later. It reads from the exchange, or from a read-modify-write after it, which continues
//!   its release sequence: the add (Acquire) synchronises with the exchange (Release part), the store happens before
//!   the reader's load of the root, and the reader finds the new root.
//! - The reader's add comes earlier. Since the counter was zero, its subtraction came earlier too, and the exchange
//!   (Acquire part) reads from it or from a later link of its release sequence: all that the reader did happens before
//!   what the writer does next, which may be a free.
//!
//! The counters need not be zero together: each has to be *seen* at zero once after the store. A plain load in the scan
//! would not do (it is not in the modification order), and on x86-64 no stress test could tell: the models can.
//!
//! # Liveness
//!
//! A stripe that always has some reader inside would never be seen at zero. So each has two counters, and the phase
//! says which one newcomers take. The writer flips it when the idle counters are done with the oldest garbage and an
//! active one is not (`registry::quiet`). The phase is a hint: a reader that uses an old one is only slower to leave.
//!
//! # Cost
//!
//! Two uncontended read-modify-writes. Which stripe is taken is a hash of where the stack is: different for different
//! threads and for alternate stacks; two that collide share a cache line, not an answer.

use super::node::Node;
use crate::sync::{self, AtomicPtr, AtomicUsize, Site, ordering};
use core::sync::atomic::Ordering;

/// How many pairs of counters there are.
pub(crate) const STRIPES: usize = if cfg!(loom) { 2 } else { 64 };

/// A stripe fills two lines, so that the adjacent-line prefetcher does not tie neighbours together.
#[repr(align(128))]
struct Stripe {
    inside: [AtomicUsize; 2],
}

/// The published root, and the counters of who is reading it.
#[repr(C, align(128))]
pub(crate) struct Gate {
    // The two words that every lookup reads share a line; writers change them, readers never do.
    current: AtomicPtr<Node>,
    phase: AtomicUsize,
    stripes: [Stripe; STRIPES],
}

/// A reader inside the gate; leaves when dropped, unwinding included.
pub(crate) struct Inside<'g> {
    counter: &'g AtomicUsize,
}

impl Gate {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            current: AtomicPtr::new(core::ptr::null_mut()),
            phase: AtomicUsize::new(0),
            stripes: [const { Stripe { inside: [AtomicUsize::new(0), AtomicUsize::new(0)] } }; STRIPES],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            current: AtomicPtr::new(core::ptr::null_mut()),
            phase: AtomicUsize::new(0),
            stripes: core::array::from_fn(|_| Stripe { inside: [AtomicUsize::new(0), AtomicUsize::new(0)] }),
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
        let counter = &self.stripes[stripe & (STRIPES - 1)].inside[phase];
        #[cfg(loom)]
        if sync::plain(Site::GateEnter) {
            counter.store(counter.load(Ordering::Acquire) + 1, Ordering::Release);
            return Inside { counter };
        }
        counter.fetch_add(1, ordering(Site::GateEnter));
        Inside { counter }
    }

    /// The root that was published last; null when nothing is registered.
    #[inline(always)]
    pub(crate) fn current(&self) -> *const Node {
        self.current.load(ordering(Site::RootLoad))
    }

    /// Publishes `root`.
    pub(crate) fn publish(&self, root: *mut Node) {
        // A store is enough: writers take turns under their lock, and the counters do the rest.
        self.current.store(root, ordering(Site::RootPublish));
    }

    /// The writer's look at one counter: whether nobody is inside. Never waits.
    pub(crate) fn is_idle(&self, stripe: usize, phase: usize) -> bool {
        let counter = &self.stripes[stripe].inside[phase];
        #[cfg(loom)]
        if sync::plain(Site::GateScan) {
            return counter.load(Ordering::Acquire) == 0;
        }
        counter.compare_exchange(0, 0, ordering(Site::GateScan), Ordering::Relaxed).is_ok()
    }

    /// Sends newcomers to the counters of `phase`.
    pub(crate) fn set_phase(&self, phase: usize) {
        self.phase.store(phase, ordering(Site::PhaseStore));
    }
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(loom)]
        if sync::plain(Site::GateLeave) {
            self.counter.store(self.counter.load(Ordering::Acquire) - 1, Ordering::Release);
            return;
        }
        self.counter.fetch_sub(1, ordering(Site::GateLeave));
    }
}
