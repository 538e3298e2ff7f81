//! The pages that hold a text: first writable, then executable, never both.
//!
//! What is left of the last page is zero.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::TextError;
use super::icache;
use super::pages::{Pages, Slot, page_size};

/// Text that is readable and writable. Without pages if there is no text.
#[derive(Default)]
pub(crate) struct WritableText {
    pages: Option<Pages>,
    len: usize,
    source: Source,
}

/// Where the bytes of a text are from.
#[derive(Default)]
enum Source {
    /// Copied into anonymous pages.
    #[default]
    Memory,
    /// In private pages of a file, and perhaps changed.
    File,
    /// What `file` holds from `offset` on, to the end of the last page.
    Unchanged { file: File, offset: u64 },
}

/// Text that is readable and executable. Without pages if there is no text.
pub(crate) struct ExecutableText {
    pages: Option<Pages>,
    len: usize,
}

impl WritableText {
    /// Copies `text` into pages of its own.
    pub(crate) fn copy(text: &[u8]) -> Result<Self, TextError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut pages = Pages::anonymous(text.len(), Slot::new()?)?;
        // SAFETY: just made for as many bytes, and writable.
        unsafe { pages.bytes_mut(text.len()) }.copy_from_slice(text);
        Ok(WritableText { pages: Some(pages), len: text.len(), source: Source::Memory })
    }

    /// Maps bytes `range` of `file` privately, or returns `None` if they do not begin a page.
    ///
    /// # Safety
    ///
    /// Nobody may change or truncate the file while the text, or what it is published as, exists.
    pub(crate) unsafe fn map(file: &File, range: Range<usize>) -> Result<Option<Self>, TextError> {
        let Some(page) = page_size() else {
            return Ok(None);
        };
        let (offset, len) = (range.start as u64, range.len());
        if len == 0 || !range.start.is_multiple_of(page) {
            return Ok(None);
        }
        let Some(whole_pages) = len.checked_next_multiple_of(page) else {
            return Ok(None);
        };
        // SAFETY: the file is left alone, says our caller. The last page is that of the text's last byte, so that all of
        // them have bytes of the file.
        let mut pages = unsafe { Pages::of_file(file, offset, len, Slot::new()?)? };
        // SAFETY: whole pages of the file, mapped writable; only this function knows them.
        let past = &mut unsafe { pages.bytes_mut(whole_pages) }[len..];
        // What follows the text in the file is not code. Past the end of a file there are zeros; `ImageBuilder` puts the
        // text there, and the page stays the file's.
        let source = if past.iter().all(|byte| *byte == 0) {
            // To be mapped once more when it is published.
            Source::Unchanged { file: file.try_clone()?, offset }
        } else {
            past.fill(0);
            Source::File
        };
        Ok(Some(WritableText { pages: Some(pages), len, source }))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: made for as many bytes, which are written through this value only; a file they are of is left alone.
        self.pages.as_ref().map_or(&[], |pages| unsafe { pages.bytes(self.len) })
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if matches!(self.source, Source::Unchanged { .. }) {
            self.source = Source::File;
        }
        // SAFETY: made for as many bytes, which stay writable until they are published.
        self.pages.as_mut().map_or(&mut [], |pages| unsafe { pages.bytes_mut(self.len) })
    }

    /// Takes the right to write away and gives the right to execute, in one step.
    pub(crate) fn publish(self) -> io::Result<ExecutableText> {
        let WritableText { mut pages, len, source } = self;
        if let Some(pages) = &mut pages {
            let result = match &source {
                // SAFETY: the caller of `map` leaves the file alone.
                Source::Unchanged { file, offset } => unsafe { pages.execute_file(file, *offset) },
                // SAFETY: the text was borrowed to nobody but us: we have it by value.
                Source::Memory | Source::File => unsafe { pages.execute() },
            };
            match (result, &source) {
                // On a file system without the right to execute. It may be executed from elsewhere.
                (Err(error), Source::File | Source::Unchanged { .. })
                    if error.kind() == io::ErrorKind::PermissionDenied =>
                {
                    pages.detach()?;
                    // SAFETY: we have the text by value: nobody else has borrowed it.
                    unsafe { pages.execute()? };
                }
                (result, _) => result?,
            }
        }
        let text = ExecutableText { pages, len };
        icache::make_coherent(text.bytes())?;
        Ok(text)
    }
}

impl ExecutableText {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: made for as many bytes, which nobody writes to any more; a file they are of is left alone.
        self.pages.as_ref().map_or(&[], |pages| unsafe { pages.bytes(self.len) })
    }
}
