//! Where in the source each instruction came from.

use std::fmt;

use super::columns::{Section, encode, narrow_all};
use super::rank::rank;
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;

/// A sorted map from text offset to source offset: an entry holds for its own offset and all that follow, up to the
/// next.
///
/// What a source offset counts is the compiler's business: bytes of a WebAssembly module, say.
///
/// A section of an image, of little-endian `u32`; a source offset of `u32::MAX` stands for none:
///
/// ```text
/// count | text offsets: [count], strictly ascending | source offsets: [count]
/// ```
///
/// # Examples
///
/// ```
/// use trapline::image::{Image, ImageBuilder};
///
/// let file = ImageBuilder::new().text([0x90; 16]).address(2, Some(100)).address(6, None).finish()?;
/// let image = Image::parse(&file)?;
/// let map = image.address_map();
/// assert_eq!([1, 2, 5, 6].map(|offset| map.source_offset(offset)), [None, Some(100), Some(100), None]);
/// assert_eq!(map.source_offset_from(4, 5), None); // no entry between 4 and 5
/// # Ok::<(), trapline::image::ImageError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AddressMap {
    offsets: Box<[u32]>,
    sources: Box<[u32]>,
}

/// The source offset of an entry without one.
const NONE: u32 = u32::MAX;

impl AddressMap {
    /// The map of `entries`, in ascending order of text offset.
    pub(crate) fn from_sorted(entries: &[(usize, Option<u32>)], text_len: usize) -> Result<AddressMap, ImageError> {
        if let Some(&(offset, _)) = entries.iter().find(|entry| entry.1 == Some(NONE)) {
            return Err(ImageError::SourceOffsetTooLarge { offset });
        }
        let offsets = narrow_all(names::ADDRESSES, entries.iter().map(|entry| entry.0))?;
        let sources = allocate::collect(entries.iter().map(|entry| entry.1.unwrap_or(NONE)))?;
        AddressMap { offsets, sources }.checked(text_len)
    }

    /// Checks and copies the map in the bytes of its section, if there is one.
    pub(crate) fn parse(section: Option<&[u8]>, text_len: usize) -> Result<AddressMap, ImageError> {
        let Some(section) = section else {
            return Ok(AddressMap::default());
        };
        let mut section = Section::new(names::ADDRESSES, section);
        let [offsets, sources] = section.columns()?;
        section.end()?;
        AddressMap { offsets, sources }.checked(text_len)
    }

    /// The bytes of the section, if there is any entry.
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let encode = || encode(names::ADDRESSES, &[&self.offsets, &self.sources], &[]);
        (!self.is_empty()).then(encode).transpose()
    }

    /// Where in the source the byte at `text_offset` came from, by the last entry at or before it.
    ///
    /// `None` before the first entry, and where that entry has no source. Functions do not count: an entry holds past
    /// the end of its function, unless the compiler ended it. [`AddressMap::source_offset_from`] stays inside.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Takes no lock and allocates nothing, but is not part of the code that is audited for handlers. Keep the offset
    /// and ask afterwards.
    #[must_use]
    pub fn source_offset(&self, text_offset: usize) -> Option<u32> {
        self.source_offset_from(0, text_offset)
    }

    /// As [`AddressMap::source_offset`], by entries at or after `floor` only: the start of the function that
    /// `text_offset` lies in.
    #[must_use]
    pub fn source_offset_from(&self, floor: usize, text_offset: usize) -> Option<u32> {
        // No entry lies past 32 bits.
        let index = rank(&self.offsets, u32::try_from(text_offset).unwrap_or(u32::MAX)).checked_sub(1)?;
        let (offset, source) = self.entry(index)?;
        source.filter(|_| floor <= offset)
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no entry: the image says nothing about its source.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// All entries, by ascending text offset: that, and the source offset.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Option<u32>)> + '_ {
        (0..self.len()).map_while(|index| self.entry(index))
    }

    fn entry(&self, index: usize) -> Option<(usize, Option<u32>)> {
        let source = *self.sources.get(index)?;
        Some((*self.offsets.get(index)? as usize, (source != NONE).then_some(source)))
    }

    /// Offsets ascend strictly and are inside the text.
    fn checked(self, text_len: usize) -> Result<Self, ImageError> {
        if let Some(&[previous, offset]) = self.offsets.array_windows().find(|[a, b]| b <= a) {
            return Err(ImageError::AddressesOutOfOrder { previous: previous as usize, offset: offset as usize });
        }
        match self.offsets.last() {
            Some(&offset) if offset as usize >= text_len => {
                Err(ImageError::AddressOutsideText { offset: offset as usize, text_len })
            }
            _ => Ok(self),
        }
    }
}

impl fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
