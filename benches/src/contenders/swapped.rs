//! Sorted arrays in an arc-swap: what one writes to get rid of the lock, if handlers do not matter.

use super::table::{Flat, Table};
use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, Guard};
use core::ops::Range;
use std::sync::{Arc, Mutex};

/// Each lookup loads.
pub struct Swapped {
    current: ArcSwap<Flat>,
    writer: Mutex<()>,
}

impl Swapped {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self { current: ArcSwap::from_pointee(Flat::load(world)), writer: Mutex::new(()) }
    }

    fn replace(&self, change: impl FnOnce(&Flat) -> Flat) {
        // Writers take turns, so that none copies in vain.
        let _turn = self.writer.lock().expect("no panics");
        let new = Arc::new(change(&self.current.load()));
        self.current.store(new);
    }
}

impl Contender for Swapped {
    type State<'s> = &'s ArcSwap<Flat>;

    fn start(&self) -> Self::State<'_> {
        &self.current
    }

    #[inline(always)]
    fn find(current: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        let table: Guard<_> = current.load();
        table.find(pc).map(|payload| read(payload))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

impl Write for Swapped {
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
        self.replace(|table| table.with(range, payload.clone()));
        self.replace(|table| table.without(range));
    }
}

/// Each thread has a reference of its own, and looks whether it is still the current one.
pub struct Cached(Swapped);

impl Cached {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self(Swapped::new(world))
    }
}

impl Contender for Cached {
    type State<'s> = Cache<&'s ArcSwap<Flat>, Arc<Flat>>;

    fn start(&self) -> Self::State<'_> {
        Cache::new(&self.0.current)
    }

    #[inline(always)]
    fn find(cache: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        cache.load().find(pc).map(|payload| read(payload))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(&self.0)
    }
}
