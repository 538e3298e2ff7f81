//! What a lookup in the process-wide registry finds.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::handler::trap_code::TrapCode;
use crate::image::Image;
use crate::image::TrapTable;
use crate::memory::PrivateText;

/// Code that the process-wide registry knows: the text of an image, or a store's private copy of it.
///
/// Offsets into the text mean the same in a copy, so that the tables of the image answer for both. A private copy may
/// be patched by its store at any time: its bytes cannot be had from here.
pub struct RegisteredText {
    /// The image's own table, one step nearer: a handler that comes from cold caches reads a line less.
    traps: TrapTable,
    image: Arc<Image>,
    private: Option<PrivateText>,
}

impl RegisteredText {
    pub(super) fn shared(image: Arc<Image>) -> Self {
        RegisteredText { traps: image.traps().clone(), image, private: None }
    }

    #[cfg(feature = "store")]
    pub(crate) fn private(image: Arc<Image>, text: PrivateText) -> Self {
        RegisteredText { traps: image.traps().clone(), image, private: Some(text) }
    }

    /// Why the instruction at `offset` bytes into the text traps, if it is a trap site.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn trap_code(&self, offset: usize) -> Option<TrapCode> {
        self.traps.get(offset)
    }

    /// The image that was registered, or the one that the private copy was made from.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe. (Cloning the `Arc` is not: dropping the last one unmaps.)
    #[inline]
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Whether this is a store's private copy of [`image`](Self::image)'s text.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// The addresses that this code executes at; the end is exclusive. [`Image::text_range`] of
    /// [`image`](Self::image) unless it is a private copy.
    #[must_use]
    pub fn text_range(&self) -> Range<usize> {
        match &self.private {
            Some(text) => text.range(),
            None => self.image.text_range(),
        }
    }

    #[cfg(feature = "store")]
    pub(crate) fn private_text(&self) -> Option<&PrivateText> {
        self.private.as_ref()
    }
}

impl fmt::Debug for RegisteredText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredText")
            .field("text", &format_args!("{:#x?}", self.text_range()))
            .field("private", &self.is_private())
            .field("image", &self.image)
            .finish()
    }
}
