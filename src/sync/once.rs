//! Initialisation by the first to come.

use super::{AtomicPtr, Ordering};
use core::ptr;

/// What `slot` points to, which `make` makes if it is null. It is not null again. Several may make one at once: that of
/// the first stays, and the others' are given to `discard`.
///
/// A compare-exchange rather than a `OnceLock`, which a `fork` in the middle of another thread's first call would leave
/// locked in the child.
#[inline]
pub(crate) fn set_once<V, E>(
    slot: &AtomicPtr<V>,
    make: impl FnOnce() -> Result<*mut V, E>,
    discard: impl FnOnce(*mut V),
) -> Result<*mut V, E> {
    // Acquire pairs with the exchange in `set`: what it points to is initialised.
    let known = slot.load(Ordering::Acquire);
    if known.is_null() { set(slot, make, discard) } else { Ok(known) }
}

/// Apart, what is made included: callers inline the load alone.
#[cold]
fn set<V, E>(
    slot: &AtomicPtr<V>,
    make: impl FnOnce() -> Result<*mut V, E>,
    discard: impl FnOnce(*mut V),
) -> Result<*mut V, E> {
    let mine = make()?;
    // Release pairs with the load in `set_once`, Acquire with the Release of the thread that was first.
    match slot.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(mine),
        Err(first) => {
            discard(mine);
            Ok(first)
        }
    }
}
