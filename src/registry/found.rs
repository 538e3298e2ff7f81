//! What a lookup finds.

use crate::handler::node::Entry;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;

/// Names one registration, for ever: no other registration of this process gets its id, in no registry, not even at the
/// same address.
///
/// (Two copies of this crate in one process, of different versions say, do not know of each other's ids.)
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use trapline::CodeRegistry;
///
/// static CODE: CodeRegistry<&str> = CodeRegistry::new();
/// static LAST_SEEN: AtomicU64 = AtomicU64::new(0); // no id
///
/// let registration = CODE.register(0x1000..0x2000, Arc::new("fib"))?;
/// CODE.with(0x1234, |found| LAST_SEEN.store(found.id().as_u64(), Ordering::Relaxed));
/// assert_eq!(LAST_SEEN.load(Ordering::Relaxed), registration.id().unwrap().as_u64());
/// # Ok::<(), trapline::RegisterError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeId {
    // The start leads to the place. The number tells the registration from all others.
    start: usize,
    number: u64,
}

impl CodeId {
    pub(super) const fn new(start: usize, number: u64) -> Self {
        Self { start, number }
    }

    pub(super) const fn parts(self) -> (usize, u64) {
        (self.start, self.number)
    }

    /// A number that no other registration of this process has, and that is not 0. They ascend in the order of the
    /// registrations of one registry, and in the order of addresses within one call of
    /// [`register_all`](super::CodeRegistry::register_all).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.number
    }
}

/// `0x1000#7`: registration 7, which starts at 0x1000.
impl fmt::Display for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}#{}", self.start, self.number)
    }
}

impl fmt::Debug for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodeId({self})")
    }
}

/// A registered range that holds a program counter.
///
/// Everything here is by reference or copied: nothing that a handler could drop. All methods are async-signal-safe
/// and take constant time.
pub struct Found<'a, T> {
    payload: &'a T,
    pc: usize,
    entry: Entry,
}

impl<'a, T> Found<'a, T> {
    /// # Safety
    /// The entry holds `pc`, its payload is a `T`, and it stays alive for `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(pc: usize, entry: Entry) -> Self {
        // SAFETY: the caller's.
        Self { payload: unsafe { &*entry.code.cast() }, pc, entry }
    }

    /// The payload, to keep. Not for handlers: it may be the last `Arc`, and dropping that frees.
    pub(super) fn to_arc(self) -> Arc<T> {
        let payload: *const T = self.entry.code.cast();
        // SAFETY: from `Arc::into_raw`, and alive as long as `self`.
        unsafe {
            Arc::increment_strong_count(payload);
            Arc::from_raw(payload)
        }
    }

    /// What was registered with the range.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a T {
        self.payload
    }

    /// How many bytes the program counter is past the start of the range; less than the range's length.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        self.pc.wrapping_sub(self.entry.start)
    }

    /// The addresses that were registered.
    #[inline]
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.entry.start..self.entry.end
    }

    /// Which registration this is.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CodeId {
        CodeId::new(self.entry.start, self.entry.birth)
    }
}

// SAFETY: a shared reference to the payload, and numbers. `to_arc`, which clones the payload's `Arc`, is used on types
// that are Send and Sync only.
unsafe impl<T: Send + Sync> Send for Found<'_, T> {}
// SAFETY: a shared reference to the payload, and numbers. `to_arc`, which clones the payload's `Arc`, is used on types
// that are Send and Sync only.
unsafe impl<T: Send + Sync> Sync for Found<'_, T> {}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<'_, T> {}

impl<T> fmt::Debug for Found<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range();
        write!(f, "Found({:#x} + {:#x} of {start:#x}..{end:#x}, {:?})", start, self.offset(), self.id())
    }
}
