//! What engines have today: a map behind a lock that readers share.

use super::table::{Map, Table};
use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use core::ops::Range;
use std::sync::Arc;

/// A lock around a map.
pub trait Lock: Sync {
    /// Around this one.
    fn new(map: Map) -> Self;

    /// Shares it.
    fn read<R>(&self, f: impl FnOnce(&Map) -> R) -> R;

    /// Has it alone.
    fn write<R>(&self, f: impl FnOnce(&mut Map) -> R) -> R;
}

/// The standard library's.
pub struct Std(std::sync::RwLock<Map>);

impl Lock for Std {
    fn new(map: Map) -> Self {
        Self(std::sync::RwLock::new(map))
    }

    #[inline(always)]
    fn read<R>(&self, f: impl FnOnce(&Map) -> R) -> R {
        f(&self.0.read().expect("no panics"))
    }

    fn write<R>(&self, f: impl FnOnce(&mut Map) -> R) -> R {
        f(&mut self.0.write().expect("no panics"))
    }
}

/// parking_lot's.
pub struct ParkingLot(parking_lot::RwLock<Map>);

impl Lock for ParkingLot {
    fn new(map: Map) -> Self {
        Self(parking_lot::RwLock::new(map))
    }

    #[inline(always)]
    fn read<R>(&self, f: impl FnOnce(&Map) -> R) -> R {
        f(&self.0.read())
    }

    fn write<R>(&self, f: impl FnOnce(&mut Map) -> R) -> R {
        f(&mut self.0.write())
    }
}

/// The map in its lock. With `CLONE`, a lookup clones the `Arc`, unlocks, and reads then, which is what one has to do
/// if the lock is not to be held while the answer is used. Without, it reads under the lock.
pub struct Locked<L, const CLONE: bool>(L);

impl<L: Lock, const CLONE: bool> Locked<L, CLONE> {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self(L::new(Map::load(world)))
    }
}

impl<L: Lock, const CLONE: bool> Contender for Locked<L, CLONE> {
    type State<'s>
        = &'s L
    where
        Self: 's;

    fn start(&self) -> Self::State<'_> {
        &self.0
    }

    #[inline(always)]
    fn find(lock: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        if CLONE {
            let payload = lock.read(|map| map.find(pc).cloned())?;
            return Some(read(&payload));
        }
        lock.read(|map| map.find(pc).map(|payload| read(payload)))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

impl<L: Lock, const CLONE: bool> Write for Locked<L, CLONE> {
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
        self.0.write(|map| map.insert(range, payload.clone()));
        let removed = self.0.write(|map| map.remove(range));
        assert!(removed.is_some());
    }
}
