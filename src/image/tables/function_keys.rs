//! The keys of all functions of an image, to be read by place and found by key.

use super::columns::{Reader, encode, partition_point, same_count};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::key::{DefinedFunctionIndex, FunctionKey, ModuleIndex};
use crate::image::pairs::pairs;
use crate::image::section::Section;

pub(super) const KEYS: Section = Section::new(".trapline.keys", "the table of function keys");

/// A key for each place of a [`FunctionTable`](crate::image::FunctionTable); no two are equal.
///
/// Most images hold one module and nothing but its functions, in order. Their keys take no memory, and no section.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct FunctionKeys {
    len: usize,
    /// As long as `len` says; or empty, and the key at place i is that of function i of module 0.
    spaces: Box<[u32]>,
    /// As long as `spaces`.
    indices: Box<[u32]>,
    /// The places by ascending key; empty if the keys ascend by themselves.
    by_key: Box<[u32]>,
}

impl FunctionKeys {
    pub(super) fn collect(keys: impl Iterator<Item = FunctionKey>, starts: &[u32]) -> Result<Self, ImageError> {
        let (mut spaces, mut indices) = (allocate::room(starts.len())?, allocate::room(starts.len())?);
        for key in keys {
            let (space, index) = key.encode().ok_or(ImageError::ModuleIndexTooLarge { key })?;
            spaces.push(space);
            indices.push(index);
        }
        FunctionKeys::new(spaces.into(), indices.into(), starts)
    }

    /// Checks and copies the keys in the bytes of their section, if there is one. The functions begin at `starts`.
    pub(super) fn parse(section: Option<&[u8]>, starts: &[u32]) -> Result<Self, ImageError> {
        let Some(bytes) = section else {
            return Ok(FunctionKeys { len: starts.len(), ..FunctionKeys::default() });
        };
        let mut reader = Reader::new(KEYS, bytes);
        let [spaces, indices] = reader.columns()?;
        reader.end()?;
        same_count(KEYS, starts.len(), spaces.len())?;
        FunctionKeys::new(spaces, indices, starts)
    }

    fn new(spaces: Box<[u32]>, indices: Box<[u32]>, starts: &[u32]) -> Result<Self, ImageError> {
        let len = starts.len();
        let pairs = || spaces.iter().copied().zip(indices.iter().copied());
        if pairs().zip(0..).all(|(pair, place)| pair == (0, place)) {
            return Ok(FunctionKeys { len, ..FunctionKeys::default() });
        }
        if let Some(place) = pairs().position(|(space, index)| FunctionKey::decode(space, index).is_none()) {
            return Err(ImageError::UnknownFunctionKey { start: starts[place] as usize, space: spaces[place] });
        }
        let mut keys = FunctionKeys { len, spaces, indices, by_key: Box::default() };
        if !(0..len).is_sorted_by(|&a, &b| keys.pair(a) < keys.pair(b)) {
            let places = u32::try_from(len).map_err(|_| ImageError::TooManyEntries { section: KEYS })?;
            let mut by_key = allocate::collect(0..places)?;
            by_key.sort_unstable_by_key(|&place| (keys.pair(place as usize), place));
            keys.by_key = by_key;
            keys.check_unique(starts)?;
        }
        Ok(keys)
    }

    fn check_unique(&self, starts: &[u32]) -> Result<(), ImageError> {
        let places = pairs(&self.by_key).map(|places| places.map(|place| place as usize));
        for [a, b] in places {
            if let Some(key) = self.get(b)
                && self.pair(a) == self.pair(b)
            {
                return Err(ImageError::DuplicateFunctionKey {
                    key,
                    first: starts[a] as usize,
                    second: starts[b] as usize,
                });
            }
        }
        Ok(())
    }

    /// The bytes of the section, if the keys need one.
    pub(super) fn encode(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let needed = !self.spaces.is_empty();
        needed.then(|| encode(KEYS, &[&self.spaces, &self.indices], &[])).transpose()
    }

    /// The key at `place`.
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<FunctionKey> {
        if place >= self.len {
            return None;
        }
        if self.spaces.is_empty() {
            let function = DefinedFunctionIndex::new(place as u32);
            return Some(FunctionKey::Defined { module: ModuleIndex::new(0), function });
        }
        FunctionKey::decode(*self.spaces.get(place)?, *self.indices.get(place)?)
    }

    /// Where `key` is. O(log n).
    pub(super) fn place_of(&self, key: FunctionKey) -> Option<usize> {
        let pair = key.encode()?;
        let place = self.place(self.rank(pair));
        (place < self.len && self.pair(place) == pair).then_some(place)
    }

    /// Where the functions that `module` defines are, by ascending index. O(log n + k).
    pub(super) fn defined(&self, module: ModuleIndex) -> impl Iterator<Item = usize> + '_ {
        let first = FunctionKey::Defined { module, function: DefinedFunctionIndex::new(0) };
        let ranks = match first.encode() {
            Some((space, _)) => self.rank((space, 0))..self.rank((space + 1, 0)),
            None => 0..0,
        };
        ranks.map(|rank| self.place(rank))
    }

    /// How many keys are below `pair`.
    fn rank(&self, pair: (u32, u32)) -> usize {
        partition_point(self.len, |rank| self.pair(self.place(rank)) < pair)
    }

    /// The place of the key that has `rank` others below it.
    fn place(&self, rank: usize) -> usize {
        self.by_key.get(rank).map_or(rank, |&place| place as usize)
    }

    #[inline]
    fn pair(&self, place: usize) -> (u32, u32) {
        match self.spaces.get(place).zip(self.indices.get(place)) {
            Some((&space, &index)) => (space, index),
            None => (0, place as u32),
        }
    }
}
