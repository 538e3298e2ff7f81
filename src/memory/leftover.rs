//! Pages that the operating system refused to take back.
//!
//! Unmapping can fail: where the kernel has merged pages with another owner's next to them, it has to split a mapping,
//! and it does not do that at its limit of mappings. What is refused is made inaccessible, as far as that takes no
//! splitting, its memory is given back, and the range is remembered, to be unmapped together with, or after, later ones.

use std::ffi::c_void;
use std::ptr;

use crate::allocate::{self, OutOfMemory};
use crate::sync::unmodelled::AtomicUsize;
use crate::sync::{Lock, Ordering};

/// A place in the list, allocated before there is anything to put there: unmapping needs no memory.
pub(crate) struct Slot(Box<Range>);

struct Range {
    start: usize,
    len: usize,
    next: Option<Box<Range>>,
}

struct Ranges {
    /// To be tried next.
    waiting: Option<Box<Range>>,
    /// Already tried in this round.
    tried: Option<Box<Range>>,
}

static REFUSED: Lock<Ranges> = Lock::new(Ranges { waiting: None, tried: None });

/// Counts of what is in [`REFUSED`]. They order nothing else: Relaxed.
static RANGES: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// How many refused ranges an unmapping tries again.
const FEW: usize = 4;

impl Slot {
    pub(crate) fn new() -> Result<Slot, OutOfMemory> {
        allocate::boxed(Range { start: 0, len: 0, next: None }).map(Slot)
    }
}

/// Unmaps whole pages, now or as soon as the kernel lets us.
///
/// # Safety
///
/// The caller's own pages, which nobody uses any more.
pub(crate) unsafe fn unmap(start: *mut u8, len: usize, Slot(mut range): Slot) {
    // SAFETY: our caller's own pages, which nobody uses.
    if unsafe { libc::munmap(start.cast(), len) } == 0 {
        // What is next to these pages may have become possible.
        return retry(FEW);
    }
    // SAFETY: our caller's own pages, which nobody uses.
    unsafe { make_inaccessible(start.cast(), len) };
    RANGES.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(len, Ordering::Relaxed);
    // In the child of a fork that left the list locked, the range is only counted.
    if let Ok(mut list) = REFUSED.lock() {
        (range.start, range.len) = (start.expose_provenance(), len);
        range.next = list.tried.take();
        list.tried = Some(range);
    }
}

/// Tries again what was refused, each range once, and no more than `most`.
pub(crate) fn retry(most: usize) {
    let known = RANGES.load(Ordering::Relaxed);
    if known == 0 {
        return;
    }
    let Ok(mut list) = REFUSED.lock() else { return };
    for _ in 0..known.min(most) {
        if list.waiting.is_none() {
            list.waiting = list.tried.take();
        }
        let Some(mut range) = list.waiting.take() else { return };
        list.waiting = range.next.take();
        // SAFETY: still mapped since we could not unmap it, and nobody else knows of it.
        if unsafe { libc::munmap(ptr::with_exposed_provenance_mut(range.start), range.len) } == 0 {
            RANGES.fetch_sub(1, Ordering::Relaxed);
            BYTES.fetch_sub(range.len, Ordering::Relaxed);
        } else {
            range.next = list.tried.take();
            list.tried = Some(range);
        }
    }
}

/// The number of ranges that were refused and are still there, and of their bytes.
pub(crate) fn refused() -> (usize, usize) {
    (RANGES.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

/// # Safety
///
/// As for [`unmap`].
unsafe fn make_inaccessible(start: *mut c_void, len: usize) {
    // SAFETY: our caller's own pages, which nobody uses: nobody misses the access, or the bytes.
    unsafe {
        // Splits a mapping as unmapping does, but that may have been refused for another reason.
        let forbidden = libc::mprotect(start, len, libc::PROT_NONE) == 0;
        if !forbidden && cfg!(target_os = "linux") {
            // Since Linux 6.13: entries of the page table that no access gets past, without splitting a mapping. On
            // older kernels the pages read as zeros from here on.
            const MADV_GUARD_INSTALL: libc::c_int = 102;
            libc::madvise(start, len, MADV_GUARD_INSTALL);
        }
        libc::madvise(start, len, libc::MADV_DONTNEED);
    }
}
