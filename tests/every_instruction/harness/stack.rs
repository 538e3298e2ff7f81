//! The alternate stacks of the stepped threads, painted to see how much of them handlers use.

use super::page::{Verdict, end, page};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

const BYTES: usize = 256 << 10;
const GUARD: usize = 4096;
/// What unused stack is filled with.
pub const PAINT: u64 = 0xa5a5_5a5a_c3c3_3c3c;

/// What the harness and the lookups it makes may use of a handler's stack, below the kernel's frame. Debug builds keep
/// every temporary in memory.
pub const BOUND: usize = if cfg!(debug_assertions) { 8 << 10 } else { 2 << 10 };

/// The end of the stack in use, and the lowest frame that the kernel pushed on it.
static END: AtomicUsize = AtomicUsize::new(0);
static LOWEST_FRAME: AtomicUsize = AtomicUsize::new(0);

/// A painted alternate stack for this thread until it is dropped. One at a time in a process.
pub struct Painted {
    bottom: *mut u64,
    before: libc::stack_t,
}

impl Painted {
    pub fn install() -> Self {
        Self::install_lower(0)
    }

    /// So many bytes lower than usual: which stripe of a gate is taken depends on where the stack is.
    pub fn install_lower(bytes: usize) -> Self {
        // SAFETY: a fresh mapping, of which the first page becomes a guard and the rest is painted.
        unsafe {
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(ptr::null_mut(), GUARD + BYTES, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(start, GUARD, libc::PROT_NONE), 0);
            let bottom = start.byte_add(GUARD).cast::<u64>();
            std::slice::from_raw_parts_mut(bottom, BYTES / 8).fill(PAINT);
            let mut before: libc::stack_t = std::mem::zeroed();
            let ours = libc::stack_t { ss_sp: bottom.cast(), ss_flags: 0, ss_size: BYTES - bytes };
            assert_eq!(libc::sigaltstack(&ours, &mut before), 0);
            LOWEST_FRAME.store(bottom.addr() + BYTES, Ordering::Relaxed);
            END.store(bottom.addr() + BYTES, Ordering::Relaxed);
            Self { bottom, before }
        }
    }

    /// How far below the lowest of the kernel's frames anything was written.
    fn used(&self) -> usize {
        // SAFETY: our mapping; volatile, since handlers wrote there.
        let is_painted = |i: &usize| unsafe { self.bottom.add(*i).read_volatile() } == PAINT;
        let unused = (0..BYTES / 8).take_while(is_painted).count() * 8;
        LOWEST_FRAME.load(Ordering::Relaxed).saturating_sub(self.bottom.addr() + unused)
    }
}

impl Drop for Painted {
    fn drop(&mut self) {
        check(self.used());
        END.store(0, Ordering::Relaxed);
        // SAFETY: no handler of this thread is running, and the stack before ours is still there.
        unsafe {
            assert_eq!(libc::sigaltstack(&self.before, ptr::null_mut()), 0);
            libc::munmap(self.bottom.cast::<libc::c_void>().byte_sub(GUARD), GUARD + BYTES);
        }
    }
}

/// Notes that a handler used so many bytes, which may not be too many.
pub fn check(used: usize) {
    page().note_stack(used);
    if used > BOUND {
        end(Verdict::Stack, [used as u64, BOUND as u64, 0]);
    }
}

/// To be called by handlers with an address in what the kernel pushed for them.
pub fn note_frame(frame: usize) {
    let end = END.load(Ordering::Relaxed);
    if (end.wrapping_sub(BYTES)..end).contains(&frame) {
        LOWEST_FRAME.fetch_min(frame, Ordering::Relaxed);
    }
}
