//! The crate's private epoch: crossbeam's, with a collector of our own.
//!
//! Private, because a stranger's parked pin on the default collector would hold up our garbage, and because only our
//! own closures ever run here: they raise a number, and neither lock nor free what a reader still sees.

use super::{AtomicPtr, set_once};
use crossbeam_epoch::{Collector, LocalHandle};

pub(crate) use crossbeam_epoch::Guard;

thread_local! {
    static HANDLE: LocalHandle = collector().register();
}

/// Made by the first to ask, never freed.
fn collector() -> &'static Collector {
    static COLLECTOR: AtomicPtr<Collector> = AtomicPtr::new(core::ptr::null_mut());
    let make = || Ok::<_, core::convert::Infallible>(Box::into_raw(Box::new(Collector::new())));
    // SAFETY: from `Box::into_raw` in `make`, and shared with nobody.
    let Ok(collector) = set_once(&COLLECTOR, make, |lost| drop(unsafe { Box::from_raw(lost) }));
    // SAFETY: from `Box::into_raw` in `make`, and never freed.
    unsafe { &*collector }
}

/// Pins the calling thread. The first pin of a thread allocates (and aborts when there is no memory).
pub(crate) fn pin() -> Guard {
    // A thread whose locals are gone (a destructor of another thread-local) registers for this once.
    HANDLE.try_with(LocalHandle::pin).unwrap_or_else(|_| collector().register().pin())
}
