//! The crate's private epoch: crossbeam's, with a collector of our own.
//!
//! Private, because a stranger's parked pin on the default collector would hold up our garbage, and because only our
//! own closures ever run here: they raise a number, and neither lock nor free what anybody still sees.

use core::sync::atomic::{AtomicPtr, Ordering};
use crossbeam_epoch::{Collector, LocalHandle};

pub(crate) use crossbeam_epoch::Guard;

static COLLECTOR: AtomicPtr<Collector> = AtomicPtr::new(core::ptr::null_mut());

thread_local! {
    static HANDLE: LocalHandle = collector().register();
}

/// Made by the first to ask, never freed. A compare-exchange rather than a `OnceLock`, which a `fork` in the middle
/// of another thread's first call would leave locked.
fn collector() -> &'static Collector {
    // Acquire pairs with the AcqRel below: the collector is initialised.
    let mut known = COLLECTOR.load(Ordering::Acquire);
    if known.is_null() {
        let mine = Box::into_raw(Box::new(Collector::new()));
        known = match COLLECTOR.compare_exchange(known, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mine,
            Err(other) => {
                // SAFETY: made above and shared with nobody.
                drop(unsafe { Box::from_raw(mine) });
                other
            }
        };
    }
    // SAFETY: not null, made by a Box, and never freed.
    unsafe { &*known }
}

/// Pins the calling thread. The first pin of a thread allocates (and aborts when there is no memory).
pub(crate) fn pin() -> Guard {
    // A thread whose locals are gone (a destructor of another thread-local) registers for this once.
    HANDLE.try_with(LocalHandle::pin).unwrap_or_else(|_| collector().register().pin())
}
