//! Where a stack is, and where its overflow faults.
//!
//! A thread's own stack is one of two kinds, told apart by where it lies, not by the thread's number: in a fork's child
//! the only thread may well be one that ran on a stack of the C library's.
//!
//! *The kernel's*, which the process began on. It has no guard: it grows down, up to `RLIMIT_STACK` or until it comes
//! within a gap of the next mapping, and the limit may change at any time. So nothing that was asked earlier says where
//! it overflows. But a fault at or a little below the stack pointer is an overflow wherever it happens: the kernel
//! refused to grow the stack, or there would not have been a fault. The limit that was asked for is used for frames so
//! large that the fault is not near the stack pointer.
//!
//! The kernel tells where this stack begins (`AT_RANDOM` points right above the first frame). The C libraries tell less:
//! one reads `/proc`, for which it needs a file descriptor, the other says how much is mapped so far.
//!
//! *The C library's*, of any other thread, with inaccessible pages below. Older versions report an address that includes
//! these pages, so we look whether it can be read.
//!
//! On any other stack, a fiber's, we know only what the embedder tells.

use crate::memory;
use std::ops::Range;
use std::{fmt, io, mem, ptr};

/// The kernel's `stack_guard_gap`, in pages, unless the command line says otherwise.
const GAP_PAGES: usize = 256;

/// The kernel chooses no address for a mapping within this many bytes below the stack that it grows.
const RESERVED: usize = 128 << 20;

/// More than any program uses, and less than what lies between that stack and the heap.
const LARGEST: usize = 1 << 40;

/// Arguments and environment, at most; they lie above the first frame.
const ARGUMENTS: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Accessible from `low` on, and not below: from `floor` to `low` is the guard.
    Fixed,
    /// The kernel's; with the size of a page.
    Grows(usize),
    /// Nothing is known of it, except that other stacks lie below `floor`.
    Unknown,
}

/// A stack that guest code may run on, by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stack {
    kind: Kind,
    /// The lowest address that the stack pointer may have, after an overflow, too.
    floor: usize,
    /// The lowest address that can be accessed, or could when the kernel was asked.
    low: usize,
    /// The end, exclusive.
    high: usize,
}

impl Stack {
    /// An empty stack, which contains nothing.
    pub(super) const NONE: Stack = Stack { kind: Kind::Fixed, floor: 0, low: 0, high: 0 };

    /// One of an embedder's, with `guard` inaccessible bytes below.
    pub(super) const fn given(stack: &Range<usize>, guard: usize) -> Stack {
        Stack { kind: Kind::Fixed, floor: stack.start.saturating_sub(guard), low: stack.start, high: stack.end }
    }

    /// The part between two addresses of a stack whose bounds nobody knows.
    pub(super) const fn unknown(floor: usize, high: usize) -> Stack {
        Stack { kind: Kind::Unknown, floor, low: floor, high }
    }

    /// Whether a stack pointer of this value is on this stack.
    #[inline]
    pub(super) fn contains(self, sp: usize) -> bool {
        self.floor <= sp && sp < self.high
    }

    pub(super) fn is_known(self) -> bool {
        self.kind != Kind::Unknown
    }

    /// Whether a fault at this address, in code with that stack pointer, is an overflow of this stack.
    pub(super) fn overflows(self, fault: usize, sp: usize) -> bool {
        match self.kind {
            Kind::Fixed => self.floor <= fault && fault < self.low,
            Kind::Grows(page) => {
                let gap = page.wrapping_mul(GAP_PAGES);
                // Frames up to a page are not probed, so the fault may be in one.
                let near_pointer = sp.saturating_sub(gap) <= fault && fault < sp.saturating_add(page);
                // On the inner side, too: the gap of the next mapping may have come first.
                near_pointer || fault.abs_diff(self.low) <= gap
            }
            Kind::Unknown => false,
        }
    }

    /// From which address on the stack can be read, if its pointer is `sp`; never below `sp`. `overflow` is the address
    /// that faulted, if it [overflowed](Self::overflows).
    pub(super) fn readable_from(self, sp: usize, overflow: Option<usize>) -> usize {
        match (self.kind, overflow) {
            (Kind::Grows(page), Some(fault)) => {
                let next_page = fault.saturating_add(page) & page.wrapping_sub(1).wrapping_neg();
                // Up to the limit it would still grow, so that there is no hole between it and what is mapped. Much
                // further down, the limit is another one by now.
                let below = self.low.wrapping_sub(fault);
                let to_limit = fault < self.low && below <= page.wrapping_mul(GAP_PAGES);
                sp.max(next_page).max(if to_limit { self.low } else { 0 })
            }
            // Where the guest code executes, the stack is there, or grows when it is read.
            (Kind::Grows(_), None) => sp,
            _ => sp.max(self.low),
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} to {:#x}", self.low, self.high)
    }
}

/// The stack that this thread was started with; it need not be the one that this is called on.
pub(super) fn of_this_thread() -> io::Result<Stack> {
    let first_frame = auxiliary(libc::AT_RANDOM);
    match reported() {
        Ok((low, high, _))
            if first_frame.is_some_and(|first| low <= first && first < high.saturating_add(ARGUMENTS)) =>
        {
            Ok(kernels(first_frame.unwrap_or(high).max(high), Some(low)))
        }
        Ok((low, high, guard)) => Ok(librarys(low..high, guard)),
        Err(error) => {
            let here = 0_u8;
            let here = (&raw const here).addr();
            // Only for the kernel's stack is there anything to be read that may be missing. But memory may, too.
            match first_frame {
                Some(first) if (first.saturating_sub(RESERVED)..first).contains(&here) => Ok(kernels(first, None)),
                _ => Err(error),
            }
        }
    }
}

/// The stack that the kernel grows, which ends at `high`.
fn kernels(high: usize, reported_low: Option<usize>) -> Stack {
    let page = page_size();
    // The name of the program is the last thing below the end of the mapping.
    let end = auxiliary(libc::AT_EXECFN).map_or(high, |name| {
        // SAFETY: the kernel put a string there, which stays.
        let name = unsafe { std::ffi::CStr::from_ptr(ptr::with_exposed_provenance(name)) };
        name.as_ptr().addr() + name.count_bytes() + 1
    });
    let end = end.max(high).next_multiple_of(page);
    let limit = limit();
    let reported = if cfg!(target_env = "musl") { None } else { reported_low.map(|low| high.saturating_sub(low)) };
    let size = reported.or(limit).unwrap_or(0).clamp(RESERVED, LARGEST);
    let floor = high.saturating_sub(size).saturating_sub(GAP_PAGES * page);
    let low = limit.map_or(floor, |limit| end.saturating_sub(limit) & (page - 1).wrapping_neg());
    Stack { kind: Kind::Grows(page), floor: floor.min(low), low, high }
}

/// A stack that the C library made, or was given.
fn librarys(stack: Range<usize>, guard: usize) -> Stack {
    let guard = guard.next_multiple_of(page_size());
    let start = if guard == 0 || is_readable(stack.start) { stack.start } else { stack.start + guard };
    Stack::given(&(start..stack.end), guard)
}

/// The soft limit; `None` if there is no limit.
fn limit() -> Option<usize> {
    // SAFETY: all zeroes is a valid value to be overwritten.
    let mut limit: libc::rlimit = unsafe { mem::zeroed() };
    // SAFETY: a valid structure.
    let answered = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) } == 0;
    // Where the machine's addresses end, so does any limit.
    (answered && limit.rlim_cur < 1 << 47).then_some(limit.rlim_cur as usize)
}

fn auxiliary(kind: libc::c_ulong) -> Option<usize> {
    // SAFETY: no preconditions; 0 if the kernel does not tell.
    let value = unsafe { libc::getauxval(kind) } as usize;
    (value != 0).then_some(value)
}

/// What the C library says of this thread: the lowest address, the end, the size of the guard.
fn reported() -> io::Result<(usize, usize, usize)> {
    // SAFETY: all zeroes is a valid value to be overwritten.
    let mut attributes: libc::pthread_attr_t = unsafe { mem::zeroed() };
    // SAFETY: asks for this thread, which exists.
    match unsafe { libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let (mut low, mut size, mut guard) = (ptr::null_mut(), 0, 0);
    // SAFETY: `attributes` was initialised above and is destroyed once. The two queries cannot fail.
    unsafe {
        libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        libc::pthread_attr_getguardsize(&attributes, &mut guard);
        libc::pthread_attr_destroy(&mut attributes);
    }
    Ok((low.addr(), low.addr().saturating_add(size), guard))
}

/// Whether eight bytes can be read at this address.
fn is_readable(address: usize) -> bool {
    const NO_SUCH_REQUEST: libc::c_int = -1;
    let kernels_set_size = size_of::<u64>();
    // SAFETY: the kernel reads the set, or fails to, and then refuses the request: the mask stays.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_REQUEST, address, ptr::null_mut::<u64>(), kernels_set_size);
    }
    io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

pub(super) fn page_size() -> usize {
    memory::page_size().unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Stack, is_readable};

    const FIXED: Stack = Stack { kind: Kind::Fixed, floor: 0x1_f000, low: 0x2_0000, high: 0x8_0000 };
    const LIMIT: usize = 0x100_0000;
    const GAP: usize = 256 * 4096;
    const GROWS: Stack = Stack { kind: Kind::Grows(4096), floor: 0x40_0000, low: LIMIT, high: 0x800_0000 };

    #[test]
    fn a_stack_is_readable_from_its_pointer_on_but_not_in_the_guard() {
        assert_eq!(FIXED.readable_from(0x2_0008, None), 0x2_0008);
        for sp in [0, 0x1_f000, 0x1_fff8] {
            for overflow in [None, Some(0x1_fff0)] {
                assert_eq!(FIXED.readable_from(sp, overflow), 0x2_0000, "{sp:#x}");
            }
        }
    }

    #[test]
    fn an_overflow_of_a_fixed_stack_faults_in_its_guard_only() {
        for (fault, expected) in [(0x1_efff, false), (0x1_f000, true), (0x1_ffff, true), (0x2_0000, false)] {
            assert_eq!(FIXED.overflows(fault, 0x2_0010), expected, "{fault:#x}");
        }
        assert!(!Stack::given(&(0x2_0000..0x8_0000), 0).overflows(0x1_ffff, 0x2_0000));
        assert!(!Stack::unknown(0x2_0000, 0x8_0000).overflows(0x1_ffff, 0x2_0000));
    }

    #[test]
    fn a_stack_that_grows_overflows_near_its_pointer_or_its_limit() {
        for sp in [LIMIT, LIMIT + 8 * GAP, LIMIT - 8 * GAP] {
            for fault in [sp - 8, sp, sp + 4095, sp - GAP, LIMIT - GAP, LIMIT + GAP] {
                assert!(GROWS.overflows(fault, sp), "{fault:#x} at {sp:#x}");
            }
            for fault in [0, 8, LIMIT - 10 * GAP, LIMIT + 10 * GAP, usize::MAX] {
                assert!(!GROWS.overflows(fault, sp), "{fault:#x} at {sp:#x}");
            }
        }
    }

    #[test]
    fn a_stack_that_grows_is_readable_above_what_it_did_not_grow_to() {
        // Stopped by the limit, with the fault right below or a large frame further down.
        for fault in [LIMIT - 8, LIMIT - 0x3008] {
            assert_eq!(GROWS.readable_from(fault + 8, Some(fault)), LIMIT);
        }
        // By another limit since: higher up, or far below.
        for low in [LIMIT + 0x40_0000, LIMIT - 0x40_0000] {
            assert_eq!(GROWS.readable_from(low - 16, Some(low - 24)), low);
        }
        assert_eq!(GROWS.readable_from(LIMIT - 0x40_0000, None), LIMIT - 0x40_0000);
    }

    #[test]
    fn what_can_be_read_is_told_from_what_cannot() {
        let word = 0_u64;
        assert!(is_readable((&raw const word).addr()));
        assert!(!is_readable(8));
    }
}
