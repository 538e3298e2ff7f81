//! Which instructions of a text may trap, and why.

use std::fmt;
use std::sync::Arc;

use super::columns::{Ascending, encode, narrow};
use super::table::{Encoded, Entries, Lookup, Table, required};
use crate::allocate;
use crate::handler::trap_code::TrapCode;
use crate::handler::traps as encoded;
use crate::image::error::ImageError;
use crate::image::section::Section;

const SECTION: Section = Section::new(".trapline.traps", "the table of trap sites");
/// What errors call an entry.
const SITE: &str = "trap site";

/// A sorted map from text offset to [`TrapCode`], in the bytes that an image stores.
///
/// Five bytes a site. The bytes are searched as they are: loading a table is one check and one copy. A table was checked
/// when it was made: its offsets ascend strictly and lie inside the text, its codes are known. Clones share the bytes.
///
/// # Examples
///
/// ```
/// use trapline::TrapCode;
/// use trapline::image::TrapTable;
///
/// let sites = [(4, TrapCode::IntegerDivisionByZero), (9, TrapCode::Unreachable)];
/// let table = TrapTable::from_sorted(sites, 16)?;
/// assert_eq!(table.get(9), Some(TrapCode::Unreachable));
/// assert_eq!(table.get(5), None);
/// assert_eq!(TrapTable::parse(table.as_bytes(), 16)?, table);
/// # Ok::<(), trapline::image::ImageError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TrapTable {
    bytes: Arc<[u8]>,
}

impl TrapTable {
    /// The table of `sites`, each a byte offset into a text of `text_len` bytes and its code, in ascending order.
    ///
    /// O(n).
    ///
    /// # Errors
    ///
    /// [`ImageError::OutOfOrder`] for an offset below its predecessor or equal to it,
    /// [`ImageError::OutsideText`] for one not below `text_len`, [`ImageError::OffsetTooLarge`] for one that does not
    /// fit in 32 bits.
    pub fn from_sorted(
        sites: impl IntoIterator<Item = (usize, TrapCode)>,
        text_len: usize,
    ) -> Result<TrapTable, ImageError> {
        let (mut offsets, mut codes) = (Vec::new(), Vec::new());
        let mut ascending = Ascending::new(SITE, text_len);
        for (offset, code) in sites {
            let offset = narrow(SITE, offset)?;
            ascending.next_at(offset)?;
            allocate::push(&mut offsets, offset)?;
            allocate::push(&mut codes, code.to_u8())?;
        }
        let bytes = encode(SECTION, &[&offsets], &[&codes])?;
        Ok(TrapTable { bytes: allocate::arc_of_bytes(&bytes)? })
    }

    /// Checks and copies the table in `bytes`, which belongs to a text of `text_len` bytes.
    ///
    /// O(n).
    ///
    /// # Errors
    ///
    /// [`ImageError::TableLength`] if `bytes` is not exactly as long as its count says,
    /// [`ImageError::OutOfOrder`], [`ImageError::OutsideText`], [`ImageError::UnknownTrapCode`].
    pub fn parse(bytes: &[u8], text_len: usize) -> Result<TrapTable, ImageError> {
        let wrong_length =
            |expected: u64| ImageError::TableLength { section: SECTION, expected, found: bytes.len() as u64 };
        let header = size_of::<u32>() as u64;
        let count = encoded::count(bytes).ok_or(wrong_length(header))?;
        let expected = header + count as u64 * 5;
        if bytes.len() as u64 != expected {
            return Err(wrong_length(expected));
        }
        let mut ascending = Ascending::new(SITE, text_len);
        for index in 0..count {
            let site = encoded::offset_at(bytes, index).zip(encoded::code_at(bytes, count, index));
            let (offset, code) = site.ok_or(wrong_length(expected))?;
            ascending.next_at(offset)?;
            if TrapCode::from_u8(code).is_none() {
                return Err(ImageError::UnknownTrapCode { offset: offset as usize, code });
            }
        }
        Ok(TrapTable { bytes: allocate::arc_of_bytes(bytes)? })
    }

    /// The code of the site at exactly `offset` bytes into the text.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn get(&self, offset: usize) -> Option<TrapCode> {
        TrapCode::from_u8(encoded::search(&self.bytes, u32::try_from(offset).ok()?)?)
    }

    /// The encoded table: what [`TrapTable::parse`] takes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Entries for TrapTable {
    type Entry<'t> = (usize, TrapCode);

    fn count(&self) -> usize {
        encoded::count(&self.bytes).unwrap_or(0)
    }

    fn entry(&self, index: usize) -> Option<(usize, TrapCode)> {
        let code = encoded::code_at(&self.bytes, self.count(), index)?;
        Some((encoded::offset_at(&self.bytes, index)? as usize, TrapCode::from_u8(code)?))
    }
}

impl Table for TrapTable {
    const SECTIONS: &'static [Section] = &[SECTION];

    fn read(file: &Lookup<'_>, text: &[u8]) -> Result<Self, ImageError> {
        TrapTable::parse(required(file, SECTION)?, text.len())
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        file.add(SECTION, self.as_bytes())
    }
}

impl fmt::Debug for TrapTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
