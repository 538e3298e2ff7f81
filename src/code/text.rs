//! The pages that hold a text: first writable, then executable, never both.
//!
//! Each text has a mapping of its own, so that changing the protection of its pages touches nothing else. What is left
//! of the last page is zero.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::icache;

/// Text that is readable and writable. Without a mapping if there is no text.
#[derive(Default)]
pub(super) struct WritableText {
    map: Option<MmapMut>,
    len: usize,
}

/// Text that is readable and executable. Without a mapping if there is no text.
pub(super) struct ExecutableText {
    map: Option<Mmap>,
    len: usize,
}

impl WritableText {
    /// Copies `text` into pages of its own.
    pub(super) fn copy(text: &[u8]) -> io::Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut map = MmapMut::map_anon(text.len())?;
        map.copy_from_slice(text);
        Ok(WritableText { map: Some(map), len: text.len() })
    }

    /// Maps bytes `range` of `file` privately, or returns `None` if they do not begin a page.
    ///
    /// # Safety
    ///
    /// Nobody may change or truncate the file while the text, or what it is published as, exists.
    pub(super) unsafe fn map(file: &File, range: Range<usize>) -> io::Result<Option<Self>> {
        let Some(page) = page_size() else {
            return Ok(None);
        };
        let len = range.len();
        if len == 0 || !range.start.is_multiple_of(page) {
            return Ok(None);
        }
        let Some(whole_pages) = len.checked_next_multiple_of(page) else {
            return Ok(None);
        };
        // SAFETY: the file is left alone, says our caller. The mapping ends with the page of the text's last byte, so
        // that every page of it has bytes of the file.
        let mut map = unsafe { MmapOptions::new().offset(range.start as u64).len(whole_pages).map_copy(file)? };
        // What follows the text in the file is not code.
        map[len..].fill(0);
        Ok(Some(WritableText { map: Some(map), len }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.len])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_mut().map_or(&mut [], |map| &mut map[..self.len])
    }

    /// Takes the right to write away and gives the right to execute, in one step.
    pub(super) fn publish(self) -> io::Result<ExecutableText> {
        let map = self.map.map(MmapMut::make_exec).transpose()?;
        let text = ExecutableText { map, len: self.len };
        icache::make_coherent(text.bytes())?;
        Ok(text)
    }
}

impl ExecutableText {
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.len])
    }
}

#[cfg(unix)]
pub(super) fn page_size() -> Option<usize> {
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two())
}

#[cfg(not(unix))]
pub(super) fn page_size() -> Option<usize> {
    None
}
