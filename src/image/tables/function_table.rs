//! Which compiled function an offset of a text belongs to, and where the function of a key is.

use std::fmt;
use std::ops::Range;

use super::columns::{Names, Section, encode, narrow, same_count, wide};
use super::function_key::FunctionKey;
use super::function_keys::FunctionKeys;
use super::index::ModuleIndex;
use super::rank::rank;
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;

/// Everything that was compiled into a text, functions of the guest and trampolines: disjoint ranges in ascending
/// order, each with an index, a key and perhaps a name.
///
/// A function's index is its place in the table. Its key says what it is, and no two are equal. Bytes between functions
/// (padding, constants) belong to none.
///
/// Three sections of an image, so that keys and names can be left out. All numbers are little-endian `u32`; a name ends
/// where the next begins, and an empty one stands for none. Without keys, the function at place i is the one that
/// module 0 defines as its number i:
///
/// ```text
/// functions: count | starts: [count] | lengths: [count]
/// keys:      count | spaces: [count] | indices: [count]    space: kind << 24 | module
/// names:     count | ends: [count]   | UTF-8 bytes
/// ```
///
/// # Examples
///
/// ```
/// use trapline::image::{FunctionKey, Image, ImageBuilder, ModuleIndex, SignatureIndex};
///
/// let to_host = FunctionKey::GuestToHost { signature: SignatureIndex::new(0) };
/// let file = ImageBuilder::new()
///     .text([0x90; 16])
///     .signature(*b"() -> ()")
///     .function(0..7, Some("start"))
///     .compiled(8..16, to_host, None)
///     .finish()?;
/// let image = Image::parse(&file)?;
/// let table = image.functions();
/// assert_eq!(table.by_offset(9).unwrap().key(), to_host);
/// assert_eq!(table.by_offset(7), None);
/// assert_eq!(table.by_key(to_host).unwrap().range(), 8..16);
/// let names: Vec<_> = table.defined(ModuleIndex::new(0)).map(|function| function.name()).collect();
/// assert_eq!(names, [Some("start")]);
/// # Ok::<(), trapline::image::ImageError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FunctionTable {
    starts: Box<[u32]>,
    ends: Box<[u32]>,
    keys: FunctionKeys,
    names: Names,
}

/// One function of a [`FunctionTable`].
#[derive(Clone)]
pub struct Function<'a> {
    index: u32,
    key: FunctionKey,
    /// Has a function at `index`. The rest of it is read if somebody asks.
    table: &'a FunctionTable,
}

impl<'a> Function<'a> {
    /// The function's place in its table, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// What the function is.
    #[must_use]
    pub fn key(&self) -> FunctionKey {
        self.key
    }

    /// The function's code, in bytes from the start of the text; the end is exclusive.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let place = self.index as usize;
        self.table.starts[place] as usize..self.table.ends[place] as usize
    }

    /// The function's name, if the image has one.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.table.names.get(self.index as usize)
    }
}

impl PartialEq for Function<'_> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |function: &Self| (function.index, function.key, function.range());
        parts(self) == parts(other) && self.name() == other.name()
    }
}

impl Eq for Function<'_> {}

impl fmt::Debug for Function<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("index", &self.index)
            .field("key", &self.key)
            .field("range", &self.range())
            .field("name", &self.name())
            .finish()
    }
}

impl FunctionTable {
    /// The table of `functions`, in ascending order, in a text of `text_len` bytes.
    pub(crate) fn from_sorted<'n>(
        functions: impl Iterator<Item = (Range<usize>, FunctionKey, Option<&'n str>)> + Clone,
        text_len: usize,
    ) -> Result<FunctionTable, ImageError> {
        let count = functions.clone().count();
        let (mut starts, mut lens) = (allocate::room(count)?, allocate::room(count)?);
        for (range, ..) in functions.clone() {
            let (start, end) = (narrow(names::FUNCTIONS, range.start)?, narrow(names::FUNCTIONS, range.end)?);
            starts.push(start);
            lens.push(end.checked_sub(start).ok_or(ImageError::FunctionEmpty { start: range.start })?);
        }
        let ends = check(&starts, &lens, text_len)?;
        let keys = FunctionKeys::collect(functions.clone().map(|(_, key, _)| key), &starts)?;
        let names = Names::collect(names::NAMES, functions.map(|(.., name)| name))?;
        Ok(FunctionTable { starts: starts.into(), ends, keys, names })
    }

    /// Checks and copies the table in `functions`, `keys` and `names`, the bytes of the three sections.
    pub(crate) fn parse(
        functions: &[u8],
        keys: Option<&[u8]>,
        names: Option<&[u8]>,
        text_len: usize,
    ) -> Result<FunctionTable, ImageError> {
        let mut section = Section::new(names::FUNCTIONS, functions);
        let [starts, lens] = section.columns()?;
        section.end()?;
        let ends = check(&starts, &lens, text_len)?;
        let keys = FunctionKeys::parse(keys, &starts)?;
        let names = match names {
            Some(bytes) => {
                let mut section = Section::new(names::NAMES, bytes);
                let [ends] = section.columns()?;
                same_count(names::NAMES, starts.len(), ends.len())?;
                Names::read(names::NAMES, section, ends)?
            }
            None => Names::default(),
        };
        Ok(FunctionTable { starts, ends, keys, names })
    }

    /// The bytes of the section of functions.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ImageError> {
        let lens = allocate::collect(self.starts.iter().zip(&self.ends).map(|(start, end)| end - start))?;
        encode(names::FUNCTIONS, &[&self.starts, &lens], &[])
    }

    /// The bytes of the section of keys, if the functions are not just those of module 0 in order.
    pub(crate) fn encode_keys(&self) -> Result<Option<Vec<u8>>, ImageError> {
        self.keys.encode()
    }

    /// The bytes of the section of names, if any function has one.
    pub(crate) fn encode_names(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let encode = || encode(names::NAMES, &[&self.names.column(self.len())?], &[self.names.as_bytes()]);
        (!self.names.is_empty()).then(encode).transpose()
    }

    /// The function that the byte at `offset` of the text belongs to.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Takes no lock and allocates nothing, but is not part of the code that is audited for handlers. Keep the offset
    /// and ask afterwards.
    #[inline]
    #[must_use]
    pub fn by_offset(&self, offset: usize) -> Option<Function<'_>> {
        let offset = u32::try_from(offset).ok()?;
        let place = rank(&self.starts, offset).checked_sub(1)?;
        // It starts at the offset or before.
        if offset < *self.ends.get(place)? { self.get_at(place) } else { None }
    }

    /// The function that `key` names.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// As for [`FunctionTable::by_offset`].
    #[must_use]
    pub fn by_key(&self, key: FunctionKey) -> Option<Function<'_>> {
        self.get_at(self.keys.place_of(key)?)
    }

    /// The functions that `module` defines, by ascending [`DefinedFunctionIndex`](crate::image::DefinedFunctionIndex).
    ///
    /// O(log n), and O(1) for each.
    pub fn defined(&self, module: ModuleIndex) -> impl Iterator<Item = Function<'_>> + '_ {
        self.keys.defined(module).filter_map(|place| self.get_at(place))
    }

    /// The function at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Function<'_>> {
        self.get_at(index)
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
        (0..self.len()).map_while(|index| self.get(index))
    }

    #[inline]
    fn get_at(&self, place: usize) -> Option<Function<'_>> {
        // There are no more functions than bytes of text, and those are numbered with 32 bits.
        Some(Function { index: place as u32, key: self.keys.get(place)?, table: self })
    }
}

impl fmt::Debug for FunctionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Functions are not empty, in order, disjoint, inside the text, and end within 32 bits. Returns their ends.
fn check(starts: &[u32], lens: &[u32], text_len: usize) -> Result<Box<[u32]>, ImageError> {
    let limit = u32::try_from(text_len).unwrap_or(u32::MAX);
    let mut previous = 0..0;
    let mut ends = allocate::room(starts.len())?;
    for (&start, &len) in starts.iter().zip(lens) {
        if len == 0 {
            return Err(ImageError::FunctionEmpty { start: start as usize });
        }
        let Some(end) = start.checked_add(len).filter(|&end| end <= limit) else {
            return Err(ImageError::FunctionOutsideText { start: start as usize, len: len as usize, text_len });
        };
        if start < previous.end {
            return Err(ImageError::FunctionsOutOfOrder { previous: wide(&previous), range: wide(&(start..end)) });
        }
        previous = start..end;
        ends.push(end);
    }
    Ok(ends.into())
}
