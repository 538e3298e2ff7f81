//! A counted reference, as `Arc` is one, but for two things: making one reports that there is no memory, where
//! `Arc::new` aborts; and the writer uses one again that nobody else has.

use super::{AtomicUsize, Ordering, Site, ordering};
use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ops::Deref;
use core::ptr::{self, NonNull};

/// An allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory {
    /// How many bytes were asked for.
    pub(crate) bytes: usize,
}

impl NoMemory {
    pub(crate) const fn of(layout: Layout) -> Self {
        Self { bytes: layout.size() }
    }
}

/// What a [`Shared`] refers to.
pub(crate) struct Counted<T> {
    references: AtomicUsize,
    value: T,
}

/// A counted reference to a `T`.
pub(crate) struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: as for `Arc`: references on several threads share the value, and any of them may drop it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as for `Arc`: references on several threads share the value, and any of them may drop it.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    const LAYOUT: Layout = Layout::new::<Counted<T>>();

    /// A reference to what `make` gives, which is not called if there is no memory.
    pub(crate) fn new(make: impl FnOnce() -> T) -> Result<Self, NoMemory> {
        // SAFETY: the layout has a size, if only for the count; all of it is written before it is used. (If `make`
        // panics, memory leaks.)
        unsafe {
            let new = NonNull::new(alloc(Self::LAYOUT).cast::<Counted<T>>());
            let new = new.ok_or(NoMemory::of(Self::LAYOUT))?;
            new.write(Counted { references: AtomicUsize::new(1), value: make() });
            Ok(Self(new))
        }
    }

    /// The value, if nobody else has a reference. All that others did with it happened before.
    #[cfg(feature = "snapshot")]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        if !self.is_unique() {
            return None;
        }
        // SAFETY: unique, and borrowed exclusively.
        Some(unsafe { &mut self.0.as_mut().value })
    }

    /// Whether nobody else has a reference.
    #[cfg(feature = "snapshot")]
    pub(crate) fn is_unique(&self) -> bool {
        // SAFETY: counted references keep the value allocated. Acquire pairs with the Release in `drop`.
        unsafe { self.0.as_ref() }.references.load(ordering(Site::SharedGone)) == 1
    }

    /// The reference as a pointer, to be given back to [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> *mut Counted<T> {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// One more reference to what `raw` refers to. (A pointer, not a reference: the one that is dropped last writes to
    /// and frees all of the allocation, which a pointer made from a `&` may not.)
    ///
    /// # Safety
    /// From [`into_raw`](Self::into_raw), and not given back yet.
    pub(crate) unsafe fn share(raw: *mut Counted<T>) -> Self {
        // SAFETY: the caller's: there is a reference, so the count is allocated. Relaxed for that reason, too. Each
        // reference takes a word somewhere or was leaked; we do not defend against 2^63 leaked ones.
        unsafe { &(*raw).references }.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's: it was not null there.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    /// # Safety
    /// From [`into_raw`](Self::into_raw), and given back once.
    pub(crate) unsafe fn from_raw(raw: *mut Counted<T>) -> Self {
        // SAFETY: the caller's: it was not null there.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: counted references keep the value allocated.
        unsafe { &self.0.as_ref().value }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: this is a reference, which is not given back meanwhile.
        unsafe { Self::share(self.0.as_ptr()) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: counted references keep the value allocated. Release pairs with the Acquire in `is_unique`, and with
        // the one below.
        let references = unsafe { &self.0.as_ref().references };
        if references.fetch_sub(1, ordering(Site::SharedDrop)) == 1 {
            references.load(ordering(Site::SharedGone));
            // Goes after the value, whether that panics or not.
            let _memory = Memory(self.0.cast(), Self::LAYOUT);
            // SAFETY: the last reference.
            unsafe { ptr::drop_in_place(self.0.as_ptr()) };
        }
    }
}

/// Memory of a layout, given back when dropped.
struct Memory(NonNull<u8>, Layout);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `Shared::new` allocated it with this layout, and nothing is in it any more.
        unsafe { dealloc(self.0.as_ptr(), self.1) };
    }
}

// SAFETY: the pointer is the reference; clones and drops count as arc-swap expects of an `Arc`.
#[cfg(all(feature = "snapshot", not(trapline_loom)))]
unsafe impl<T> arc_swap::RefCnt for Shared<T> {
    type Base = Counted<T>;

    fn into_ptr(me: Self) -> *mut Counted<T> {
        me.into_raw()
    }

    fn as_ptr(me: &Self) -> *mut Counted<T> {
        me.0.as_ptr()
    }

    unsafe fn from_ptr(counted: *const Counted<T>) -> Self {
        // SAFETY: the caller's: from `into_ptr`.
        unsafe { Self::from_raw(counted.cast_mut()) }
    }
}
