//! The signatures that an image's functions have.

use std::fmt;

use super::columns::{Ends, Reader, encode};
use super::table::{Encoded, Entries, Lookup, Table};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::key::SignatureIndex;
use crate::image::pairs::pairs;
use crate::image::section::Section;

const SECTION: Section = Section::new(".trapline.sigs", "the table of signatures");

/// The types of functions that an image speaks of: byte strings, which only the embedder understands. No two are equal.
///
/// A section of an image, of little-endian `u32`; a signature ends where the next begins. An image without signatures
/// has no such section:
///
/// ```text
/// count | ends: [count] | bytes
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct SignatureTable {
    ends: Ends,
    bytes: Box<[u8]>,
}

impl SignatureTable {
    pub(in crate::image) fn collect(signatures: &[Vec<u8>]) -> Result<SignatureTable, ImageError> {
        let ends = Ends::of_lens(SECTION, signatures.iter().map(Vec::len))?;
        let mut bytes = allocate::room(ends.total() as usize)?;
        signatures.iter().for_each(|signature| bytes.extend_from_slice(signature));
        SignatureTable { ends, bytes: bytes.into() }.checked()
    }

    /// The signature at `index`.
    ///
    /// O(1).
    #[must_use]
    pub fn get(&self, index: SignatureIndex) -> Option<&[u8]> {
        self.entry(index.as_u32() as usize)
    }

    /// No two are equal: the trampoline of a signature must be found by any of its indices.
    fn checked(self) -> Result<Self, ImageError> {
        let mut sorted = allocate::collect((0..self.len()).map(|index| SignatureIndex::new(index as u32)))?;
        sorted.sort_unstable_by_key(|&index| (self.get(index), index));
        match pairs(&sorted).find(|[a, b]| self.get(*a) == self.get(*b)) {
            Some(&[first, second]) => Err(ImageError::DuplicateSignature { first, second }),
            None => Ok(self),
        }
    }
}

impl Entries for SignatureTable {
    type Entry<'t> = &'t [u8];

    fn count(&self) -> usize {
        self.ends.column().len()
    }

    fn entry(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.ends.range(index)?)
    }
}

impl Table for SignatureTable {
    const SECTIONS: &'static [Section] = &[SECTION];

    fn read(file: &Lookup<'_>, _: &[u8]) -> Result<Self, ImageError> {
        let Some(bytes) = file(SECTION) else {
            return Ok(SignatureTable::default());
        };
        let mut reader = Reader::new(SECTION, bytes);
        let [ends] = reader.columns()?;
        let ends = Ends::new(SECTION, ends)?;
        let bytes = reader.take(ends.total())?;
        reader.end()?;
        SignatureTable { ends, bytes: allocate::copy(bytes)? }.checked()
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        if self.is_empty() {
            return Ok(());
        }
        file.add(SECTION, encode(SECTION, &[self.ends.column()], &[&self.bytes])?)
    }
}

impl fmt::Debug for SignatureTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
