//! What the tables of an image are made of: a count, columns of as many numbers, and bytes cut into pieces.
//!
//! All numbers are little-endian `u32`. Nothing is allocated for a count before the section is known to be as long as
//! it says.

use std::ops::Range;

use crate::allocate;
use crate::image::error::ImageError;

const WORD: usize = size_of::<u32>();

/// A section while it is read, from front to back.
pub(super) struct Section<'a> {
    name: &'static str,
    bytes: &'a [u8],
    /// How many of the bytes were read.
    read: usize,
}

impl<'a> Section<'a> {
    pub(super) fn new(name: &'static str, bytes: &'a [u8]) -> Self {
        Section { name, bytes, read: 0 }
    }

    /// Reads a count, and `N` columns of as many numbers.
    pub(super) fn columns<const N: usize>(&mut self) -> Result<[Box<[u32]>; N], ImageError> {
        let count = self.take(WORD as u64)?.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let all = self.take(u64::from(count) * (N * WORD) as u64)?;
        // Fits, since a slice has N times as many bytes.
        let size = count as usize * WORD;
        let mut columns: [Box<[u32]>; N] = std::array::from_fn(|_| Box::default());
        for (number, column) in columns.iter_mut().enumerate() {
            *column = words(&all[number * size..][..size])?;
        }
        Ok(columns)
    }

    /// Reads `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], ImageError> {
        let rest = &self.bytes[self.read..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or_else(|| self.wrong_length((self.read as u64).saturating_add(len)))?;
        self.read += taken.len();
        Ok(taken)
    }

    /// Everything has to have been read.
    pub(super) fn end(self) -> Result<(), ImageError> {
        if self.read == self.bytes.len() { Ok(()) } else { Err(self.wrong_length(self.read as u64)) }
    }

    fn wrong_length(&self, expected: u64) -> ImageError {
        ImageError::TableLength { section: self.name, expected, found: self.bytes.len() as u64 }
    }
}

/// The bytes of a section: the count, the columns, which are all as long as the first, and what follows them.
pub(super) fn encode(section: &'static str, columns: &[&[u32]], rest: &[&[u8]]) -> Result<Vec<u8>, ImageError> {
    let count = columns.first().map_or(0, |column| column.len());
    let count = u32::try_from(count).map_err(|_| too_many(section))?;
    let lens = columns.iter().map(|column| size_of_val(*column)).chain(rest.iter().map(|rest| rest.len()));
    let mut bytes: Vec<u8> = allocate::room(lens.fold(WORD, usize::saturating_add))?;
    let numbers = std::iter::once(&count).chain(columns.iter().copied().flatten());
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    rest.iter().for_each(|rest| bytes.extend_from_slice(rest));
    Ok(bytes)
}

/// Two sections that describe the same things must agree how many there are.
pub(super) fn same_count(section: &'static str, expected: usize, found: usize) -> Result<(), ImageError> {
    if expected == found { Ok(()) } else { Err(ImageError::EntryCount { section, expected, found }) }
}

/// Where the pieces of a run of bytes end. Each begins where the one before it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(Box<[u32]>);

impl Ends {
    pub(super) fn new(section: &'static str, ends: Box<[u32]>) -> Result<Self, ImageError> {
        match ends.array_windows().position(|[a, b]| b < a) {
            Some(before) => Err(ImageError::EndsOutOfOrder { section, index: before + 1 }),
            None => Ok(Ends(ends)),
        }
    }

    /// The ends of pieces of these lengths.
    pub(super) fn of_lens(
        section: &'static str,
        lens: impl Iterator<Item = usize> + Clone,
    ) -> Result<Self, ImageError> {
        let mut ends = allocate::room(lens.clone().count())?;
        let mut end = 0_usize;
        for len in lens {
            end = end.saturating_add(len);
            ends.push(u32::try_from(end).map_err(|_| too_many(section))?);
        }
        Ok(Ends(ends.into()))
    }

    /// How many bytes all pieces have together.
    pub(super) fn total(&self) -> u64 {
        self.0.last().copied().unwrap_or(0).into()
    }

    pub(super) fn range(&self, index: usize) -> Option<Range<usize>> {
        let end = *self.0.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.0.get(before)).copied().unwrap_or(0);
        Some(start as usize..end as usize)
    }

    pub(super) fn column(&self) -> &[u32] {
        &self.0
    }
}

/// A column of names, some or all of which may be missing: an empty name is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Empty if all names are.
    ends: Ends,
    text: Box<str>,
}

impl Names {
    pub(super) fn collect<'n>(
        section: &'static str,
        names: impl Iterator<Item = Option<&'n str>> + Clone,
    ) -> Result<Self, ImageError> {
        let names = names.map(Option::unwrap_or_default);
        let ends = Ends::of_lens(section, names.clone().map(str::len))?;
        let mut text: Vec<u8> = allocate::room(ends.total() as usize)?;
        names.for_each(|name| text.extend_from_slice(name.as_bytes()));
        let text = String::from_utf8(text).map_err(|_| ImageError::BadName { section, index: None })?;
        Ok(Names { ends, text: text.into() }.normal())
    }

    /// Reads the names that end at `ends`: what is left of `section`, which is called `name`.
    pub(super) fn read(name: &'static str, mut section: Section<'_>, ends: Box<[u32]>) -> Result<Self, ImageError> {
        let ends = Ends::new(name, ends)?;
        let text = section.take(ends.total())?;
        section.end()?;
        let text = std::str::from_utf8(text).map_err(|_| ImageError::BadName { section: name, index: None })?;
        if let Some(index) = ends.column().iter().position(|&end| !text.is_char_boundary(end as usize)) {
            return Err(ImageError::BadName { section: name, index: Some(index) });
        }
        Ok(Names { ends, text: allocate::copy_str(text)?.into() }.normal())
    }

    pub(super) fn get(&self, index: usize) -> Option<&str> {
        self.text.get(self.ends.range(index)?).filter(|name| !name.is_empty())
    }

    /// Whether there is no name at all.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The column of ends, for `count` names.
    pub(super) fn column(&self, count: usize) -> Result<Box<[u32]>, ImageError> {
        let ends = self.ends.column();
        Ok(allocate::collect((0..count).map(|name| ends.get(name).copied().unwrap_or(0)))?)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// One form for one content.
    fn normal(self) -> Self {
        if self.text.is_empty() { Names::default() } else { self }
    }
}

/// How many of the numbers below `len` come before the first that `before` is false of, as of a slice.
pub(super) fn partition_point(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// `offset`, a text offset that `section` is to hold, in the 32 bits that it has there.
pub(super) fn narrow(section: &'static str, offset: usize) -> Result<u32, ImageError> {
    u32::try_from(offset).map_err(|_| ImageError::OffsetTooLarge { section, offset })
}

/// As [`narrow`], of all of `offsets`.
pub(super) fn narrow_all(
    section: &'static str,
    offsets: impl ExactSizeIterator<Item = usize>,
) -> Result<Box<[u32]>, ImageError> {
    let mut narrowed = allocate::room(offsets.len())?;
    for offset in offsets {
        narrowed.push(narrow(section, offset)?);
    }
    Ok(narrowed.into())
}

/// `range`, widened.
pub(super) fn wide(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn words(bytes: &[u8]) -> Result<Box<[u32]>, ImageError> {
    Ok(allocate::collect(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)))?)
}

fn too_many(section: &'static str) -> ImageError {
    ImageError::TooManyEntries { section }
}
