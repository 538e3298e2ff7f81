//! What a normal build is made of.

pub(crate) use super::lock::{Forked, Lock, LockGuard};
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

/// The published root: what owned snapshots are taken from.
///
/// Empty when it goes, so that there is nothing to drop; and dropping it might be a thread's first use of arc-swap, which
/// allocates.
#[cfg(feature = "snapshot")]
pub(crate) struct RootCell<R: arc_swap::RefCnt>(core::mem::ManuallyDrop<arc_swap::ArcSwapAny<Option<R>>>);

#[cfg(feature = "snapshot")]
impl<R: arc_swap::RefCnt> RootCell<R> {
    pub(crate) fn empty() -> Self {
        Self(core::mem::ManuallyDrop::new(arc_swap::ArcSwapAny::new(None)))
    }

    pub(crate) fn swap(&self, new: Option<R>) -> Option<R> {
        self.0.swap(new)
    }

    pub(crate) fn load(&self) -> Option<R> {
        self.0.load_full()
    }
}

/// Has arc-swap make its record of this thread now, if it has none, so that a swap takes no memory.
///
/// arc-swap aborts without memory for the record. So a block of its size is allocated and freed first: it aborts only if
/// another thread takes the last such block in between.
#[cfg(feature = "snapshot")]
pub(crate) fn prepare_to_swap() -> Result<(), super::NoMemory> {
    use core::alloc::Layout;
    /// Three cache lines, and two in older versions.
    const RECORDS: [Layout; 2] = [Layout::new::<[CacheLine; 3]>(), Layout::new::<[CacheLine; 2]>()];
    #[repr(align(64))]
    struct CacheLine {
        _bytes: [u8; 64],
    }
    static NOTHING: arc_swap::ArcSwapAny<Option<alloc::sync::Arc<()>>> = arc_swap::ArcSwapOption::const_empty();
    std::thread_local!(static PREPARED: core::cell::Cell<bool> = const { core::cell::Cell::new(false) });
    if PREPARED.get() {
        return Ok(());
    }
    for record in RECORDS {
        // SAFETY: the layout has a size.
        let block = unsafe { alloc::alloc::alloc(record) };
        // Unless the compiler has to believe that the block is looked at, it leaves both calls out.
        let block = core::hint::black_box(block);
        if block.is_null() {
            return Err(super::NoMemory::of(record));
        }
        // SAFETY: allocated above, with this layout.
        unsafe { alloc::alloc::dealloc(block, record) };
    }
    drop(NOTHING.load());
    PREPARED.set(true);
    Ok(())
}

/// Nothing in a normal build; under loom, a check that a node is not read after it was freed.
pub(crate) struct Liveness;

impl Liveness {
    pub(crate) const fn new() -> Self {
        Self
    }

    #[inline(always)]
    pub(crate) fn read(&self) {}

    #[inline(always)]
    pub(crate) fn end(&self) {}
}

/// `memory`, which nobody uses any more and which may be used again; in models none of it.
#[inline(always)]
pub(crate) fn quarantine<T>(memory: T) -> Option<T> {
    Some(memory)
}

/// Whether writes free what they can: in models, not always.
pub(crate) const fn is_eager() -> bool {
    true
}

/// The first of `count` numbers above [`FIRST_TICK`](super::FIRST_TICK) that this process never used before: ticks and
/// ids, of all registries.
pub(crate) fn new_ticks(count: u64) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(super::FIRST_TICK + 1);
    // Relaxed: only that numbers differ matters, and that they ascend for those who take turns under a lock.
    // Sixty-four bits do not run out.
    NEXT.fetch_add(count, super::Ordering::Relaxed)
}

/// Lets others go on, for longer from time to time. For `round` 0, 1, and so on of waiting for them.
pub(crate) fn pause(round: u32) {
    #[cfg(feature = "std")]
    match round {
        ..8 => std::thread::yield_now(),
        _ => std::thread::sleep(core::time::Duration::from_micros(10 << (round - 8).min(7))),
    }
    #[cfg(not(feature = "std"))]
    (0..1 << round.min(16)).for_each(|_: u32| core::hint::spin_loop());
}

/// Any number that tends to differ between threads and costs nothing to have: here, where the stack is.
#[inline(always)]
pub(crate) fn stripe_seed() -> usize {
    let here = 0_u8;
    (&raw const here).addr() >> 12
}
