//! Where an overflow of this thread's stack faults.
//!
//! Threads have inaccessible pages below their stack. C libraries differ, over their versions, in whether the size
//! they report includes these pages, so both readings count as the guard. The wrong one covers ordinary stack, where
//! nothing faults.
//!
//! The main thread's stack has no such pages: the kernel grows it down to `RLIMIT_STACK`, or until it comes within a
//! gap of the next mapping. Which of the two it meets first depends on the limit, so both sides of the lowest address
//! count, as far as the gap reaches. Again, a fault on the inner side is a refusal to grow, and nothing else.

use super::alt_stack::page_size;
use std::{mem, ptr};

/// The kernel's `stack_guard_gap`, in pages, unless the command line says otherwise.
const GAP_PAGES: usize = 256;

const SMALLEST_PAGE: usize = 4096;

/// Addresses, half-open, around the lowest address of the stack; empty if unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackGuard {
    start: usize,
    end: usize,
}

impl StackGuard {
    pub(super) fn contains(self, address: usize) -> bool {
        self.start <= address && address < self.end
    }

    /// From which address on the stack that ends at `end` can be read, if its stack pointer is `sp`; never below `sp`.
    ///
    /// Both readings of where the guard lies have to hold, unless an access just below the lowest address has
    /// faulted (`overflow`): the stack is then all there.
    pub(super) fn readable_from(self, sp: usize, end: usize, overflow: Option<usize>) -> usize {
        // A fiber's stack, of which this guard knows nothing.
        if end <= self.start {
            return sp;
        }
        let lowest = self.start.midpoint(self.end);
        match overflow {
            Some(fault) if fault < lowest && lowest.wrapping_sub(fault) <= SMALLEST_PAGE => sp.max(lowest),
            _ => sp.max(self.end),
        }
    }
}

/// An unknown guard is empty: an overflow then is not ours and gets passed on.
pub(super) fn of_this_thread() -> StackGuard {
    let Some((low, guard)) = lowest_address_and_guard_size() else {
        return StackGuard { start: 0, end: 0 };
    };
    let reach = if is_main() { GAP_PAGES * page_size() } else { guard.next_multiple_of(page_size()) };
    StackGuard { start: low.saturating_sub(reach), end: low.saturating_add(reach) }
}

fn is_main() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() == libc::getpid() }
}

fn lowest_address_and_guard_size() -> Option<(usize, usize)> {
    // SAFETY: all zeroes is a valid value to be overwritten.
    let mut attributes: libc::pthread_attr_t = unsafe { mem::zeroed() };
    // SAFETY: asks for this thread, which exists.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) } != 0 {
        return None;
    }
    let (mut low, mut size, mut guard) = (ptr::null_mut(), 0, 0);
    // SAFETY: `attributes` was initialised above and is destroyed once.
    let answers = unsafe {
        let stack = libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        let guard = libc::pthread_attr_getguardsize(&attributes, &mut guard);
        libc::pthread_attr_destroy(&mut attributes);
        (stack, guard)
    };
    (answers == (0, 0)).then_some((low.addr(), guard))
}

#[cfg(test)]
mod tests {
    use super::StackGuard;

    const GUARD: StackGuard = StackGuard { start: 0x1_f000, end: 0x2_1000 };
    const END: usize = 0x8_0000;

    #[test]
    fn a_stack_is_readable_from_its_pointer_on_but_not_in_the_guard() {
        assert_eq!(GUARD.readable_from(0x2_1008, END, None), 0x2_1008);
        for sp in [0, 0x1_f000, 0x2_0000, 0x2_0ff8] {
            assert_eq!(GUARD.readable_from(sp, END, None), 0x2_1000, "{sp:#x}");
        }
    }

    #[test]
    fn an_overflow_says_where_the_stack_begins() {
        assert_eq!(GUARD.readable_from(0x1_ffe0, END, Some(0x1_fff8)), 0x2_0000);
        assert_eq!(GUARD.readable_from(0x2_0010, END, Some(0x1_fff8)), 0x2_0010);
        assert_eq!(GUARD.readable_from(0x2_0010, END, Some(0x2_0008)), 0x2_1000);
        assert_eq!(GUARD.readable_from(0x1_0000, END, Some(0x1_e000)), 0x2_1000, "a step too far");
    }

    #[test]
    fn the_guard_says_nothing_about_other_stacks() {
        assert_eq!(GUARD.readable_from(0x1_0000, 0x1_8000, None), 0x1_0000);
        assert_eq!(StackGuard { start: 0, end: 0 }.readable_from(0x1_0000, END, None), 0x1_0000);
    }
}
