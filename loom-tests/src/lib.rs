//! The rooms of the crate that are modelled, compiled from its own files, and what the models share.
//!
//! The models are in `tests/`; without `--cfg trapline_loom` they are empty. The crate itself knows nothing of loom: it
//! is this package that its `sync` takes loom's atomics from.
#![cfg(trapline_loom)]
#![allow(dead_code, reason = "the models do not use all of the crate")]

extern crate alloc;

#[path = "../../src/handler/mod.rs"]
mod handler;
#[path = "../../src/registry/mod.rs"]
mod registry;
#[path = "../../src/sync/mod.rs"]
mod sync;

pub use registry::*;
pub use sync::model::{free_nothing_in_writes, use_stripe};

use loom::cell::UnsafeCell;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use loom::sync::Arc;
pub use loom::thread::spawn;

/// A payload whose life loom watches: a use that nothing orders before the drop fails the model.
pub struct Code {
    number: usize,
    mapped: UnsafeCell<bool>,
    dropped: StdArc<AtomicUsize>,
}

// SAFETY: loom checks the accesses to the cell.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

impl Code {
    /// Uses the code, and returns its number.
    pub fn run(&self) -> usize {
        // SAFETY: loom checks that no write is concurrent.
        assert!(self.mapped.with(|mapped| unsafe { *mapped }), "code was used after it was unmapped");
        self.number
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: loom checks that no access is concurrent.
        self.mapped.with_mut(|mapped| unsafe { *mapped = false });
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many codes a model made, and how many were dropped.
#[derive(Clone, Default)]
pub struct Census {
    made: StdArc<AtomicUsize>,
    dropped: StdArc<AtomicUsize>,
}

impl Census {
    /// A new code.
    pub fn code(&self, number: usize) -> StdArc<Code> {
        self.made.fetch_add(1, Ordering::Relaxed);
        StdArc::new(Code { number, mapped: UnsafeCell::new(true), dropped: self.dropped.clone() })
    }

    /// How many were dropped so far.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Nothing leaked.
    pub fn assert_all_dropped(&self) {
        assert_eq!(self.dropped(), self.made.load(Ordering::Relaxed), "code leaked");
    }
}

/// The registry of a model.
pub type Registry = CodeRegistry<Code>;

/// What only models do.
impl<T: Send + Sync> CodeRegistry<T> {
    /// A reader that is inside the gate until the result is dropped, and may see anything.
    pub fn enter_blindly(&self) -> impl Drop + '_ {
        self.gate.enter_blindly()
    }

    /// A reader that is inside the gate until the result is dropped, and sees what is registered now.
    pub fn enter(&self) -> impl Drop + '_ {
        self.gate.enter().0
    }

    /// Frees what can be freed as things are, and asks nothing of crossbeam.
    pub fn collect_only(&self) {
        self.collect(&mut Default::default());
    }
}

impl<T: Send + Sync> Guard<'_, T> {
    /// Has crossbeam run what is due.
    pub fn flush(&self) {
        self._pin.flush();
    }
}

/// A handler on a thread of its own: looks `pc` up, and runs what it finds.
pub fn reader(registry: &Arc<Registry>, stripe: usize, pc: usize) -> loom::thread::JoinHandle<Option<usize>> {
    let registry = registry.clone();
    spawn(move || {
        use_stripe(stripe);
        registry.with(pc, |found| found.payload().run())
    })
}

/// Runs `f`, which has one thread, once: for what does not depend on the interleaving.
pub fn sequential(f: impl Fn(&Census) + Send + Sync + 'static) {
    model(0, f);
}

/// Runs `f` in every interleaving that takes at most so many preemptions (`LOOM_MAX_PREEMPTIONS` overrides it), and
/// says how many there were.
pub fn model(preemptions: usize, f: impl Fn(&Census) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    let bound = builder.preemption_bound;
    let executions = StdArc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        sync::model::begin();
        let census = Census::default();
        f(&census);
        census.assert_all_dropped();
    });
    let name = std::thread::current().name().unwrap_or("model").to_owned();
    println!("{name}: {} executions, at most {bound:?} preemptions", executions.load(Ordering::Relaxed));
}
