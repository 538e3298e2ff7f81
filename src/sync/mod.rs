//! The only room that knows about loom: what ships is what is modelled.
//!
//! Everything else in the crate takes its atomics, its root cell, its writer lock and its epoch from here. A normal
//! build gets `core`'s atomics, [`arc_swap`], a fork-aware lock and a private [`crossbeam_epoch`] collector. The
//! package `loom-tests` compiles the same files with `--cfg trapline_loom`, and gets loom's atomics and lock, a model of
//! the root cell (arc-swap is not loom-aware), and crossbeam's own loom build.

mod shared;
mod site;

#[cfg(not(trapline_loom))]
pub(crate) mod epoch;
#[cfg(not(trapline_loom))]
mod lock;
#[cfg(trapline_loom)]
pub(crate) mod model;

pub(crate) use shared::{Counted, NoMemory, Shared};
pub(crate) use site::{Site, fence, in_one_order, ordering, plain};

#[cfg(not(trapline_loom))]
mod shipped {
    pub(crate) use super::lock::{Forked, Lock, LockGuard};
    use core::mem::ManuallyDrop;
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

    /// The published root: what owned snapshots are taken from.
    ///
    /// Empty when it goes, so that there is nothing to drop; and dropping it might be a thread's first use of arc-swap,
    /// which allocates.
    pub(crate) struct RootCell<R: arc_swap::RefCnt>(ManuallyDrop<arc_swap::ArcSwapAny<Option<R>>>);

    impl<R: arc_swap::RefCnt> RootCell<R> {
        pub(crate) fn empty() -> Self {
            Self(ManuallyDrop::new(arc_swap::ArcSwapAny::new(None)))
        }

        pub(crate) fn swap(&self, new: Option<R>) -> Option<R> {
            self.0.swap(new)
        }

        pub(crate) fn load(&self) -> Option<R> {
            self.0.load_full()
        }
    }

    /// Nothing in a normal build; under loom, the witness that a node is not read after it was freed.
    pub(crate) struct Witness;

    impl Witness {
        pub(crate) const fn new() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn read(&self) {}

        #[inline(always)]
        pub(crate) fn free(&self) {}
    }

    /// The first of `count` numbers above [`FIRST_TICK`](crate::handler::gate::FIRST_TICK) that this process never
    /// used before: ticks and ids, of all registries.
    pub(crate) fn new_ticks(count: u64) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(crate::handler::gate::FIRST_TICK + 1);
        // Relaxed: only that numbers differ matters, and that they ascend for those who take turns under a lock.
        // Sixty-four bits do not run out.
        NEXT.fetch_add(count, core::sync::atomic::Ordering::Relaxed)
    }

    /// Lets others go on, for longer from time to time. For `round` 0, 1, and so on of waiting for them.
    pub(crate) fn pause(round: u32) {
        match round {
            ..8 => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(10 << (round - 8).min(7))),
        }
    }

    /// Any number that tends to differ between threads and costs nothing to have: here, where the stack is.
    #[inline(always)]
    pub(crate) fn stripe_seed() -> usize {
        let here = 0_u8;
        (&raw const here).addr() >> 12
    }
}

#[cfg(not(trapline_loom))]
pub(crate) use shipped::*;

#[cfg(trapline_loom)]
pub(crate) use model::*;
