//! What the tables of an image are made of: a count, columns of that many numbers, and bytes cut into pieces.
//!
//! All numbers are little-endian `u32`. Nothing is allocated for a count before the section is known to be as long as
//! it says.

use std::ops::Range;

use crate::allocate;
use crate::image::error::ImageError;
use crate::image::pairs::pairs;
use crate::image::section::Section;

const WORD: usize = size_of::<u32>();

/// The bytes of a section while they are read, from front to back.
pub(super) struct Reader<'a> {
    section: Section,
    bytes: &'a [u8],
    /// The number of bytes read.
    read: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(section: Section, bytes: &'a [u8]) -> Self {
        Reader { section, bytes, read: 0 }
    }

    /// Reads a count, and `N` columns of that many numbers.
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
        ImageError::TableLength { section: self.section, expected, found: self.bytes.len() as u64 }
    }
}

/// The bytes of a section: the count, the columns, which are all as long as the first, and what follows them.
pub(super) fn encode(section: Section, columns: &[&[u32]], rest: &[&[u8]]) -> Result<Vec<u8>, ImageError> {
    let count = columns.first().map_or(0, |column| column.len());
    let count = u32::try_from(count).map_err(|_| too_many(section))?;
    let lens = columns.iter().map(|column| size_of_val(*column)).chain(rest.iter().map(|rest| rest.len()));
    let mut bytes: Vec<u8> = allocate::room(lens.fold(WORD, usize::saturating_add))?;
    let numbers = std::iter::once(&count).chain(columns.iter().copied().flatten());
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    rest.iter().for_each(|rest| bytes.extend_from_slice(rest));
    Ok(bytes)
}

/// Two sections that describe the same things must agree on their number.
pub(super) fn same_count(section: Section, expected: usize, found: usize) -> Result<(), ImageError> {
    if expected == found { Ok(()) } else { Err(ImageError::EntryCount { section, expected, found }) }
}

/// Where the pieces of a run of bytes end. Each begins where the one before it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ends(Box<[u32]>);

impl Ends {
    pub(super) fn new(section: Section, ends: Box<[u32]>) -> Result<Self, ImageError> {
        let descends = pairs(&ends).position(|[a, b]| b < a);
        match descends {
            Some(before) => Err(ImageError::EndsOutOfOrder { section, index: before + 1 }),
            None => Ok(Ends(ends)),
        }
    }

    /// The ends of pieces of these lengths.
    pub(super) fn of_lens(section: Section, lens: impl Iterator<Item = usize> + Clone) -> Result<Self, ImageError> {
        let mut ends = allocate::room(lens.clone().count())?;
        let mut end = 0_usize;
        for len in lens {
            end = end.saturating_add(len);
            ends.push(u32::try_from(end).map_err(|_| too_many(section))?);
        }
        Ok(Ends(ends.into()))
    }

    /// The length of all pieces together, in bytes.
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

/// A column of names, some or all of which may be missing. An empty name counts as no name.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Names {
    /// Empty if all names are.
    ends: Ends,
    text: Box<str>,
}

impl Names {
    pub(super) fn collect<'n>(
        section: Section,
        names: impl Iterator<Item = Option<&'n str>> + Clone,
    ) -> Result<Self, ImageError> {
        let names = names.map(Option::unwrap_or_default);
        let ends = Ends::of_lens(section, names.clone().map(str::len))?;
        let mut text: Vec<u8> = allocate::room(ends.total() as usize)?;
        names.for_each(|name| text.extend_from_slice(name.as_bytes()));
        let text = String::from_utf8(text).map_err(|_| ImageError::BadName { section, index: None })?;
        Ok(Names { ends, text: text.into() }.normal())
    }

    /// Reads the names that end at `ends`: what is left of a section.
    pub(super) fn read(mut reader: Reader<'_>, ends: Box<[u32]>) -> Result<Self, ImageError> {
        let section = reader.section;
        let ends = Ends::new(section, ends)?;
        let text = reader.take(ends.total())?;
        reader.end()?;
        let text = std::str::from_utf8(text).map_err(|_| ImageError::BadName { section, index: None })?;
        if let Some(index) = ends.column().iter().position(|&end| !text.is_char_boundary(end as usize)) {
            return Err(ImageError::BadName { section, index: Some(index) });
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

/// As `partition_point` of slices, over the numbers below `len`.
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

/// The text offset of an entry, in the 32 bits that it is stored in.
pub(super) fn narrow(entry: &'static str, offset: usize) -> Result<u32, ImageError> {
    u32::try_from(offset).map_err(|_| ImageError::OffsetTooLarge { entry, offset })
}

/// As [`narrow`], of all of `offsets`.
pub(super) fn narrow_all(
    entry: &'static str,
    offsets: impl ExactSizeIterator<Item = usize>,
) -> Result<Box<[u32]>, ImageError> {
    let mut narrowed = allocate::room(offsets.len())?;
    for offset in offsets {
        narrowed.push(narrow(entry, offset)?);
    }
    Ok(narrowed.into())
}

/// Checks the parts of a text that the entries of a table stand for, as they come: they ascend, share no byte, and lie
/// inside the text.
pub(super) struct Ascending {
    /// What an entry is called.
    entry: &'static str,
    text_len: usize,
    previous: Range<usize>,
}

impl Ascending {
    pub(super) fn new(entry: &'static str, text_len: usize) -> Self {
        Ascending { entry, text_len, previous: 0..0 }
    }

    pub(super) fn next(&mut self, range: Range<usize>) -> Result<(), ImageError> {
        let Ascending { entry, text_len, ref mut previous } = *self;
        if range.end > text_len {
            return Err(ImageError::OutsideText { entry, range, text_len });
        }
        if range.start < previous.end {
            return Err(ImageError::OutOfOrder { entry, previous: previous.clone(), range });
        }
        *previous = range;
        Ok(())
    }

    /// As [`next`](Self::next), of an entry that stands for one place.
    pub(super) fn next_at(&mut self, offset: u32) -> Result<(), ImageError> {
        let offset = offset as usize;
        self.next(offset..offset.saturating_add(1))
    }
}

fn words(bytes: &[u8]) -> Result<Box<[u32]>, ImageError> {
    Ok(allocate::collect(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)))?)
}

fn too_many(section: Section) -> ImageError {
    ImageError::TooManyEntries { section }
}
