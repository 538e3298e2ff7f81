//! A store's own copy of a text, which it may patch.
//!
//! The copy is never writable and executable at once. Its bytes are read under a `&` of the owner's and patched under a
//! `&mut`; other code knows only its addresses.

use std::io;
use std::ops::Range;

use super::icache;
use super::pages::{Pages, Rights, Slot};

/// Bytes at an offset of a text.
pub(crate) type Overwrite<'p> = (usize, &'p [u8]);

/// A private, executable copy of a text.
pub(crate) struct PrivateText {
    pages: Pages,
    len: usize,
}

impl PrivateText {
    /// Copies `text`, which is not empty, into pages of its own, and makes them executable.
    pub(crate) fn copy(text: &[u8], slot: Slot) -> io::Result<Self> {
        let mut pages = Pages::anonymous(text.len(), slot)?;
        // SAFETY: just made for as many bytes, and writable.
        unsafe { pages.bytes_mut(text.len()) }.copy_from_slice(text);
        let copy = PrivateText { pages, len: text.len() };
        // SAFETY: nobody else knows of the copy yet.
        unsafe { copy.make_executable(0..copy.len)? };
        Ok(copy)
    }

    pub(crate) fn range(&self) -> Range<usize> {
        let start = self.pages.as_ptr().expose_provenance();
        // The mapping has at least as many bytes.
        start..start.wrapping_add(self.len)
    }

    /// The text as it is now. Its pages are readable at all times, whatever else they are.
    ///
    /// # Safety
    ///
    /// [`write`](Self::write) is not called while the result is in use.
    pub(crate) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has at least `len` bytes, lives as long as `self`, and is readable; nobody writes to it,
        // by our caller's promise.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr(), self.len) }
    }

    /// Writes `patches`, which lie inside `span`, which lies inside the text.
    ///
    /// The pages of `span` are not executable meanwhile. If the right to write is refused, nothing has changed. If the
    /// right to execute cannot be given back, the code faults when it is entered, until a later call on the same span
    /// succeeds.
    ///
    /// # Safety
    ///
    /// The caller is the only one who reads or writes the bytes, and nobody executes them meanwhile.
    pub(crate) unsafe fn write<'p>(
        &self,
        span: Range<usize>,
        patches: impl Iterator<Item = Overwrite<'p>>,
    ) -> Result<(), WriteError> {
        if let Err(error) = self.protect(span.clone(), Rights::Write) {
            // Pages of several mappings get their rights one mapping after the other: the first ones may have them.
            // SAFETY: nobody else reads, writes or executes the bytes, says our caller.
            return Err(match unsafe { self.make_executable(span) } {
                Ok(()) => WriteError::Unchanged(error),
                Err(_) => WriteError::NotExecutable(error),
            });
        }
        for (offset, bytes) in patches {
            debug_assert!(span.start <= offset && offset + bytes.len() <= span.end);
            if self.check(offset, bytes.len()).is_some() && span.start <= offset && offset + bytes.len() <= span.end {
                // SAFETY: inside the span, whose pages are writable now; only we write, says our caller.
                unsafe { self.pages.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            }
        }
        // SAFETY: nobody else reads or writes the bytes, says our caller.
        unsafe { self.make_executable(span) }.map_err(WriteError::NotExecutable)
    }

    /// # Safety
    ///
    /// Nobody else reads or writes the bytes.
    unsafe fn make_executable(&self, span: Range<usize>) -> io::Result<()> {
        self.protect(span.clone(), Rights::Execute)?;
        // SAFETY: inside the mapping, readable, and not written while the slice lives, says our caller.
        icache::make_coherent(unsafe { std::slice::from_raw_parts(self.pages.as_ptr().add(span.start), span.len()) })
    }

    fn check(&self, offset: usize, len: usize) -> Option<()> {
        offset.checked_add(len).filter(|&end| end <= self.len).map(|_| ())
    }

    /// Changes the rights to the pages that `span` lies on.
    fn protect(&self, span: Range<usize>, rights: Rights) -> io::Result<()> {
        // SAFETY: the rights to read stay, and there is no `&mut [u8]` of the bytes that would need more.
        unsafe { self.pages.protect(span, rights) }
    }
}

/// Why a text was not patched.
pub(crate) enum WriteError {
    /// Nothing was written.
    Unchanged(io::Error),
    /// The bytes may not be executed. They were written unless it was the right to write that was refused.
    NotExecutable(io::Error),
}
