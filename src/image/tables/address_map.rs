//! Where in the source each instruction came from.

use std::fmt;

use super::columns::{Ascending, Reader, encode, narrow_all};
use super::rank::rank;
use super::table::{Encoded, Entries, Lookup, Table};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::section::Section;

const SECTION: Section = Section::new(".trapline.addrs", "the map of source offsets");
/// What errors call an entry.
const PLACE: &str = "source offset";

/// A sorted map from text offset to source offset: an entry holds for its own offset and all that follow, up to the
/// next.
///
/// What a source offset counts is the compiler's business: bytes of a WebAssembly module, say.
///
/// A section of an image, of little-endian `u32`; `u32::MAX` stands for code without a source:
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
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct AddressMap {
    offsets: Box<[u32]>,
    sources: Box<[u32]>,
}

/// What an entry without a source offset stores.
const NONE: u32 = u32::MAX;

impl AddressMap {
    /// The map of `entries`, in ascending order of text offset.
    pub(in crate::image) fn from_sorted(
        entries: &[(usize, Option<u32>)],
        text_len: usize,
    ) -> Result<AddressMap, ImageError> {
        if let Some(&(offset, _)) = entries.iter().find(|entry| entry.1 == Some(NONE)) {
            return Err(ImageError::SourceOffsetTooLarge { offset });
        }
        let offsets = narrow_all(PLACE, entries.iter().map(|entry| entry.0))?;
        let sources = allocate::collect(entries.iter().map(|entry| entry.1.unwrap_or(NONE)))?;
        AddressMap { offsets, sources }.checked(text_len)
    }

    /// Where in the source the byte at `text_offset` came from, by the last entry at or before it.
    ///
    /// `None` before the first entry, and where that entry has no source. An entry holds past the end of its function,
    /// unless the compiler ended it; [`AddressMap::source_offset_from`] stays inside the function.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: not audited for them. Keep the offset and ask afterwards.
    #[must_use]
    pub fn source_offset(&self, text_offset: usize) -> Option<u32> {
        self.source_offset_from(0, text_offset)
    }

    /// As [`AddressMap::source_offset`], by entries at or after `floor` only: pass the start of the function that
    /// `text_offset` lies in.
    ///
    /// O(log n).
    #[must_use]
    pub fn source_offset_from(&self, floor: usize, text_offset: usize) -> Option<u32> {
        // No entry lies past 32 bits.
        let index = rank(&self.offsets, u32::try_from(text_offset).unwrap_or(u32::MAX)).checked_sub(1)?;
        let (offset, source) = self.entry(index)?;
        source.filter(|_| floor <= offset)
    }

    fn checked(self, text_len: usize) -> Result<Self, ImageError> {
        let mut ascending = Ascending::new(PLACE, text_len);
        self.offsets.iter().try_for_each(|&offset| ascending.next_at(offset))?;
        Ok(self)
    }
}

impl Entries for AddressMap {
    type Entry<'t> = (usize, Option<u32>);

    fn count(&self) -> usize {
        self.offsets.len()
    }

    fn entry(&self, index: usize) -> Option<(usize, Option<u32>)> {
        let source = *self.sources.get(index)?;
        Some((*self.offsets.get(index)? as usize, (source != NONE).then_some(source)))
    }
}

impl Table for AddressMap {
    const SECTIONS: &'static [Section] = &[SECTION];

    fn read(file: &Lookup<'_>, text: &[u8]) -> Result<Self, ImageError> {
        let Some(bytes) = file(SECTION) else {
            return Ok(AddressMap::default());
        };
        let mut reader = Reader::new(SECTION, bytes);
        let [offsets, sources] = reader.columns()?;
        reader.end()?;
        AddressMap { offsets, sources }.checked(text.len())
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        if self.is_empty() {
            return Ok(());
        }
        file.add(SECTION, encode(SECTION, &[&self.offsets, &self.sources], &[])?)
    }
}

impl fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
