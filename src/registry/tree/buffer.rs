//! A short list on the stack: an edit must not allocate.

use core::mem::MaybeUninit;

/// At most `N` copies of something plain.
#[derive(Clone, Copy)]
pub(crate) struct Buffer<X: Copy, const N: usize> {
    slots: [MaybeUninit<X>; N],
    len: usize,
}

impl<X: Copy, const N: usize> Buffer<X, N> {
    pub(crate) fn new() -> Self {
        Self { slots: [const { MaybeUninit::uninit() }; N], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[X] {
        // SAFETY: the slots below `len` were written.
        unsafe { core::slice::from_raw_parts(self.slots.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [X] {
        // SAFETY: the slots below `len` were written.
        unsafe { core::slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast(), self.len) }
    }

    pub(crate) fn pop(&mut self) -> Option<X> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the slots below the former `len` were written.
        Some(unsafe { self.slots[self.len].assume_init() })
    }

    #[inline]
    pub(crate) fn push(&mut self, item: X) {
        self.slots[self.len].write(item);
        self.len += 1;
    }

    pub(crate) fn extend(&mut self, items: &[X]) {
        for item in items {
            self.push(*item);
        }
    }

    pub(crate) fn insert(&mut self, at: usize, item: X) {
        self.replace(at, 0, &[item]);
    }

    /// Puts `with` where `count` items from `at` on were.
    pub(crate) fn replace(&mut self, at: usize, count: usize, with: &[X]) {
        let behind = at + count..self.len;
        self.len = self.len - count + with.len();
        self.slots.copy_within(behind, at + with.len());
        for (slot, item) in self.slots[at..].iter_mut().zip(with) {
            slot.write(*item);
        }
    }
}
