//! The limit: sorted arrays that nothing protects and nobody may change.

use super::table::{self, Table};
use super::{Answer, Contender, read};
use crate::world::{Payload, World};
use std::sync::Arc;

/// Keys apart from the rest.
pub struct Flat(table::Flat);

impl Flat {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self(Table::load(world))
    }
}

impl Contender for Flat {
    type State<'s> = &'s table::Flat;

    fn start(&self) -> Self::State<'_> {
        &self.0
    }

    #[inline(always)]
    fn find(table: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        table.find(pc).map(|payload| read(payload))
    }
}

/// One array of start, end, payload: what is written first, and slower.
pub struct Triples(Vec<(usize, usize, Arc<Payload>)>);

impl Triples {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let triple = |(range, payload): &(core::ops::Range<usize>, _)| (range.start, range.end, Arc::clone(payload));
        let mut triples: Vec<_> = world.live.iter().map(triple).collect();
        triples.sort_unstable_by_key(|triple| triple.0);
        Self(triples)
    }
}

impl Contender for Triples {
    type State<'s> = &'s [(usize, usize, Arc<Payload>)];

    fn start(&self) -> Self::State<'_> {
        &self.0
    }

    #[inline(always)]
    fn find(triples: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        let (_, end, payload) = &triples[triples.partition_point(|triple| triple.0 <= pc).checked_sub(1)?];
        (pc < *end).then(|| read(payload))
    }
}
