//! Containers of ranges, which others protect.

use crate::world::{Payload, World};
use core::ops::Range;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A container of ranges.
pub trait Table: Clone + Send + Sync + 'static {
    /// With a world in it.
    fn load(world: &World) -> Self;

    /// Finds the range that holds `pc`.
    fn find(&self, pc: usize) -> Option<&Arc<Payload>>;

    /// Puts in a range that overlaps none.
    fn insert(&mut self, range: &Range<usize>, payload: Arc<Payload>);

    /// Takes out a range.
    fn remove(&mut self, range: &Range<usize>) -> Option<Arc<Payload>>;
}

/// From the last address of each range to its first one and the payload.
#[derive(Clone, Default)]
pub struct Map(BTreeMap<usize, (usize, Arc<Payload>)>);

impl Table for Map {
    fn load(world: &World) -> Self {
        let mut map = Self::default();
        world.live.iter().for_each(|(range, payload)| map.insert(range, payload.clone()));
        map
    }

    #[inline(always)]
    fn find(&self, pc: usize) -> Option<&Arc<Payload>> {
        let (_, (start, payload)) = self.0.range(pc..).next()?;
        (*start <= pc).then_some(payload)
    }

    fn insert(&mut self, range: &Range<usize>, payload: Arc<Payload>) {
        let before = self.0.insert(range.end - 1, (range.start, payload));
        assert!(before.is_none());
    }

    fn remove(&mut self, range: &Range<usize>) -> Option<Arc<Payload>> {
        self.0.remove(&(range.end - 1)).map(|(_, payload)| payload)
    }
}

/// Sorted arrays: the starts, where the search goes, apart from the rest.
#[derive(Clone)]
pub struct Flat {
    starts: Vec<usize>,
    rest: Vec<(usize, Arc<Payload>)>,
}

impl Flat {
    #[inline(always)]
    fn rank(&self, pc: usize) -> usize {
        self.starts.partition_point(|start| *start <= pc)
    }

    /// A copy with a range more, in one go.
    pub fn with(&self, range: &Range<usize>, payload: Arc<Payload>) -> Self {
        let (at, new) = (self.rank(range.start), self.starts.len() + 1);
        let (mut starts, mut rest) = (Vec::with_capacity(new), Vec::with_capacity(new));
        starts.extend_from_slice(&self.starts[..at]);
        starts.push(range.start);
        starts.extend_from_slice(&self.starts[at..]);
        rest.extend_from_slice(&self.rest[..at]);
        rest.push((range.end, payload));
        rest.extend_from_slice(&self.rest[at..]);
        Self { starts, rest }
    }

    /// A copy with a range less, in one go.
    pub fn without(&self, range: &Range<usize>) -> Self {
        let (at, new) = (self.rank(range.start) - 1, self.starts.len() - 1);
        let (mut starts, mut rest) = (Vec::with_capacity(new), Vec::with_capacity(new));
        starts.extend_from_slice(&self.starts[..at]);
        starts.extend_from_slice(&self.starts[at + 1..]);
        rest.extend_from_slice(&self.rest[..at]);
        rest.extend_from_slice(&self.rest[at + 1..]);
        Self { starts, rest }
    }
}

impl Table for Flat {
    fn load(world: &World) -> Self {
        let mut live: Vec<_> = world.live.iter().collect();
        live.sort_unstable_by_key(|(range, _)| range.start);
        Self {
            starts: live.iter().map(|(range, _)| range.start).collect(),
            rest: live.into_iter().map(|(range, payload)| (range.end, payload.clone())).collect(),
        }
    }

    #[inline(always)]
    fn find(&self, pc: usize) -> Option<&Arc<Payload>> {
        let (end, payload) = &self.rest[self.rank(pc).checked_sub(1)?];
        (pc < *end).then_some(payload)
    }

    fn insert(&mut self, range: &Range<usize>, payload: Arc<Payload>) {
        let at = self.rank(range.start);
        self.starts.insert(at, range.start);
        self.rest.insert(at, (range.end, payload));
    }

    fn remove(&mut self, range: &Range<usize>) -> Option<Arc<Payload>> {
        let at = self.rank(range.start).checked_sub(1)?;
        self.starts.remove(at);
        Some(self.rest.remove(at).1)
    }
}
