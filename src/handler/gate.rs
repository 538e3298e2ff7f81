//! The gate: how a handler holds off the freeing of what it reads, without a lock, a thread-local or a registration.
//!
//! # Protocol
//!
//! Every publication has a number, its *tick*. A reader announces the tick whose tree it is about to read in a *claim*,
//! a word that is its own while it is inside. A stripe has a few claims, and a *count* for readers that find all of them
//! taken, or cannot say what they see.
//!
//! ```text
//! reader   e = tick.load(Acquire)                                               TickLoad
//!          claim.compare_exchange(0, e, SeqCst)    a claim of its stripe        GateClaim
//!          root = current.load(SeqCst)                                          RootLoad
//!          if tick.load(Relaxed) != e: announce again (below)                   TickCheck
//!          ... reads what hangs off root ...
//!          claim.store(0, Release)                                              GateYield
//!
//! writer   tick.store(t, Release)                                               TickStore
//!          current.store(new, Release)             the old tree is retired      RootPublish
//!          some time later, at tick now:
//!          fence(SeqCst)                                                        ScanFence
//!          for every claim: claim.load(Acquire)                                 GateScan
//! ```
//!
//! A *guard*, of an ordinary thread, does not say what it sees, and may stay for long: it counts itself on its stripe's
//! count of guards, and loads roots as often as it likes.
//!
//! When the scan finds a claim at 0, no reader in it sees what was retired up to now. When it finds e, the reader sees at
//! most what was alive at e or just before: nodes born by e, and replaced by e or later. So a reader that stays, or whose
//! thread does not run, keeps alive what it can see, and nothing newer.
//!
//! # Why it is enough
//!
//! *A reader that the scan did not see* wrote its claim after the value that the scan read there. Its write and its load
//! of the root are SeqCst, in that order; the scan's load follows a SeqCst fence, and the publications precede that fence.
//! If the reader loaded a root older than the last one, the load would precede the fence in the single total order, and
//! the fence the reader's write: a cycle. So it finds the new root, however the machine reorders.
//!
//! *A reader that left* stored 0 with Release. The scan reads that 0, or what the next reader of the claim wrote, which
//! had read the 0 with Acquire before it wrote with Release. Either way all that the reader did happens before what the
//! writer does next, which may be a free. On a count every access is a read-modify-write, so the release sequences of all
//! readers that left continue to the last value.
//!
//! *What a reader sees* is the tree of e or the one before. It read e after the tree before e was published (TickStore is
//! Release), so it finds no older one. Having found the tree of t, it reads a tick of t or more (RootPublish is Release);
//! that tick was still e, so t is at most e. If the tick had moved on, the reader announces again, with a store that is
//! SeqCst like its first write, for the same reason; if it has moved on once more, the reader announces that it may see
//! anything, and loads the root for the last time. That is a constant number of steps, whatever writers do.
//!
//! The single total order is what SeqCst is for. Acquire and Release would not do, nor would a read-modify-write on the
//! writer's side of the claim: a reader leaves with a plain store, which ends its release sequence. On x86-64 SeqCst costs
//! nothing beyond the one locked instruction that the claim takes anyway. loom treats SeqCst accesses as weaker ones, but
//! knows fences: see [`sync::in_one_order`].
//!
//! *A guard that the scan did not see* finds the new root, for the reason of the first paragraph: its addition and each of
//! its loads of the root are SeqCst. When a guard that the scan did see has gone is decided elsewhere: see
//! `registry::guard_epoch`.
//!
//! # Liveness
//!
//! A claim keeps alive more than its tick's trees only while its reader cannot say what it sees. A count says nothing at
//! all, and if some reader is always inside, the count is never seen at zero. So there are two of them, and the phase says
//! which one newcomers take. The writer flips it when the idle counts are done with the oldest garbage and
//! an active one is not (`registry::readers`). The phase is a hint: a reader that uses an old one is only slower to leave.
//!
//! # Cost
//!
//! One uncontended read-modify-write, a store, and two loads of a line that is read anyway. The stripe is chosen by a hash
//! of the stack's address, which differs between threads and for alternate stacks. Readers that collide share a cache line
//! and nothing else. A reader that finds all claims taken, such as a handler that interrupts a lookup that interrupted a
//! lookup, pays one more read-modify-write.

use super::node::Node;
use crate::sync::{self, AtomicPtr, AtomicU64, AtomicUsize, FIRST_TICK, MODELLED, Ordering, Site, const_fn, ordering};

/// How many stripes there are.
pub(crate) const STRIPES: usize = if MODELLED { 2 } else { 64 };
/// How many claims a stripe has.
pub(crate) const CLAIMS: usize = if MODELLED { 1 } else { 2 };

/// What a claim holds while nobody has it.
const FREE: u64 = 0;
/// Set in a claim whose reader may see any tree. The other bits are the tick at which it came, so that a reader is not
/// mistaken for the one before it.
const ANY: u64 = 1 << 63;
const _: () = assert!(FIRST_TICK != FREE);

/// A stripe fills two lines, so that the adjacent-line prefetcher does not tie neighbours together.
#[repr(align(128))]
struct Stripe {
    claims: [AtomicU64; CLAIMS],
    /// Two counts of 32 bits.
    counts: AtomicU64,
    guards: AtomicUsize,
}

/// The published root, and who is reading it.
#[repr(C, align(128))]
pub(crate) struct Gate {
    // What every lookup reads shares a line; writers change it, readers never do.
    current: AtomicPtr<Node>,
    tick: AtomicU64,
    phase: AtomicUsize,
    stripes: [Stripe; STRIPES],
}

/// A reader inside the gate; leaves when dropped, unwinding included.
pub(crate) struct Inside<'g>(Place<'g>);

/// A guard that is counted until this is dropped.
#[cfg(feature = "guard")]
pub(crate) struct Counted<'g>(&'g AtomicUsize);

/// What the writer finds in a stripe.
pub(crate) struct Occupants {
    pub(crate) claims: [Claim; CLAIMS],
    pub(crate) counts: [u32; 2],
    pub(crate) guards: usize,
}

/// What a reader gives back when it leaves.
enum Place<'g> {
    Claim(&'g AtomicU64),
    /// The counts of a stripe, and which of the two.
    Count(&'g AtomicU64, usize),
}

/// One in the count of a phase.
const fn one(phase: usize) -> u64 {
    // No machine has the stacks for 2^32 nested or concurrent lookups.
    1 << (u32::BITS * phase as u32)
}

/// What the writer finds in a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim(u64);

impl Claim {
    pub(crate) const FREE: Self = Self(FREE);

    pub(crate) const fn is_free(self) -> bool {
        self.0 == FREE
    }

    /// The tick that its reader announced: it sees what was alive then or just before. `None` if it may see anything, or
    /// is free.
    pub(crate) const fn tick(self) -> Option<u64> {
        if self.0 == FREE || self.0 & ANY != 0 { None } else { Some(self.0) }
    }
}

impl Stripe {
    const_fn! {
        fn new() -> Self {
            let claims = sync::array![AtomicU64::new(FREE); CLAIMS];
            Stripe { claims, counts: AtomicU64::new(0), guards: AtomicUsize::new(0) }
        }
    }
}

impl Gate {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self {
                current: AtomicPtr::new(core::ptr::null_mut()),
                tick: AtomicU64::new(FIRST_TICK),
                phase: AtomicUsize::new(0),
                stripes: sync::array![Stripe::new(); STRIPES],
            }
        }
    }

    /// Enters the gate. What hangs off the returned root, which may be null, stays alive until `Inside` is dropped.
    #[inline(always)]
    pub(crate) fn enter(&self) -> (Inside<'_>, *const Node) {
        let tick = self.tick.load(ordering(Site::TickLoad));
        let stripe = self.stripe();
        let Some(claim) = stripe.claim(tick) else {
            let inside = self.enter_count(stripe);
            return (inside, self.current());
        };
        sync::in_one_order(Site::GateClaim, Site::RootLoad);
        let root = self.current();
        // Relaxed: the load of the root has synchronised with its publication.
        if self.tick.load(ordering(Site::TickCheck)) != tick {
            return self.announce_again(claim);
        }
        (Inside(Place::Claim(claim)), root)
    }

    /// Counts a guard: what hangs off the roots that it loads stays alive until the result is dropped.
    #[cfg(feature = "guard")]
    pub(crate) fn count_guard(&self) -> Counted<'_> {
        let guards = &self.stripe().guards;
        if sync::plain(Site::GuardEnter) {
            guards.store(guards.load(Ordering::Acquire) + 1, Ordering::Release);
        } else {
            guards.fetch_add(1, ordering(Site::GuardEnter));
        }
        sync::in_one_order(Site::GuardEnter, Site::RootLoad);
        Counted(guards)
    }

    /// For models: enters as a reader that may see anything. What is retired from here on stays alive until the result is
    /// dropped.
    #[cfg(trapline_loom)]
    pub(crate) fn enter_blindly(&self) -> Inside<'_> {
        let stripe = self.stripe();
        let tick = self.tick.load(ordering(Site::TickLoad));
        let Some(claim) = stripe.claim(ANY | tick) else { return self.enter_count(stripe) };
        sync::in_one_order(Site::GateClaim, Site::RootLoad);
        Inside(Place::Claim(claim))
    }

    #[inline(always)]
    fn stripe(&self) -> &Stripe {
        let seed = sync::stripe_seed();
        let hash = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 6);
        // A model picks its stripes itself.
        let stripe = if MODELLED { seed } else { hash as usize };
        &self.stripes[stripe & (STRIPES - 1)]
    }

    /// For a reader whose tick went by before it had the root.
    #[cold]
    fn announce_again<'g>(&'g self, claim: &'g AtomicU64) -> (Inside<'g>, *const Node) {
        let inside = Inside(Place::Claim(claim));
        let tick = self.tick.load(ordering(Site::TickLoad));
        // A store will do: nobody else writes to a claim that is taken.
        claim.store(tick, ordering(Site::GateRaise));
        sync::in_one_order(Site::GateRaise, Site::RootLoad);
        let root = self.current();
        if self.tick.load(ordering(Site::TickCheck)) == tick {
            return (inside, root);
        }
        claim.store(ANY | tick, ordering(Site::GateRaise));
        sync::in_one_order(Site::GateRaise, Site::RootLoad);
        (inside, self.current())
    }

    #[cold]
    fn enter_count<'g>(&'g self, stripe: &'g Stripe) -> Inside<'g> {
        let phase = self.phase.load(ordering(Site::PhaseLoad)) & 1;
        if sync::plain(Site::GateEnter) {
            stripe.counts.store(stripe.counts.load(Ordering::Acquire) + one(phase), Ordering::Release);
        } else {
            stripe.counts.fetch_add(one(phase), ordering(Site::GateEnter));
        }
        sync::in_one_order(Site::GateEnter, Site::RootLoad);
        Inside(Place::Count(&stripe.counts, phase))
    }

    /// The root that was published last; null when nothing is registered.
    #[inline(always)]
    pub(crate) fn current(&self) -> *const Node {
        self.current.load(ordering(Site::RootLoad))
    }

    /// Publishes `root` as the tree of `tick`.
    pub(crate) fn publish(&self, root: *mut Node, tick: u64) {
        // Stores are enough: writers are serialised by their lock. The tick comes first: see the module's argument.
        self.tick.store(tick, ordering(Site::TickStore));
        self.current.store(root, ordering(Site::RootPublish));
    }

    /// Called by the writer between its publications and its look at claims and counts.
    pub(crate) fn begin_scan() {
        sync::fence(Site::ScanFence);
    }

    /// The writer's look at all stripes: a bit for each that has a reader. Never waits.
    #[inline]
    pub(crate) fn occupied(&self) -> u64 {
        const GROUP: usize = if STRIPES < 8 { STRIPES } else { 8 };
        const { assert!(STRIPES <= u64::BITS as usize && STRIPES.is_multiple_of(GROUP)) };
        let mut occupied = 0;
        for (i, group) in self.stripes.chunks_exact(GROUP).enumerate() {
            let words: [u64; GROUP] = core::array::from_fn(|j| group[j].all_words());
            // Usually there is no reader: one test for eight stripes, since every write comes here.
            if words.iter().fold(0, |all, word| all | word) != 0 {
                for (j, word) in words.into_iter().enumerate() {
                    occupied |= u64::from(word != 0) << (i * GROUP + j);
                }
            }
        }
        occupied
    }

    /// The writer's look at a stripe. Never waits.
    pub(crate) fn occupants(&self, stripe: usize) -> Occupants {
        let Stripe { claims, counts, guards } = &self.stripes[stripe];
        let counts = counts.load(ordering(Site::GateScan));
        Occupants {
            claims: claims.each_ref().map(|claim| Claim(claim.load(ordering(Site::GateScan)))),
            counts: [counts as u32, (counts >> u32::BITS) as u32],
            guards: guards.load(ordering(Site::GateScan)),
        }
    }

    /// Sends newcomers to the counts of `phase`.
    pub(crate) fn set_phase(&self, phase: usize) {
        self.phase.store(phase, ordering(Site::PhaseStore));
    }
}

impl Stripe {
    /// Nonzero if a reader is in the stripe.
    #[inline(always)]
    fn all_words(&self) -> u64 {
        let claims = self.claims.iter().fold(0, |all, claim| all | claim.load(ordering(Site::GateScan)));
        let counts = self.counts.load(ordering(Site::GateScan));
        claims | counts | self.guards.load(ordering(Site::GateScan)) as u64
    }

    /// Takes a free claim and writes `word` to it.
    #[inline(always)]
    fn claim(&self, word: u64) -> Option<&AtomicU64> {
        self.claims.iter().find(|claim| {
            if sync::plain(Site::GateClaim) {
                let free = claim.load(Ordering::Acquire) == FREE;
                if free {
                    claim.store(word, Ordering::Release);
                }
                return free;
            }
            // Relaxed on failure: nothing was entered yet.
            claim.compare_exchange(FREE, word, ordering(Site::GateClaim), Ordering::Relaxed).is_ok()
        })
    }
}

impl Occupants {
    /// Whether the stripe has no reader.
    pub(crate) fn is_nobody(&self) -> bool {
        self.claims.iter().all(|claim| claim.is_free()) && self.counts == [0; 2] && self.guards == 0
    }
}

#[cfg(feature = "guard")]
impl Drop for Counted<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if sync::plain(Site::GuardLeave) {
            self.0.store(self.0.load(Ordering::Acquire) - 1, Ordering::Release);
        } else {
            self.0.fetch_sub(1, ordering(Site::GuardLeave));
        }
    }
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.0 {
            Place::Claim(claim) => claim.store(FREE, ordering(Site::GateYield)),
            Place::Count(counts, phase) if sync::plain(Site::GateLeave) => {
                counts.store(counts.load(Ordering::Acquire) - one(phase), Ordering::Release);
            }
            Place::Count(counts, phase) => _ = counts.fetch_sub(one(phase), ordering(Site::GateLeave)),
        }
    }
}
