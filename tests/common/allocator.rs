//! An allocator that counts, and has nothing left when a test says so. Everything is per thread.
//!
//! Include it with `#[path]`: a test binary has one allocator, and most need none.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

struct Watched;

thread_local! {
    /// How many allocations are left before all others are refused; negative: any number.
    static LEFT: Cell<isize> = const { Cell::new(-1) };
    /// The size of the block that was freed last, and is still there for whoever wants one of its size next.
    static AT_HAND: Cell<usize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static FREES: Cell<usize> = const { Cell::new(0) };
    static REFUSED: Cell<usize> = const { Cell::new(0) };
    /// Bytes allocated less bytes freed.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// Of the largest allocation that was asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, which now and then has nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        let left = LEFT.get();
        if AT_HAND.replace(0) != layout.size() {
            if left == 0 {
                REFUSED.set(REFUSED.get() + 1);
                return ptr::null_mut();
            }
            LEFT.set(if left > 0 { left - 1 } else { left });
        }
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        AT_HAND.set(layout.size());
        FREES.set(FREES.get() + 1);
        BYTES.set(BYTES.get() - layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Runs `f`, whose first `allocations` allocations succeed, and no other but one of a block that was just freed. `f` must not unwind.
pub fn with_allocations<R>(allocations: usize, f: impl FnOnce() -> R) -> R {
    AT_HAND.set(0);
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

/// The largest single allocation that `f` asks for, in bytes.
pub fn largest_of<R>(f: impl FnOnce() -> R) -> (R, usize) {
    LARGEST.set(0);
    (f(), LARGEST.get())
}

/// How many allocations this thread was refused so far.
pub fn refused() -> usize {
    REFUSED.get()
}

/// Bytes that this thread allocated and did not free.
pub fn bytes_held() -> isize {
    BYTES.get()
}

/// Calls `operation` with one allocation allowed, two, three and so on, until it was refused none, and checks what each
/// refusal leads to: an error that `is_refusal`, and not a byte kept. Returns how many there were.
///
/// The number is right only if `operation` does not go on without what it was refused: then, use [`with_allocations`].
#[track_caller]
pub fn every_allocation_fails<T, E: std::fmt::Debug>(
    operation: impl Fn() -> Result<T, E>,
    is_refusal: impl Fn(&E) -> bool,
) -> usize {
    for allowed in 0.. {
        let before = (bytes_held(), refused());
        let result = with_allocations(allowed, &operation);
        let any_refused = refused() > before.1;
        match result {
            Ok(_) if any_refused => panic!("allocation {allowed} was refused, and nobody noticed"),
            Ok(_) => return allowed,
            Err(error) => {
                assert!(any_refused && is_refusal(&error), "allocation {allowed}: {error:?}");
            }
        }
        assert_eq!(bytes_held(), before.0, "allocation {allowed} was refused, and memory leaked");
    }
    unreachable!("some number of allocations is enough")
}
