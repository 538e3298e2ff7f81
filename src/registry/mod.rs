//! The code registry: from a program counter to whose code it is.
//!
//! ```text
//!  handler                ordinary thread            anyone
//!     | with                 | pin, get                 | snapshot
//!     v                      v                          v
//!   gate (crate::handler)  guard                      snapshot
//!     |                      |                          |
//!     +-------> root of a copy-on-write tree <----------+      tree: the sorted array of ranges, in nodes
//!                  ^                                           root: what the arc-swap holds for snapshots
//!                  | publishes
//!               writer -- retires --> limbo --> freed          quiet: what the gate lets go, and when
//! ```
//!
//! `read` is how lookups begin; `writer` is what is done under the lock; `estate` is what is done after it, and what outlives the registry.

mod error;
mod estate;
mod found;
mod guard;
mod limbo;
mod quiet;
mod read;
mod registration;
mod root;
mod snapshot;
mod stats;
mod tree;
mod view;
mod writer;

pub use error::{RegisterError, UnregisterError};
pub use found::{CodeId, Found};
pub use guard::Guard;
pub use registration::Registration;
pub use snapshot::Snapshot;
pub use stats::Stats;
pub use view::View;

use crate::handler::gate::Gate;
use crate::sync::{self, AtomicBool, AtomicPtr};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::Ordering;
use estate::{Aftermath, Estate};
use std::sync::Arc;
#[cfg(trapline_loom)]
pub(crate) use tree::pool::free as free_node;
use writer::{Freed, Published, Writer};

/// A map from program counters to code, readable from signal handlers.
///
/// Code is registered as a range of addresses with a payload, an `Arc<T>` that says what the code is. Ranges are
/// half-open, `start..end`, and do not overlap.
///
/// Make it a `static`; nothing is initialised lazily, and a handler may be the first caller ever:
///
/// ```
/// use std::sync::Arc;
/// use trapline::CodeRegistry;
///
/// struct Function {
///     name: &'static str,
/// }
///
/// static CODE: CodeRegistry<Function> = CodeRegistry::new();
///
/// let registration = CODE.register(0x1000..0x1400, Arc::new(Function { name: "fib" }))?;
///
/// // In a signal handler, with the interrupted pc:
/// let hit = CODE.with(0x1234, |found| (found.payload().name, found.offset()));
/// assert_eq!(hit, Some(("fib", 0x234)));
///
/// drop(registration);
/// assert!(CODE.with(0x1234, |_| ()).is_none());
/// # Ok::<(), trapline::RegisterError>(())
/// ```
///
/// # Ways to look up
///
/// | | for | protects what it finds |
/// |---|---|---|
/// | [`with`](Self::with) | signal handlers, and anyone for a single lookup | while the closure runs |
/// | [`view`](Self::view) | signal handlers with many lookups in a row, as in a stack walk | while the closure runs |
/// | [`pin`](Self::pin) | ordinary threads with many lookups in a row | while the guard lives |
/// | [`snapshot`](Self::snapshot) | anyone who keeps or iterates a view | while the snapshot lives |
///
/// From the return of [`register`](Self::register) to the call of [`unregister`](Self::unregister) every lookup finds
/// a pc of the range. Lookups that begin before the one or after the other do not.
///
/// # Memory
///
/// Writers copy the few nodes they change, and free what they replaced once nobody sees it: they never wait for
/// readers. Every write leaves garbage of about one leaf and its ancestors, 1.2 KiB and 0.8 KiB a level. When 64 such
/// nodes wait, writes free what they can; with no handler inside and no guard held, that is all of them
/// ([`pin`](Self::pin): two rounds later). [`reclaim`](Self::reclaim) frees at once.
///
/// A handler that stays, or whose thread does not run, keeps the nodes and payloads that it sees, as a snapshot does, and
/// nothing that is written later. Few handlers hold up all that is retired while they are inside: those that find the
/// two claims of their stripe of the gate taken, because other threads' stacks hash to it or because they interrupt a
/// lookup that interrupted a lookup; and those that were overtaken by two publications while they entered. So does a
/// guard that stays.
///
/// Failed allocations that grow with the registry are errors. Some of fixed size abort the process, as everywhere in
/// Rust: the shared state of the first registration (`Arc::new`); the words that a [`snapshot`](Self::snapshot) refers
/// to, and the list of those that are held, and what arc-swap sets up the first time a thread takes one, or is the
/// first to write after one; and once [`pin`](Self::pin) is used, crossbeam-epoch's bags and its record of each thread.
/// A removal takes no memory but what arc-swap and crossbeam need.
///
/// # Fork
///
/// In the child of a `fork`, lookups work, and snapshots. If another thread was writing at the time, reclaiming, or
/// taking the first snapshot after a write, writes are impossible there and say so ([`RegisterError::Forked`]). If
/// another thread was inside the gate or pinned at the time, it is so for ever in the child, and what it holds up is
/// never freed.
pub struct CodeRegistry<T: Send + Sync + 'static> {
    gate: Gate,
    /// Whether anybody ever pinned: without guards there is nothing to wait for but the gate.
    pinned: AtomicBool,
    /// An `Arc`, or null before the first registration.
    estate: AtomicPtr<Estate<T>>,
}

// SAFETY: lookups share payloads between threads and any thread may drop them, so they are Send and Sync; everything
// else is atomic or behind the writer lock.
unsafe impl<T: Send + Sync + 'static> Send for CodeRegistry<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync + 'static> Sync for CodeRegistry<T> {}

impl<T: Send + Sync + 'static> CodeRegistry<T> {
    /// An empty registry. Allocates nothing.
    #[cfg(not(trapline_loom))]
    pub const fn new() -> Self {
        Self { gate: Gate::new(), pinned: AtomicBool::new(false), estate: AtomicPtr::new(ptr::null_mut()) }
    }

    /// An empty registry.
    #[cfg(trapline_loom)]
    pub fn new() -> Self {
        Self { gate: Gate::new(), pinned: AtomicBool::new(false), estate: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Registers `range`, exclusive of its end, as `code`.
    ///
    /// An empty range is not registered and not an error. O(log n).
    ///
    /// # Errors
    ///
    /// If the range is inverted (or wraps around), if it overlaps a registered one, and if there is no memory. The
    /// registry is then as before, and `code` is dropped.
    ///
    /// # Panics
    ///
    /// If the destructor of a payload that this call happens to free panics. The rest is freed first, and what this
    /// call registered is unregistered.
    ///
    /// # Signal safety
    ///
    /// Not safe: it takes a lock and allocates.
    pub fn register(&self, range: Range<usize>, code: Arc<T>) -> Result<Registration<'_, T>, RegisterError> {
        check(&range)?;
        if range.is_empty() {
            return Ok(Registration::new(self, None));
        }
        let start = range.start;
        let raw = Arc::into_raw(code);
        let (result, aftermath) = self.write(core::iter::once((range, raw.cast())));
        // What is freed may panic. By then the range has an owner that unregisters it, or the code one that drops it.
        let (registration, _rejected) = match result {
            Ok(tick) => (Ok(Registration::new(self, Some(CodeId::new(start, tick)))), None),
            // SAFETY: from `into_raw` above, and not registered.
            Err(error) => (Err(error), Some(unsafe { Arc::from_raw(raw) })),
        };
        aftermath.run();
        registration
    }

    /// Registers many ranges at once: all or none, and lookups find all or none.
    ///
    /// The registrations come in the order of the ranges. O(m log (m + n)) for m ranges, and much faster than one by
    /// one.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register); of several ranges at fault, one is named. Ranges of the batch may not overlap
    /// each other either.
    ///
    /// # Panics
    ///
    /// As [`register`](Self::register).
    ///
    /// # Signal safety
    ///
    /// Not safe: it takes a lock and allocates.
    pub fn register_all(
        &self,
        codes: impl IntoIterator<Item = (Range<usize>, Arc<T>)>,
    ) -> Result<Vec<Registration<'_, T>>, RegisterError> {
        let no_memory = |range: &Range<usize>| RegisterError::OutOfMemory { range: range.clone() };
        let mut all = Vec::new();
        for (range, code) in codes {
            check(&range)?;
            all.try_reserve(1).map_err(|_| no_memory(&range))?;
            all.push((range, code));
        }
        let mut order: Vec<usize> = Vec::new();
        let mut registrations = Vec::new();
        if let Some((first, _)) = all.first() {
            order.try_reserve_exact(all.len()).map_err(|_| no_memory(first))?;
            registrations.try_reserve_exact(all.len()).map_err(|_| no_memory(first))?;
        }
        order.extend((0..all.len()).filter(|i| !all[*i].0.is_empty()));
        order.sort_unstable_by_key(|i| all[*i].0.start);
        // Once written, the references are the registry's, which may even have dropped them: whatever happens from here
        // on, this side must not drop them too.
        let mut all = ManuallyDrop::new(all);
        let (result, aftermath) = self.write(order.iter().map(|i| (all[*i].0.clone(), Arc::as_ptr(&all[*i].1).cast())));
        let mut rejected = Vec::new();
        let result = match result {
            Ok(tick) => {
                for (range, code) in all.drain(..) {
                    let id = (!range.is_empty()).then(|| CodeId::new(range.start, tick));
                    if id.is_some() {
                        core::mem::forget(code);
                    }
                    registrations.push(Registration::new(self, id));
                }
                Ok(registrations)
            }
            Err(error) => {
                rejected = core::mem::take(&mut *all);
                Err(error)
            }
        };
        drop(ManuallyDrop::into_inner(all));
        aftermath.run();
        drop(rejected);
        result
    }

    /// Registers ranges in order of their starts: the tick of the publication, and what is left to do.
    fn write<'r>(
        &'r self,
        ranges: impl ExactSizeIterator<Item = (Range<usize>, *const ())>,
    ) -> (Result<u64, RegisterError>, Aftermath<'r, T>) {
        let estate = self.estate_or_new();
        let Ok(mut writer) = estate.lock() else { return (Err(RegisterError::Forked), Aftermath::nothing(estate)) };
        let result = writer.register(self.published(estate), ranges);
        (result, self.end_write(estate, writer, Freed::nothing()))
    }

    /// Removes what was registered as `id`.
    ///
    /// Lookups that begin afterwards do not find it; those under way may go on using the payload, which is let go when
    /// they are done. This does not stop threads that execute the code. O(log n).
    ///
    /// Never fails for lack of memory.
    ///
    /// # Errors
    ///
    /// If there is no such registration, or no longer: an id is never given to another one.
    ///
    /// # Panics
    ///
    /// If the destructor of a payload that this call happens to free panics. The rest is freed first, and the code is
    /// unregistered.
    ///
    /// # Signal safety
    ///
    /// Not safe: it takes a lock, and may run destructors.
    pub fn unregister(&self, id: CodeId) -> Result<(), UnregisterError> {
        let missing = UnregisterError::NotRegistered { id };
        let Some(estate) = self.estate() else { return Err(missing) };
        let (start, birth) = id.parts();
        let mut freed = Freed::nothing();
        let mut writer = estate.lock().map_err(|_| UnregisterError::Forked)?;
        let frontier = || self.frontier_of_guards(estate);
        let found = writer.unregister(self.published(estate), start, birth, &mut freed, frontier);
        self.end_write(estate, writer, freed).run();
        if found { Ok(()) } else { Err(missing) }
    }

    /// Frees what can be freed. With no handler inside, no guard held anywhere in the process, and no snapshot that
    /// sees it, that is everything that was retired before.
    ///
    /// Never waits for a reader. Takes time in proportion to what is freed and to the superseded snapshots that are
    /// held. Does nothing in the child of a fork that left the registry locked.
    ///
    /// # Panics
    ///
    /// If the destructor of a payload does; the rest is freed first.
    ///
    /// # Signal safety
    ///
    /// Not safe: it takes a lock, and runs destructors.
    pub fn reclaim(&self) {
        let Some(estate) = self.estate() else { return };
        let Ok(mut writer) = estate.lock() else { return };
        // Without memory, hidden ranges stay until there is some.
        let _ = writer.sweep(self.published(estate));
        let tick = writer.tick();
        if self.pinned.load(Ordering::Relaxed) && writer.has_garbage() && estate.guards_through() < tick {
            drop(writer);
            // Each round moves the epoch on by one, if no guard is held.
            estate.defer(tick);
            for _ in 0..PATIENCE {
                if estate.guards_through() >= tick {
                    break;
                }
                sync::epoch::pin().flush();
            }
            match estate.lock() {
                Ok(locked) => writer = locked,
                Err(_) => return,
            }
        }
        let mut freed = Freed::nothing();
        writer.collect(&self.gate, &mut freed, || self.frontier_of_guards(estate));
        estate.unlock(writer, freed, None).run();
    }

    /// Counts of what is registered and retired. Constant time.
    ///
    /// # Signal safety
    ///
    /// Safe.
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub fn stats(&self) -> Stats {
        self.estate().map_or(Stats::default(), |estate| estate.counts().get())
    }

    /// For models: a reader that is inside the gate until the result is dropped, and may see anything.
    #[cfg(trapline_loom)]
    pub fn enter_blindly(&self) -> impl Drop + '_ {
        self.gate.enter_blindly()
    }

    /// For models: a reader that is inside the gate until the result is dropped, and sees what is registered now.
    #[cfg(trapline_loom)]
    pub fn enter(&self) -> impl Drop + '_ {
        self.gate.enter().0
    }

    /// For models: frees what can be freed as things are.
    #[cfg(trapline_loom)]
    pub fn collect(&self) {
        let Some(estate) = self.estate() else { return };
        let Ok(mut writer) = estate.lock() else { return };
        let mut freed = Freed::nothing();
        writer.collect(&self.gate, &mut freed, || self.frontier_of_guards(estate));
        estate.unlock(writer, freed, None).run();
    }

    fn published<'r>(&'r self, estate: &'r Estate<T>) -> Published<'r> {
        Published { gate: &self.gate, roots: estate.roots() }
    }

    /// Through which tick guards see nothing. To be asked after the gate.
    fn frontier_of_guards(&self, estate: &Estate<T>) -> u64 {
        // Relaxed: the scan of the gate has synchronised with whoever set it, if that matters (see `pin`).
        if self.pinned.load(Ordering::Relaxed) { estate.guards_through() } else { u64::MAX }
    }

    /// The end of a write: collects when there is enough garbage, and unlocks.
    fn end_write<'r>(
        &'r self,
        estate: &'r Estate<T>,
        mut writer: sync::LockGuard<'_, Writer>,
        mut freed: Freed,
    ) -> Aftermath<'r, T> {
        let mut follow = None;
        if writer.collection_is_due() {
            writer.collect(&self.gate, &mut freed, || self.frontier_of_guards(estate));
            follow = self.pinned.load(Ordering::Relaxed).then(|| writer.tick());
        }
        estate.unlock(writer, freed, follow)
    }

    #[inline]
    fn estate(&self) -> Option<&Estate<T>> {
        // Acquire pairs with the exchange in `estate_or_new`: the estate is initialised.
        let estate = self.estate.load(Ordering::Acquire);
        // SAFETY: null, or from `Arc::into_raw`, and the registry has a reference until it is dropped.
        unsafe { estate.as_ref() }
    }

    /// The first registration makes the estate. Not a `OnceLock`, which a fork could leave locked.
    fn estate_or_new(&self) -> &Estate<T> {
        if let Some(estate) = self.estate() {
            return estate;
        }
        let mine = sync::Arc::into_raw(sync::Arc::new(Estate::new())).cast_mut();
        // Release pairs with the load in `estate`, Acquire with the Release of whoever was first.
        let known = match self.estate.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mine,
            Err(other) => {
                // SAFETY: from `into_raw` above, and shared with nobody.
                drop(unsafe { sync::Arc::from_raw(mine) });
                other
            }
        };
        // SAFETY: as in `estate`.
        unsafe { &*known }
    }
}

/// How many times `reclaim` has crossbeam look for the end of old guards. Three do when there are none.
const PATIENCE: usize = 64;

fn check(range: &Range<usize>) -> Result<(), RegisterError> {
    if range.start > range.end { Err(RegisterError::Inverted { range: range.clone() }) } else { Ok(()) }
}

impl<T: Send + Sync + 'static> Default for CodeRegistry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for CodeRegistry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRegistry").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Drop for CodeRegistry<T> {
    /// Drops everything that is registered or retired, but for what snapshots see.
    fn drop(&mut self) {
        let Some(estate) = self.estate() else { return };
        let estate: *const Estate<T> = estate;
        // SAFETY: from `Arc::into_raw`; this is the registry's reference.
        let estate = unsafe { sync::Arc::from_raw(estate) };
        if let Ok(mut writer) = estate.lock() {
            let mut freed = Freed::nothing();
            writer.close(estate.roots(), &mut freed);
            estate.unlock(writer, freed, None).run();
            return;
        }
        // Half-way through a write that will never end: what is there cannot be told apart any more.
        core::mem::forget(estate);
    }
}
