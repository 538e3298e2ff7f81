//! The signatures that an image's functions have.

use std::fmt;

use super::columns::{Ends, Section, encode};
use super::index::SignatureIndex;
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;

/// The types of functions that an image speaks of: byte strings, which only the embedder understands. No two are equal.
///
/// A section of an image, of little-endian `u32`; a signature ends where the next begins. An image without the section
/// has none:
///
/// ```text
/// count | ends: [count] | bytes
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SignatureTable {
    ends: Ends,
    bytes: Box<[u8]>,
}

impl SignatureTable {
    pub(crate) fn collect(signatures: &[Vec<u8>]) -> Result<SignatureTable, ImageError> {
        let ends = Ends::of_lens(names::SIGNATURES, signatures.iter().map(Vec::len))?;
        let mut bytes = allocate::room(ends.total() as usize)?;
        signatures.iter().for_each(|signature| bytes.extend_from_slice(signature));
        SignatureTable { ends, bytes: bytes.into() }.checked()
    }

    /// Checks and copies the table in the bytes of its section, if there is one.
    pub(crate) fn parse(section: Option<&[u8]>) -> Result<SignatureTable, ImageError> {
        let Some(section) = section else {
            return Ok(SignatureTable::default());
        };
        let mut section = Section::new(names::SIGNATURES, section);
        let [ends] = section.columns()?;
        let ends = Ends::new(names::SIGNATURES, ends)?;
        let bytes = section.take(ends.total())?;
        section.end()?;
        SignatureTable { ends, bytes: allocate::copy(bytes)? }.checked()
    }

    /// The bytes of the section, if there is any signature.
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let encode = || encode(names::SIGNATURES, &[self.ends.column()], &[&self.bytes]);
        (!self.is_empty()).then(encode).transpose()
    }

    /// The signature at `index`.
    ///
    /// O(1).
    #[must_use]
    pub fn get(&self, index: SignatureIndex) -> Option<&[u8]> {
        self.bytes.get(self.ends.range(index.as_u32() as usize)?)
    }

    /// The number of signatures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.column().len()
    }

    /// Whether there is no signature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All signatures, by ascending index.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        (0..=u32::MAX).map_while(|index| self.get(SignatureIndex::new(index)))
    }

    /// No two are equal: whoever looks for a signature's trampoline has to find the one that there is.
    fn checked(self) -> Result<Self, ImageError> {
        let mut sorted =
            allocate::collect((0..self.ends.column().len()).map(|index| SignatureIndex::new(index as u32)))?;
        sorted.sort_unstable_by_key(|&index| (self.get(index), index));
        match sorted.array_windows().find(|[a, b]| self.get(*a) == self.get(*b)) {
            Some(&[first, second]) => Err(ImageError::DuplicateSignature { first, second }),
            None => Ok(self),
        }
    }
}

impl fmt::Debug for SignatureTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
