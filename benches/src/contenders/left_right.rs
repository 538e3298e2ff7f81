//! The left-right crate: two copies, of which writers change one while readers are in the other.

use super::table::Table;
use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use core::ops::Range;
use left_right::{Absorb, ReadHandle, ReadHandleFactory, WriteHandle};
use std::sync::{Arc, Mutex};

/// One of the copies.
#[derive(Clone)]
pub struct Side<T>(T);

/// A change, which is done to both.
pub enum Change {
    Insert(Range<usize>, Arc<Payload>),
    Remove(Range<usize>),
}

impl<T: Table> Absorb<Change> for Side<T> {
    fn absorb_first(&mut self, change: &mut Change, _: &Self) {
        match change {
            Change::Insert(range, payload) => self.0.insert(range, payload.clone()),
            Change::Remove(range) => drop(self.0.remove(range)),
        }
    }

    fn absorb_second(&mut self, change: Change, _: &Self) {
        match change {
            Change::Insert(range, payload) => self.0.insert(&range, payload),
            Change::Remove(range) => drop(self.0.remove(&range)),
        }
    }

    fn sync_with(&mut self, first: &Self) {
        self.0 = first.0.clone();
    }
}

/// The copies, and their handles.
pub struct LeftRight<T: Table> {
    readers: ReadHandleFactory<Side<T>>,
    writer: Mutex<WriteHandle<Side<T>, Change>>,
}

impl<T: Table> LeftRight<T> {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let (mut writer, reader) = left_right::new_from_empty(Side(T::load(world)));
        writer.publish();
        Self { readers: reader.factory(), writer: Mutex::new(writer) }
    }
}

impl<T: Table> Contender for LeftRight<T> {
    type State<'s> = ReadHandle<Side<T>>;

    fn start(&self) -> Self::State<'_> {
        self.readers.handle()
    }

    #[inline(always)]
    fn find(handle: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        handle.enter()?.0.find(pc).map(|payload| read(payload))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

impl<T: Table> Write for LeftRight<T> {
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
        let change = |change| {
            self.writer.lock().expect("no panics").append(change).publish();
        };
        change(Change::Insert(range.clone(), payload.clone()));
        change(Change::Remove(range.clone()));
    }
}
