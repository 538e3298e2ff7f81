//! Which compiled function an offset of a text belongs to, and where the function of a key is.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::columns::{Ascending, Names, Reader, encode, narrow, same_count};
use super::function_keys::{FunctionKeys, KEYS};
use super::rank::rank;
use super::table::{Encoded, Entries, Lookup, Table, required};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::key::{FunctionKey, ModuleIndex};
use crate::image::section::Section;

const FUNCTIONS: Section = Section::new(".trapline.funcs", "the table of functions");
const NAMES: Section = Section::new(".trapline.names", "the table of function names");
/// What errors call an entry.
const FUNCTION: &str = "function";

/// Everything that was compiled into a text, functions of the guest and trampolines: disjoint ranges in ascending
/// order, each with an index, a key and perhaps a name.
///
/// A function's index is its place in the table. Its key says what it is, and no two are equal. Bytes between functions
/// (padding, constants) belong to no function.
///
/// Three sections of an image, so that keys and names can be left out. All numbers are little-endian `u32`; a name ends
/// where the next begins, and an empty one counts as no name. Without keys, the function at place i is the one that
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
#[derive(Clone, Default, PartialEq, Eq, Hash)]
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
    /// Has a function at `index`. Its range and name are read when they are asked for.
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

impl Hash for Function<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.index, self.key, self.range(), self.name()).hash(state);
    }
}

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
    pub(in crate::image) fn from_sorted<'n>(
        functions: impl Iterator<Item = (Range<usize>, FunctionKey, Option<&'n str>)> + Clone,
        text_len: usize,
    ) -> Result<FunctionTable, ImageError> {
        let count = functions.clone().count();
        let (mut starts, mut lens) = (allocate::room(count)?, allocate::room(count)?);
        for (range, ..) in functions.clone() {
            let (start, end) = (narrow(FUNCTION, range.start)?, narrow(FUNCTION, range.end)?);
            starts.push(start);
            lens.push(end.checked_sub(start).ok_or(ImageError::FunctionEmpty { start: range.start })?);
        }
        let ends = checked_ends(&starts, &lens, text_len)?;
        let keys = FunctionKeys::collect(functions.clone().map(|(_, key, _)| key), &starts)?;
        let names = Names::collect(NAMES, functions.map(|(.., name)| name))?;
        Ok(FunctionTable { starts: starts.into(), ends, keys, names })
    }

    /// The function that the byte at `offset` of the text belongs to.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: not audited for them. Keep the offset and ask afterwards.
    #[inline]
    #[must_use]
    pub fn by_offset(&self, offset: usize) -> Option<Function<'_>> {
        let offset = u32::try_from(offset).ok()?;
        let place = rank(&self.starts, offset).checked_sub(1)?;
        // The last function that starts at or before the offset.
        if offset < *self.ends.get(place)? { self.entry(place) } else { None }
    }

    /// The function that `key` names.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: not audited for them.
    #[must_use]
    pub fn by_key(&self, key: FunctionKey) -> Option<Function<'_>> {
        self.entry(self.keys.place_of(key)?)
    }

    /// The functions that `module` defines, by ascending [`DefinedFunctionIndex`](crate::image::DefinedFunctionIndex).
    ///
    /// O(log n), and O(1) for each.
    pub fn defined(&self, module: ModuleIndex) -> impl Iterator<Item = Function<'_>> + '_ {
        self.keys.defined(module).filter_map(|place| self.entry(place))
    }

    /// The function at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Function<'_>> {
        self.entry(index)
    }
}

impl Entries for FunctionTable {
    type Entry<'t> = Function<'t>;

    fn count(&self) -> usize {
        self.starts.len()
    }

    #[inline]
    fn entry(&self, index: usize) -> Option<Function<'_>> {
        // There are no more functions than bytes of text, and those are numbered with 32 bits.
        Some(Function { index: index as u32, key: self.keys.get(index)?, table: self })
    }
}

impl Table for FunctionTable {
    const SECTIONS: &'static [Section] = &[FUNCTIONS, KEYS, NAMES];

    fn read(file: &Lookup<'_>, text: &[u8]) -> Result<Self, ImageError> {
        let mut reader = Reader::new(FUNCTIONS, required(file, FUNCTIONS)?);
        let [starts, lens] = reader.columns()?;
        reader.end()?;
        let ends = checked_ends(&starts, &lens, text.len())?;
        let keys = FunctionKeys::parse(file(KEYS), &starts)?;
        let names = match file(NAMES) {
            Some(bytes) => {
                let mut reader = Reader::new(NAMES, bytes);
                let [ends] = reader.columns()?;
                same_count(NAMES, starts.len(), ends.len())?;
                Names::read(reader, ends)?
            }
            None => Names::default(),
        };
        Ok(FunctionTable { starts, ends, keys, names })
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        let lens = allocate::collect(self.starts.iter().zip(&self.ends).map(|(start, end)| end - start))?;
        file.add(FUNCTIONS, encode(FUNCTIONS, &[&self.starts, &lens], &[])?)?;
        if let Some(keys) = self.keys.encode()? {
            file.add(KEYS, keys)?;
        }
        if !self.names.is_empty() {
            let bytes = encode(NAMES, &[&self.names.column(self.len())?], &[self.names.as_bytes()])?;
            file.add(NAMES, bytes)?;
        }
        Ok(())
    }
}

impl fmt::Debug for FunctionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The ends of functions that are not empty, in order, disjoint, and inside the text.
fn checked_ends(starts: &[u32], lens: &[u32], text_len: usize) -> Result<Box<[u32]>, ImageError> {
    let mut ascending = Ascending::new(FUNCTION, text_len);
    let mut ends = allocate::room(starts.len())?;
    for (start, len) in starts.iter().zip(lens).map(|(&start, &len)| (start as usize, len as usize)) {
        if len == 0 {
            return Err(ImageError::FunctionEmpty { start });
        }
        let end = start.saturating_add(len);
        ascending.next(start..end)?;
        ends.push(narrow(FUNCTION, end)?);
    }
    Ok(ends.into())
}
