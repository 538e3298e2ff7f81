//! Two copies of the arrays, and one count of all who read.
//!
//! A writer changes the copy that nobody reads, publishes it, waits until nobody at all is reading, and changes the
//! other one in the same way. (After the description of SpiderMonkey's map of code segments.)

use super::table::{Flat, Table};
use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The copies, and the count.
pub struct ReaderCount {
    copies: [UnsafeCell<Flat>; 2],
    /// Which copy is read. Changed under the lock.
    current: AtomicUsize,
    readers: AtomicUsize,
    writer: Mutex<()>,
}

// SAFETY: a copy is changed under the lock, by who has seen that nobody reads it; otherwise it is shared, and is Sync.
unsafe impl Sync for ReaderCount {}

impl ReaderCount {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let copy = Flat::load(world);
        Self {
            copies: [UnsafeCell::new(copy.clone()), UnsafeCell::new(copy)],
            current: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            writer: Mutex::new(()),
        }
    }

    #[inline(always)]
    fn read<R>(&self, f: impl FnOnce(&Flat) -> R) -> R {
        self.readers.fetch_add(1, Ordering::Acquire);
        let copy = &self.copies[self.current.load(Ordering::Acquire) & 1];
        // SAFETY: it is not changed before the count was seen at zero after the other copy was published.
        let result = f(unsafe { &*copy.get() });
        self.readers.fetch_sub(1, Ordering::Release);
        result
    }

    fn change(&self, change: impl Fn(&mut Flat)) {
        let _turn = self.writer.lock().expect("no panics");
        let old = self.current.load(Ordering::Relaxed) & 1;
        // SAFETY: nobody reads this copy: the last change waited for that, and it was not current since.
        change(unsafe { &mut *self.copies[1 - old].get() });
        self.current.store(1 - old, Ordering::Release);
        let mut looks = 0;
        while self.readers.fetch_add(0, Ordering::AcqRel) != 0 {
            looks += 1;
            // A reader that shares this processor has to have its turn.
            if looks % 64 == 0 { thread::yield_now() } else { spin_loop() }
        }
        // SAFETY: whoever reads from here on reads the other copy, and those before have left.
        change(unsafe { &mut *self.copies[old].get() });
    }
}

impl Contender for ReaderCount {
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

impl Write for ReaderCount {
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
        self.change(|table| table.insert(range, payload.clone()));
        self.change(|table| assert!(table.remove(range).is_some()));
    }
}
