//! The allocators of this program, Rust's and C's: they notice a handler that allocates, and a reader of freed memory.
//!
//! Both are interposed. C's are the symbols `malloc`, `free` and so on of this executable, which the C library and
//! everything else binds to; Rust's end there too. Whoever calls one of them on a thread that is marked as
//! [inside a handler](forbid_while) ends the process with a verdict.
//!
//! Blocks of 64-byte alignment, which the nodes of the registry and the tests' payloads have, can be given pages of
//! their own ([`quarantine`]). Freed ones become inaccessible, for ever: a read of one is a fault, and a verdict.

use super::page::{Verdict, end};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The `pthread_self` of the thread whose handler looks up; 0 for none. One at a time is enough for every scenario.
static FORBIDDEN: AtomicUsize = AtomicUsize::new(0);

fn me() -> usize {
    // SAFETY: no preconditions; a load from the thread's descriptor, which the kernel sets up with the thread.
    (unsafe { libc::pthread_self() }) as usize
}

/// Runs `f`, in which this thread may neither allocate nor free. Nests.
pub fn forbid_while<R>(f: impl FnOnce() -> R) -> R {
    // Relaxed: the same thread reads it; another one compares it with its own identity, which it never is.
    let before = FORBIDDEN.swap(me(), Ordering::Relaxed);
    let result = f();
    FORBIDDEN.store(before, Ordering::Relaxed);
    result
}

/// Called by every allocation and free.
fn check(bytes: usize) {
    let forbidden = FORBIDDEN.load(Ordering::Relaxed);
    if forbidden != 0 && forbidden == me() {
        end(Verdict::Allocation, [bytes as u64, 0, 0]);
    }
}

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

/// The C library's own, noticed.
mod interposed {
    use super::*;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(bytes: usize) -> *mut c_void {
        check(bytes);
        // SAFETY: the caller's.
        unsafe { __libc_malloc(bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
        check(bytes);
        // SAFETY: the caller's.
        unsafe { __libc_calloc(count, bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
        check(bytes);
        // SAFETY: the caller's.
        unsafe { __libc_realloc(block, bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
        check(bytes);
        // SAFETY: the caller's.
        unsafe { __libc_memalign(align, bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
        check(bytes);
        // SAFETY: the caller's.
        unsafe { __libc_memalign(align, bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
        check(bytes);
        // SAFETY: the caller's.
        unsafe {
            let block = __libc_memalign(align, bytes);
            if block.is_null() {
                return libc::ENOMEM;
            }
            place.write(block);
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(block: *mut c_void) {
        check(0);
        // SAFETY: the caller's.
        unsafe { __libc_free(block) }
    }
}

struct Noticing;

#[global_allocator]
static ALLOCATOR: Noticing = Noticing;

/// Addresses for blocks with pages of their own, used once each.
const RESERVED: usize = 64 << 30;
const PAGE: usize = 4096;
static QUARANTINE: AtomicBool = AtomicBool::new(false);
static START: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// From now on blocks of 64-byte alignment get pages of their own, or no longer.
pub fn quarantine(on: bool) {
    if on && START.load(Ordering::Relaxed) == 0 {
        // SAFETY: a fresh mapping without access.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), RESERVED, libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        START.store(start.expose_provenance(), Ordering::Relaxed);
    }
    QUARANTINE.store(on, Ordering::Relaxed);
}

/// Whether freed blocks may be at this address.
pub fn is_quarantined(address: usize) -> bool {
    let start = START.load(Ordering::Relaxed);
    start != 0 && (start..start + RESERVED).contains(&address)
}

fn pages(layout: Layout) -> usize {
    layout.size().div_ceil(PAGE) * PAGE
}

// SAFETY: the system's allocator, or pages that are used once.
unsafe impl GlobalAlloc for Noticing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        if layout.align() < 64 || layout.align() > PAGE || !QUARANTINE.load(Ordering::Relaxed) {
            // SAFETY: the caller's.
            return unsafe { System.alloc(layout) };
        }
        let offset = NEXT.fetch_add(pages(layout), Ordering::Relaxed);
        assert!(offset + pages(layout) <= RESERVED, "the quarantine is full");
        let block = ptr::with_exposed_provenance_mut::<u8>(START.load(Ordering::Relaxed) + offset);
        // SAFETY: pages of the reservation that nobody had before.
        let done = unsafe { libc::mprotect(block.cast(), pages(layout), libc::PROT_READ | libc::PROT_WRITE) };
        if done == 0 { block } else { ptr::null_mut() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        check(0);
        if !is_quarantined(block.addr()) {
            // SAFETY: the caller's.
            return unsafe { System.dealloc(block, layout) };
        }
        // SAFETY: the caller's: nobody uses these pages any more, and a block has them alone.
        unsafe {
            libc::madvise(block.cast(), pages(layout), libc::MADV_DONTNEED);
            libc::mprotect(block.cast(), pages(layout), libc::PROT_NONE);
        }
    }
}
