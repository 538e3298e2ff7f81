//! Which function an offset of a text belongs to.

use std::fmt;
use std::ops::Range;

use super::image::{ImageError, names};

const WORD: usize = size_of::<u32>();

/// The functions of a text: disjoint ranges in ascending order, each with an index and perhaps a name.
///
/// A function's index is its place in the table. Bytes between functions (padding, constants) belong to none.
///
/// Two sections of an image, so that names can be left out. All numbers are little-endian `u32`; a name ends where the
/// next begins, and an empty one stands for none:
///
/// ```text
/// functions: count | starts: [count] | lengths: [count]
/// names:     count | ends: [count]   | UTF-8 bytes
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FunctionTable {
    starts: Box<[u32]>,
    lens: Box<[u32]>,
    /// As long as `starts`, or empty if there are no names at all.
    name_ends: Box<[u32]>,
    names: Box<str>,
}

/// One function of a [`FunctionTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    index: u32,
    range: Range<u32>,
    name: Option<&'a str>,
}

impl<'a> Function<'a> {
    /// The function's place in its table, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The function's code, in bytes from the start of the text; the end is exclusive.
    #[must_use]
    pub fn range(&self) -> Range<u32> {
        self.range.clone()
    }

    /// The function's name, if the image has one.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.name
    }
}

impl FunctionTable {
    /// The table of `functions`, in ascending order, in a text of `text_len` bytes.
    pub(crate) fn from_sorted<'n>(
        functions: impl IntoIterator<Item = (Range<u32>, Option<&'n str>)>,
        text_len: usize,
    ) -> Result<FunctionTable, ImageError> {
        let (mut starts, mut lens, mut name_ends, mut names) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        for (range, name) in functions {
            let len = range.end.checked_sub(range.start);
            starts.push(range.start);
            lens.push(len.ok_or(ImageError::FunctionEmpty { start: range.start })?);
            names.push_str(name.unwrap_or(""));
            name_ends.push(u32::try_from(names.len()).map_err(|_| too_many(names::NAMES))?);
        }
        if names.is_empty() {
            name_ends.clear();
        }
        let table = FunctionTable {
            starts: starts.into(),
            lens: lens.into(),
            name_ends: name_ends.into(),
            names: names.into(),
        };
        table.check(text_len)?;
        Ok(table)
    }

    /// Checks and copies the table in `functions` and `names`, the bytes of the two sections.
    pub(crate) fn parse(functions: &[u8], names: Option<&[u8]>, text_len: usize) -> Result<FunctionTable, ImageError> {
        let (count, rest) = split_count(functions, names::FUNCTIONS)?;
        let expected = WORD as u64 + count as u64 * 2 * WORD as u64;
        if functions.len() as u64 != expected {
            return Err(wrong_length(names::FUNCTIONS, expected, functions));
        }
        let (starts, lens) = rest.split_at(count * WORD);
        let (name_ends, names) = match names {
            Some(section) => parse_names(section, count)?,
            None => Default::default(),
        };
        let table = FunctionTable { starts: words(starts), lens: words(lens), name_ends, names };
        table.check(text_len)?;
        Ok(table)
    }

    /// The bytes of the function section and, if any function has a name, of the name section.
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), ImageError> {
        let count = u32::try_from(self.len()).map_err(|_| too_many(names::FUNCTIONS))?;
        let encode = |columns: [&[u32]; 2]| -> Vec<u8> {
            let column = columns.into_iter().flatten();
            std::iter::once(&count).chain(column).flat_map(|word| word.to_le_bytes()).collect()
        };
        let functions = encode([&self.starts, &self.lens]);
        let names = (!self.name_ends.is_empty()).then(|| {
            let mut names = encode([&self.name_ends, &[]]);
            names.extend(self.names.bytes());
            names
        });
        Ok((functions, names))
    }

    /// The function that the byte at `offset` of the text belongs to.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Takes no lock and allocates nothing, but is not part of the code that is audited for handlers. Keep the offset
    /// and ask afterwards.
    #[must_use]
    pub fn by_offset(&self, offset: u32) -> Option<Function<'_>> {
        let index = self.starts.partition_point(|&start| start <= offset).checked_sub(1)?;
        let function = self.get(u32::try_from(index).ok()?)?;
        function.range.contains(&offset).then_some(function)
    }

    /// The function at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Function<'_>> {
        let at = index as usize;
        let start = *self.starts.get(at)?;
        let end = start.checked_add(*self.lens.get(at)?)?;
        Some(Function { index, range: start..end, name: self.name(at) })
    }

    /// The number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether the table has no function.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// All functions, by ascending offset.
    pub fn iter(&self) -> impl Iterator<Item = Function<'_>> + '_ {
        (0..=u32::MAX).map_while(|index| self.get(index))
    }

    fn name(&self, index: usize) -> Option<&str> {
        let end = *self.name_ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *self.name_ends.get(before)? as usize,
            None => 0,
        };
        self.names.get(start..end).filter(|name| !name.is_empty())
    }

    /// Functions are not empty, in order, disjoint, inside the text, and end within 32 bits.
    fn check(&self, text_len: usize) -> Result<(), ImageError> {
        let limit = u32::try_from(text_len).unwrap_or(u32::MAX);
        let mut previous = 0..0;
        for (&start, &len) in self.starts.iter().zip(&self.lens) {
            if len == 0 {
                return Err(ImageError::FunctionEmpty { start });
            }
            let Some(end) = start.checked_add(len).filter(|&end| end <= limit) else {
                return Err(ImageError::FunctionOutsideText { start, len, text_len });
            };
            if start < previous.end {
                return Err(ImageError::FunctionsOutOfOrder { previous, range: start..end });
            }
            previous = start..end;
        }
        Ok(())
    }
}

impl fmt::Debug for FunctionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn parse_names(section: &[u8], functions: usize) -> Result<(Box<[u32]>, Box<str>), ImageError> {
    let (count, rest) = split_count(section, names::NAMES)?;
    let expected = WORD as u64 + functions as u64 * WORD as u64;
    if count != functions || (section.len() as u64) < expected {
        return Err(wrong_length(names::NAMES, expected, section));
    }
    let (ends, text) = rest.split_at(count * WORD);
    let ends = words(ends);
    let text = std::str::from_utf8(text).map_err(|_| ImageError::BadName { index: None })?;
    let mut start = 0;
    for (index, &end) in ends.iter().enumerate() {
        if text.get(start..end as usize).is_none() {
            return Err(ImageError::BadName { index: Some(index) });
        }
        start = end as usize;
    }
    if start != text.len() {
        return Err(wrong_length(names::NAMES, expected + start as u64, section));
    }
    Ok((ends, text.into()))
}

fn split_count<'a>(section: &'a [u8], name: &'static str) -> Result<(usize, &'a [u8]), ImageError> {
    let (count, rest) = section.split_first_chunk().ok_or_else(|| wrong_length(name, WORD as u64, section))?;
    Ok((u32::from_le_bytes(*count) as usize, rest))
}

fn words(bytes: &[u8]) -> Box<[u32]> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn wrong_length(section: &'static str, expected: u64, bytes: &[u8]) -> ImageError {
    ImageError::TableLength { section, expected, found: bytes.len() as u64 }
}

fn too_many(section: &'static str) -> ImageError {
    ImageError::TooManyEntries { section }
}
