//! An allocator that counts, and has nothing when a test says so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

struct Watched;

thread_local! {
    /// How many allocations are left to this thread before one is refused; negative: any number.
    static LEFT: Cell<isize> = const { Cell::new(-1) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static FREES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, which now and then has nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        if left == 0 {
            return ptr::null_mut();
        }
        LEFT.set(if left > 0 { left - 1 } else { left });
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREES.set(FREES.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Runs `f` with so many allocations allowed. `f` must not unwind.
#[cfg(unix)]
pub fn with_allocations<R>(allocations: usize, f: impl FnOnce() -> R) -> R {
    LEFT.set(allocations as isize);
    let result = f();
    LEFT.set(-1);
    result
}

/// How many allocations and frees `f` makes.
pub fn counted<R>(f: impl FnOnce() -> R) -> (R, usize, usize) {
    let before = (ALLOCATIONS.get(), FREES.get());
    let result = f();
    (result, ALLOCATIONS.get() - before.0, FREES.get() - before.1)
}
