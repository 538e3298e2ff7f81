//! Pages that hold a text: anonymous, or private ones of a file.
//!
//! The kernel merges anonymous mappings that lie side by side and have the same rights, and then has to split them again
//! to unmap or protect one in their middle, which it refuses at its limit of mappings. So a page of addresses is left free
//! after each text. A text then is all of a mapping, or the end of one, and unmapping it leaves no more mappings than
//! there were. Pages of files merge with nothing: their neighbours are not next to them in the file.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;

use super::leftover;
pub(crate) use super::leftover::Slot;

/// Pages of our own, unmapped when dropped.
pub(super) struct Pages {
    start: NonNull<u8>,
    /// A multiple of the size of a page. 0 once the pages may no longer be ours.
    len: usize,
    /// Taken when dropped.
    slot: Option<Slot>,
}

/// What may be done with pages. Never both.
#[derive(Clone, Copy)]
pub(super) enum Rights {
    Write,
    Execute,
}

// SAFETY: an address and a length; what is there is used under the rules of references to this value.
unsafe impl Send for Pages {}
// SAFETY: an address and a length; what is there is used under the rules of references to this value.
unsafe impl Sync for Pages {}

impl Rights {
    fn bits(self) -> c_int {
        match self {
            Rights::Write => libc::PROT_READ | libc::PROT_WRITE,
            Rights::Execute => libc::PROT_READ | libc::PROT_EXEC,
        }
    }
}

impl Pages {
    /// Writable pages for `len` bytes, not 0: all zero.
    pub(super) fn anonymous(len: usize, slot: Slot) -> io::Result<Self> {
        // SAFETY: adds a mapping.
        unsafe { Pages::map(len, None, slot) }
    }

    /// Private pages for `len` bytes, not 0, of `file` from `offset` on: writable, without changing the file.
    ///
    /// # Safety
    ///
    /// The pages are those of the file as long as nobody writes to them: nobody may change or truncate it.
    pub(super) unsafe fn of_file(file: &File, offset: u64, len: usize, slot: Slot) -> io::Result<Self> {
        // SAFETY: the file is left alone, says our caller.
        unsafe { Pages::map(len, Some((file, offset)), slot) }
    }

    /// # Safety
    ///
    /// As for [`Pages::of_file`], if there is a file.
    unsafe fn map(len: usize, file: Option<(&File, u64)>, slot: Slot) -> io::Result<Self> {
        let page = page_size().ok_or(io::ErrorKind::Unsupported)?;
        let len = len.checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let spare = if file.is_some() { 0 } else { page };
        let all = len.checked_add(spare).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: at an address of the kernel's choice.
        let start = unsafe { map_at(ptr::null_mut(), all, Rights::Write, file)? };
        // SAFETY: the last page of the mapping just made. Where the kernel does not take it back, it is ours to keep.
        let free = spare != 0 && unsafe { libc::munmap(start.as_ptr().wrapping_add(len).cast(), spare) } == 0;
        Ok(Pages { start, len: if free { len } else { all }, slot: Some(slot) })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The first `len` bytes.
    ///
    /// # Safety
    ///
    /// The pages have `len` bytes, and nobody writes to them as long as the slice lives, nor changes the file they are of.
    pub(super) unsafe fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: mapped and readable; the rest is our caller's.
        unsafe { slice::from_raw_parts(self.as_ptr(), len) }
    }

    /// The first `len` bytes, to be written.
    ///
    /// # Safety
    ///
    /// The pages have `len` bytes, and they are writable.
    pub(super) unsafe fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: mapped, and reached through this value only, which is borrowed.
        unsafe { slice::from_raw_parts_mut(self.as_ptr(), len) }
    }

    /// Makes all of them executable, and no longer writable.
    ///
    /// # Safety
    ///
    /// As for [`Pages::protect`].
    pub(super) unsafe fn execute(&mut self) -> io::Result<()> {
        // SAFETY: our caller has no reference to the bytes that these rights forbid.
        unsafe { self.protect(0..self.len, Rights::Execute) }
    }

    /// Changes the rights to the pages that `span` lies on.
    ///
    /// # Safety
    ///
    /// Nobody holds a reference to these bytes that the new rights do not allow.
    pub(super) unsafe fn protect(&self, span: Range<usize>, rights: Rights) -> io::Result<()> {
        let page = page_size().ok_or(io::ErrorKind::Unsupported)?;
        debug_assert!(span.start <= span.end && span.end <= self.len);
        let first = span.start & !(page - 1);
        // SAFETY: pages of our own.
        match unsafe { libc::mprotect(self.as_ptr().add(first).cast(), span.end - first, rights.bits()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes all pages executable, straight from `file` at `offset`: they never were writable. What was written before
    /// is lost.
    ///
    /// If that is not permitted, the pages are as before. Any other error takes them away.
    ///
    /// # Safety
    ///
    /// As for [`Pages::of_file`].
    pub(super) unsafe fn execute_file(&mut self, file: &File, offset: u64) -> io::Result<()> {
        // SAFETY: our caller leaves the file alone.
        unsafe { self.replace(Rights::Execute, Some((file, offset))) }
    }

    /// Replaces pages of a file by writable, anonymous pages with the same bytes.
    ///
    /// Any error takes the pages away.
    pub(super) fn detach(&mut self) -> io::Result<()> {
        let len = self.len;
        let slot = Slot::new().map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut copy = Pages::anonymous(len, slot)?;
        // SAFETY: both have `len` bytes, ours readable and the copy's writable. The copy is this function's own, and we
        // are borrowed.
        unsafe {
            copy.bytes_mut(len).copy_from_slice(self.bytes(len));
            self.replace(Rights::Write, None)?;
            self.bytes_mut(len).copy_from_slice(copy.bytes(len));
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`Pages::of_file`], if there is a file.
    unsafe fn replace(&mut self, rights: Rights, file: Option<(&File, u64)>) -> io::Result<()> {
        // SAFETY: over our own pages, which are borrowed; the rest is our caller's.
        let result = unsafe { map_at(self.as_ptr(), self.len, rights, file) };
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::PermissionDenied
        {
            // Permissions are looked at first. What fails later may leave a gap, where another thread maps something that
            // is not ours to unmap.
            self.len = 0;
        }
        result.map(|_| ())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take()
            && self.len != 0
        {
            // SAFETY: our own, and we are going.
            unsafe { leftover::unmap(self.as_ptr(), self.len, slot) };
        }
    }
}

/// A private mapping of `file`, or an anonymous one, at `place`, or anywhere if that is null.
///
/// # Safety
///
/// What is mapped at `place` is the caller's own, and goes. As for [`Pages::of_file`], if there is a file.
unsafe fn map_at(place: *mut u8, len: usize, rights: Rights, file: Option<(&File, u64)>) -> io::Result<NonNull<u8>> {
    let (mut flags, mut fd, mut offset): (c_int, RawFd, libc::off_t) = (libc::MAP_PRIVATE, -1, 0);
    match file {
        Some((file, at)) => {
            fd = file.as_raw_fd();
            offset = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        None => flags |= libc::MAP_ANON,
    }
    if !place.is_null() {
        flags |= libc::MAP_FIXED;
    }
    // SAFETY: what is mapped at `place` is our caller's own, who leaves the file alone.
    let start = unsafe { libc::mmap(place.cast(), len, rights.bits(), flags, fd, offset) };
    match NonNull::new(start) {
        Some(mapped) if start != libc::MAP_FAILED => Ok(mapped.cast()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn page_size() -> Option<usize> {
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two())
}
