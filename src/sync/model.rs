//! The same names for loom: its atomics and locks, a model of the root cell, and crossbeam's own loom build.

use super::FIRST_TICK;
use core::ops::{Deref, DerefMut};
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};
use loom::sync::{Mutex, MutexGuard};
use std::any::Any;
use std::cell::{Cell, RefCell};

/// There is no fork in a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forked;

pub(crate) struct Lock<V>(Mutex<V>);

impl<V> Lock<V> {
    pub(crate) fn new(value: V) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Result<LockGuard<'_, V>, Forked> {
        Ok(LockGuard(self.0.lock().expect("no writer panics under its lock")))
    }

    pub(crate) fn get_mut(&mut self) -> &mut V {
        self.0.get_mut().expect("no writer panics under its lock")
    }
}

pub(crate) struct LockGuard<'l, V>(MutexGuard<'l, V>);

impl<V> Deref for LockGuard<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.0
    }
}

impl<V> DerefMut for LockGuard<'_, V> {
    fn deref_mut(&mut self) -> &mut V {
        &mut self.0
    }
}

/// What arc-swap promises, with a lock: a swap and a load are atomic, and a load counts its reference.
pub(crate) struct RootCell<R>(Mutex<Option<R>>);

/// The model of a swap takes no memory.
pub(crate) fn prepare_to_swap() -> Result<(), super::NoMemory> {
    Ok(())
}

impl<R: Clone> RootCell<R> {
    pub(crate) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn swap(&self, new: Option<R>) -> Option<R> {
        core::mem::replace(&mut *self.0.lock().expect("no panics here"), new)
    }

    pub(crate) fn load(&self) -> Option<R> {
        self.0.lock().expect("no panics here").clone()
    }
}

/// A cell that readers of a node read and the one that frees it writes: loom reports the pair if nothing orders it,
/// and a read of freed memory fails in any case.
pub(crate) struct Liveness(loom::cell::UnsafeCell<bool>);

impl Liveness {
    pub(crate) fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(true))
    }

    pub(crate) fn read(&self) {
        // SAFETY: loom checks that no write is concurrent.
        assert!(self.0.with(|alive| unsafe { *alive }), "a node was read after it was freed");
    }

    pub(crate) fn end(&self) {
        // SAFETY: loom checks that no access is concurrent.
        self.0.with_mut(|alive| unsafe { *alive = false });
    }
}

/// Keeps `memory`, which nobody uses any more, as it is until the next execution, when it is dropped: so a use after free
/// is seen by loom and not by the machine, and its next life is not mistaken for its last one.
pub(crate) fn quarantine<T: 'static>(memory: T) -> Option<T> {
    QUARANTINE.with_borrow_mut(|quarantine| quarantine.push(Box::new(memory)));
    None
}

thread_local! {
    static QUARANTINE: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
    static EAGER: Cell<bool> = const { Cell::new(true) };
    static NEXT_TICK: Cell<u64> = const { Cell::new(0) };
}

/// Whether writes free what they can.
pub(crate) fn is_eager() -> bool {
    EAGER.get()
}

/// For models: has writes free nothing. Only what asks for it does.
pub fn free_nothing_in_writes() {
    EAGER.set(false);
}

loom::thread_local! {
    static STRIPE: core::cell::Cell<usize> = core::cell::Cell::new(0);
}

/// The first of `count` numbers that were not used in this execution.
pub(crate) fn new_ticks(count: u64) -> u64 {
    // Writers take turns, so which of them gets which number is the model's choice already.
    NEXT_TICK.replace(NEXT_TICK.get() + count)
}

/// Lets others go on.
pub(crate) fn pause(_round: u32) {
    loom::thread::yield_now();
}

/// Which stripe this thread uses: where a loom thread's stack is says nothing.
pub(crate) fn stripe_seed() -> usize {
    STRIPE.with(|stripe| stripe.get())
}

/// For models: has the calling thread use this stripe of every gate.
pub fn use_stripe(stripe: usize) {
    STRIPE.with(|mine| mine.set(stripe));
}

/// For models: to be called when an execution begins.
pub fn begin() {
    EAGER.set(true);
    NEXT_TICK.set(FIRST_TICK + 1);
    QUARANTINE.take();
}

/// The private collector, one an execution.
pub(crate) mod epoch {
    pub(crate) use crossbeam_epoch::Guard;
    use crossbeam_epoch::{Collector, LocalHandle};

    loom::lazy_static! {
        static ref COLLECTOR: Collector = Collector::new();
    }

    loom::thread_local! {
        static HANDLE: LocalHandle = COLLECTOR.register();
    }

    pub(crate) fn pin() -> Guard {
        HANDLE.try_with(|handle| handle.pin()).unwrap_or_else(|_| COLLECTOR.register().pin())
    }
}
