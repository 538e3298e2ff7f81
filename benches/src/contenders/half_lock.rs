//! The arrays are replaced as a whole, and two counts say who is reading.
//!
//! Readers never wait. A writer publishes a copy, and then waits until it has seen each count at zero once; to see that,
//! it sends newcomers to the other count while it waits for one. (After the description of signal-hook-registry's lock.)

use super::table::{Flat, Table};
use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The arrays, and their readers.
pub struct HalfLock {
    current: AtomicPtr<Flat>,
    turn: AtomicUsize,
    readers: [AtomicUsize; 2],
    writer: Mutex<()>,
}

impl HalfLock {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self {
            current: AtomicPtr::new(Box::into_raw(Box::new(Flat::load(world)))),
            turn: AtomicUsize::new(0),
            readers: [AtomicUsize::new(0), AtomicUsize::new(0)],
            writer: Mutex::new(()),
        }
    }

    #[inline(always)]
    fn read<R>(&self, f: impl FnOnce(&Flat) -> R) -> R {
        let readers = &self.readers[self.turn.load(Ordering::Relaxed) & 1];
        // Counts are read-modify-written by both sides, so that a writer that saw a zero published before this.
        readers.fetch_add(1, Ordering::Acquire);
        // SAFETY: not freed before the count was seen at zero after the pointer was replaced.
        let result = f(unsafe { &*self.current.load(Ordering::Acquire) });
        readers.fetch_sub(1, Ordering::Release);
        result
    }

    fn replace(&self, change: impl FnOnce(&Flat) -> Flat) {
        let _turn = self.writer.lock().expect("no panics");
        let old = self.current.load(Ordering::Relaxed);
        // SAFETY: only the writer frees it, which is this one.
        let new = Box::into_raw(Box::new(change(unsafe { &*old })));
        self.current.store(new, Ordering::Release);
        let (mut seen, mut looks) = ([false; 2], 0);
        while seen != [true; 2] {
            for (readers, seen) in self.readers.iter().zip(&mut seen) {
                *seen |= readers.fetch_add(0, Ordering::AcqRel) == 0;
            }
            let active = self.turn.load(Ordering::Relaxed) & 1;
            if seen[1 - active] && !seen[active] {
                self.turn.store(1 - active, Ordering::Relaxed);
            }
            looks += 1;
            // A reader that shares this processor has to have its turn.
            if looks % 64 == 0 { thread::yield_now() } else { spin_loop() }
        }
        // SAFETY: from `into_raw`, replaced, and read by nobody any more.
        drop(unsafe { Box::from_raw(old) });
    }
}

impl Drop for HalfLock {
    fn drop(&mut self) {
        // SAFETY: from `into_raw`, and nobody else has this any more.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

impl Contender for HalfLock {
    type State<'s> = &'s Self;

    fn start(&self) -> Self::State<'_> {
        self
    }

    #[inline(always)]
    fn find(this: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        this.read(|table| table.find(pc).map(|payload| read(payload)))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

impl Write for HalfLock {
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
        self.replace(|table| table.with(range, payload.clone()));
        self.replace(|table| table.without(range));
    }
}
