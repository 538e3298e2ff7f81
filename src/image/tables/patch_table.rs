//! Where a private copy of a text may be changed, and how.

use std::fmt;
use std::ops::Range;

use super::columns::{Ends, Section, encode, narrow_all};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;

/// The places of a text that a debugger may switch between two forms, by ascending offset; no two share a byte.
///
/// Each lies inside one function of the guest, at an instruction boundary that the compiler chose. The text of an image
/// holds the disabled bytes of all.
///
/// A section of an image, of little-endian `u32`. The enabled bytes of a patch end where those of the next begin, and
/// its disabled bytes are as many:
///
/// ```text
/// count | offsets: [count] | ends: [count] | enabled bytes | disabled bytes
/// ```
///
/// # Examples
///
/// ```
/// use trapline::image::{Image, ImageBuilder};
///
/// let mut builder = ImageBuilder::new();
/// builder.text([0x90, 0x90, 0xc3]).function(0..3, None).patch(1, [0xcc], [0x90]);
/// let image = Image::parse(&builder.finish()?)?;
/// let (index, patch) = image.patches().next_from(0).unwrap();
/// assert_eq!((index, patch.offset(), patch.enabled(), patch.disabled()), (0, 1, &[0xcc][..], &[0x90][..]));
/// # Ok::<(), trapline::image::ImageError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PatchTable {
    offsets: Box<[u32]>,
    ends: Ends,
    enabled: Box<[u8]>,
    disabled: Box<[u8]>,
}

/// One place of a [`PatchTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch<'a> {
    offset: u32,
    enabled: &'a [u8],
    disabled: &'a [u8],
}

/// A patch as the builder takes it: its offset, its enabled and its disabled bytes.
pub(crate) type NewPatch = (usize, Vec<u8>, Vec<u8>);

impl<'a> Patch<'a> {
    /// The most bytes that a patch has.
    pub const MAX_LEN: usize = 16;

    /// Where the patch begins, in bytes from the start of the text.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    /// The bytes of the text that the patch changes; the end is exclusive.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        // At most 16 bytes, and checked to end inside the text.
        self.offset()..self.offset().saturating_add(self.enabled.len())
    }

    /// The bytes when the patch is enabled: a call to the host.
    #[must_use]
    pub fn enabled(&self) -> &'a [u8] {
        self.enabled
    }

    /// The bytes when it is not: instructions that do nothing. As many.
    #[must_use]
    pub fn disabled(&self) -> &'a [u8] {
        self.disabled
    }
}

impl PatchTable {
    /// The table of `patches`, in ascending order, of `text`.
    pub(crate) fn from_sorted(patches: &[NewPatch], text: &[u8]) -> Result<PatchTable, ImageError> {
        for (offset, enabled, disabled) in patches {
            if enabled.len() != disabled.len() {
                let (offset, enabled, disabled) = (*offset, enabled.len(), disabled.len());
                return Err(ImageError::PatchLength { offset, enabled, disabled });
            }
        }
        let offsets = narrow_all(names::PATCHES, patches.iter().map(|patch| patch.0))?;
        let ends = Ends::of_lens(names::PATCHES, patches.iter().map(|patch| patch.1.len()))?;
        let mut enabled = allocate::room(ends.total() as usize)?;
        let mut disabled = allocate::room(ends.total() as usize)?;
        for (_, when_enabled, when_disabled) in patches {
            enabled.extend_from_slice(when_enabled);
            disabled.extend_from_slice(when_disabled);
        }
        PatchTable { offsets, ends, enabled: enabled.into(), disabled: disabled.into() }.checked(text)
    }

    /// Checks and copies the table in the bytes of its section, if there is one.
    pub(crate) fn parse(section: Option<&[u8]>, text: &[u8]) -> Result<PatchTable, ImageError> {
        let Some(section) = section else {
            return Ok(PatchTable::default());
        };
        let mut section = Section::new(names::PATCHES, section);
        let [offsets, ends] = section.columns()?;
        let ends = Ends::new(names::PATCHES, ends)?;
        let enabled = allocate::copy(section.take(ends.total())?)?;
        let disabled = allocate::copy(section.take(ends.total())?)?;
        section.end()?;
        PatchTable { offsets, ends, enabled, disabled }.checked(text)
    }

    /// The bytes of the section, if there is any patch.
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let encode = || encode(names::PATCHES, &[&self.offsets, self.ends.column()], &[&self.enabled, &self.disabled]);
        (!self.is_empty()).then(encode).transpose()
    }

    /// The patch at `index`, counted from 0.
    ///
    /// O(1).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Patch<'_>> {
        let bytes = self.ends.range(index)?;
        Some(Patch {
            offset: *self.offsets.get(index)?,
            enabled: self.enabled.get(bytes.clone())?,
            disabled: self.disabled.get(bytes)?,
        })
    }

    /// The first patch that begins at or after `offset`, and its index.
    ///
    /// O(log n).
    #[must_use]
    pub fn next_from(&self, offset: usize) -> Option<(usize, Patch<'_>)> {
        let index = self.first_from(offset);
        Some((index, self.get(index)?))
    }

    /// The indices of the patches that begin in `offsets`. Empty if there are none.
    ///
    /// O(log n).
    #[must_use]
    pub fn in_range(&self, offsets: Range<usize>) -> Range<usize> {
        let start = self.first_from(offsets.start);
        start..self.first_from(offsets.end).max(start)
    }

    /// The number of patches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no patch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// All patches, by ascending offset.
    pub fn iter(&self) -> impl Iterator<Item = Patch<'_>> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }

    fn first_from(&self, offset: usize) -> usize {
        self.offsets.partition_point(|&start| (start as usize) < offset)
    }

    /// Patches have 1 to 16 bytes, two forms, are in order, disjoint, inside the text, and the text holds the disabled
    /// form.
    fn checked(self, text: &[u8]) -> Result<Self, ImageError> {
        let mut previous = 0..0;
        for patch in self.iter() {
            let (Patch { enabled, disabled, .. }, offset) = (patch, patch.offset());
            if !(1..=Patch::MAX_LEN).contains(&enabled.len()) {
                let (enabled, disabled) = (enabled.len(), disabled.len());
                return Err(ImageError::PatchLength { offset, enabled, disabled });
            }
            // The end fits in 32 bits, as the offset does.
            let there = patch.offset.checked_add(enabled.len() as u32).and_then(|_| text.get(patch.range()));
            let Some(there) = there else {
                return Err(ImageError::PatchOutsideText { offset, len: enabled.len(), text_len: text.len() });
            };
            if offset < previous.end {
                return Err(ImageError::PatchesOutOfOrder { previous, range: patch.range() });
            }
            if enabled == disabled {
                return Err(ImageError::PatchWithoutEffect { offset });
            }
            if there != disabled {
                return Err(ImageError::PatchNotInText { range: patch.range() });
            }
            previous = patch.range();
        }
        Ok(self)
    }
}

impl fmt::Debug for PatchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
