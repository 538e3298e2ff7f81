//! Where a private copy of a text may be changed, and how.

use std::fmt;
use std::ops::Range;

use super::columns::{Ascending, Ends, Reader, encode, narrow_all};
use super::table::{Encoded, Entries, Lookup, Table};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::section::{MAX_PATCH_LEN, Section};

const SECTION: Section = Section::new(".trapline.patches", "the table of patches");
/// What errors call an entry.
const PATCH: &str = "patch";

/// The places of a text that a debugger may switch between two forms, by ascending offset; no two share a byte.
///
/// Each lies inside one function of the guest, at an instruction boundary that the compiler chose. The text of an image
/// holds the disabled bytes of all.
///
/// A section of an image, of little-endian `u32`. The enabled bytes of a patch end where those of the next begin, and
/// it has as many disabled ones:
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
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct PatchTable {
    offsets: Box<[u32]>,
    ends: Ends,
    enabled: Box<[u8]>,
    disabled: Box<[u8]>,
}

/// One place of a [`PatchTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patch<'a> {
    offset: u32,
    enabled: &'a [u8],
    disabled: &'a [u8],
}

/// A patch as the builder takes it: its offset, its enabled and its disabled bytes.
pub(in crate::image) type NewPatch = (usize, Vec<u8>, Vec<u8>);

impl<'a> Patch<'a> {
    /// The most bytes that a patch has.
    pub const MAX_LEN: usize = MAX_PATCH_LEN;

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
    pub(in crate::image) fn from_sorted(patches: &[NewPatch], text: &[u8]) -> Result<PatchTable, ImageError> {
        for (offset, enabled, disabled) in patches {
            if enabled.len() != disabled.len() {
                let (offset, enabled, disabled) = (*offset, enabled.len(), disabled.len());
                return Err(ImageError::PatchLength { offset, enabled, disabled });
            }
        }
        let offsets = narrow_all(PATCH, patches.iter().map(|patch| patch.0))?;
        let ends = Ends::of_lens(SECTION, patches.iter().map(|patch| patch.1.len()))?;
        let mut enabled = allocate::room(ends.total() as usize)?;
        let mut disabled = allocate::room(ends.total() as usize)?;
        for (_, when_enabled, when_disabled) in patches {
            enabled.extend_from_slice(when_enabled);
            disabled.extend_from_slice(when_disabled);
        }
        PatchTable { offsets, ends, enabled: enabled.into(), disabled: disabled.into() }.checked(text)
    }

    /// The patch at `index`, counted from 0.
    ///
    /// O(1).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Patch<'_>> {
        self.entry(index)
    }

    /// The first patch that begins at or after `offset`, and its index.
    ///
    /// O(log n).
    #[must_use]
    pub fn next_from(&self, offset: usize) -> Option<(usize, Patch<'_>)> {
        let index = self.first_from(offset);
        Some((index, self.get(index)?))
    }

    /// The indices of the patches that begin in `offsets`. Empty if no patch does.
    ///
    /// O(log n).
    #[must_use]
    pub fn in_range(&self, offsets: Range<usize>) -> Range<usize> {
        let start = self.first_from(offsets.start);
        start..self.first_from(offsets.end).max(start)
    }

    fn first_from(&self, offset: usize) -> usize {
        self.offsets.partition_point(|&start| (start as usize) < offset)
    }

    /// Patches have 1 to 16 bytes and two forms, the text holds the disabled one, and they are where they may be.
    fn checked(self, text: &[u8]) -> Result<Self, ImageError> {
        let mut ascending = Ascending::new(PATCH, text.len());
        for patch in &self {
            let (offset, range, enabled) = (patch.offset(), patch.range(), patch.enabled.len());
            if !(1..=Patch::MAX_LEN).contains(&enabled) {
                return Err(ImageError::PatchLength { offset, enabled, disabled: patch.disabled.len() });
            }
            ascending.next(range.clone())?;
            if patch.enabled == patch.disabled {
                return Err(ImageError::PatchWithoutEffect { offset });
            }
            if text.get(range.clone()) != Some(patch.disabled) {
                return Err(ImageError::PatchNotInText { range });
            }
        }
        Ok(self)
    }
}

impl Entries for PatchTable {
    type Entry<'t> = Patch<'t>;

    fn count(&self) -> usize {
        self.offsets.len()
    }

    fn entry(&self, index: usize) -> Option<Patch<'_>> {
        let bytes = self.ends.range(index)?;
        Some(Patch {
            offset: *self.offsets.get(index)?,
            enabled: self.enabled.get(bytes.clone())?,
            disabled: self.disabled.get(bytes)?,
        })
    }
}

impl Table for PatchTable {
    const SECTIONS: &'static [Section] = &[SECTION];

    fn read(file: &Lookup<'_>, text: &[u8]) -> Result<Self, ImageError> {
        let Some(bytes) = file(SECTION) else {
            return Ok(PatchTable::default());
        };
        let mut reader = Reader::new(SECTION, bytes);
        let [offsets, ends] = reader.columns()?;
        let ends = Ends::new(SECTION, ends)?;
        let enabled = allocate::copy(reader.take(ends.total())?)?;
        let disabled = allocate::copy(reader.take(ends.total())?)?;
        reader.end()?;
        PatchTable { offsets, ends, enabled, disabled }.checked(text)
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        if self.is_empty() {
            return Ok(());
        }
        let bytes = encode(SECTION, &[&self.offsets, self.ends.column()], &[&self.enabled, &self.disabled])?;
        file.add(SECTION, bytes)
    }
}

impl fmt::Debug for PatchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
