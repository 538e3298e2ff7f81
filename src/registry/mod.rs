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
//!               writer -- retires --> limbo --> freed          readers: what those inside the gate see
//! ```
//!
//! Lookups begin in `read`. What is done under the writers' lock is in `writer`; what is done after it, and what outlives
//! the registry, in `state`.

mod error;
mod found;
#[cfg(feature = "guard")]
mod guard;
#[cfg_attr(not(feature = "guard"), path = "no_guard_epoch.rs")]
mod guard_epoch;
mod limbo;
mod outcome;
#[cfg_attr(not(feature = "std"), path = "no_panics.rs")]
mod panics;
mod read;
mod readers;
mod registration;
#[cfg_attr(not(feature = "snapshot"), path = "no_root.rs")]
mod root;
#[cfg(feature = "snapshot")]
mod snapshot;
mod state;
mod stats;
mod tree;
mod view;
mod writer;

pub use error::{RegisterError, UnregisterError};
pub use found::{CodeId, Found};
#[cfg(feature = "guard")]
pub use guard::Guard;
pub use outcome::{Holder, Unregistered};
pub use registration::Registration;
#[cfg(feature = "snapshot")]
pub use snapshot::{Snapshot, SnapshotIter};
pub use stats::Stats;
pub use view::View;

use crate::handler::gate::Gate;
use crate::sync::{self, AtomicPtr, Counted, NoMemory, Ordering, Shared, const_fn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr;
use limbo::Collected;
use panics::Panics;
use state::{Cleanup, State};
use writer::{Freed, Published};

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
/// | [`get_owned`](Self::get_owned) | ordinary threads: the payload of a pc that a handler stored | while the `Arc` lives |
/// | [`pin`](Self::pin) (feature `guard`) | ordinary threads with many lookups in a row | while the guard lives |
/// | [`snapshot`](Self::snapshot) (feature `snapshot`) | anyone who keeps or iterates a view | while the snapshot lives |
///
/// From the return of [`register`](Self::register) to the call of [`unregister`](Self::unregister) every lookup finds
/// a pc of the range. Lookups that end before the one is called, or begin after the other returned, do not.
///
/// # Memory
///
/// Writers copy the few nodes they change, and free what they replaced once nobody sees it: they never wait for
/// readers. Every write replaces about one leaf and its ancestors, 1.3 KiB and 0.8 KiB a level, and every write looks who
/// is inside. **With no handler inside, and no guard and no snapshot that sees it, what a write replaced is freed before
/// that write returns, and so is a payload that it unregistered**: nothing is left of them.
///
/// Otherwise it stays for those who see it. They keep:
///
/// | | nodes and payloads of |
/// |---|---|
/// | a handler inside, however long | the moment at which it came |
/// | a snapshot | its moment |
/// | a guard | all that is retired while it lives |
///
/// and what is written later beside the first two is freed as if they were not there. Few handlers are as guards: those
/// that find the two claims of their stripe of the gate taken, because other threads' stacks hash to it or because they
/// interrupt a lookup that interrupted a lookup; and those that were overtaken by two publications while they entered.
///
/// What they kept is freed by the first write after they have gone, or by [`reclaim`](Self::reclaim). (What only a snapshot
/// kept may take as many writes as there are superseded snapshots, if these are many.)
///
/// Failed allocations are errors, and removals take no memory. Two things abort the process, which have no other way to
/// fail: what arc-swap sets up when a thread first takes a snapshot, or ends a registry, and never wrote; and
/// [`pin`](Self::pin), for crossbeam-epoch's record of each thread and what guards that overlap need there.
///
/// # Cost of a write
///
/// A write takes a few hundred nanoseconds, and looks at 64 cache lines to learn who is inside. With the feature
/// `snapshot` it swaps an arc-swap, which walks the records that arc-swap keeps of threads: some 10 ns for each thread of
/// the process that has used arc-swap, through any crate. (A record of a thread that ended is given to a later one.) Where
/// many threads take snapshots and writes are many, leave the feature out.
///
/// # Fork
///
/// In the child of a `fork`, lookups work, and snapshots. If another thread was writing or reclaiming at the time, writes
/// are impossible there and say so ([`RegisterError::Forked`]). If another thread was inside the gate or pinned at the
/// time, it is so for ever in the child, and what it holds up is never freed.
///
/// # Without `std`
///
/// A writer that finds the lock taken spins until it is free. Forks are not noticed: a child that inherits the taken lock
/// spins for ever when it writes. A panic of a payload's destructor goes on at once: what this call was to free after it
/// leaks, and a second panic aborts.
pub struct CodeRegistry<T: Send + Sync + 'static> {
    pub(super) gate: Gate,
    /// From `Shared::into_raw`, or null before the first registration.
    state: AtomicPtr<Counted<State<T>>>,
}

// SAFETY: lookups share payloads between threads and any thread may drop them, so they are Send and Sync; everything
// else is atomic or protected by the writer lock.
unsafe impl<T: Send + Sync + 'static> Send for CodeRegistry<T> {}
// SAFETY: lookups share payloads between threads and any thread may drop them, so they are Send and Sync; everything
// else is atomic or protected by the writer lock.
unsafe impl<T: Send + Sync + 'static> Sync for CodeRegistry<T> {}

impl<T: Send + Sync + 'static> CodeRegistry<T> {
    const_fn! {
        /// An empty registry. Allocates nothing.
        #[must_use]
        pub fn new() -> Self {
            Self { gate: Gate::new(), state: AtomicPtr::new(ptr::null_mut()) }
        }
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
    /// call registered is unregistered. Of several panics the first goes on.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock and allocates.
    pub fn register(&self, range: Range<usize>, code: Arc<T>) -> Result<Registration<'_, T>, RegisterError> {
        check(&range)?;
        if range.is_empty() {
            return Ok(Registration::new(self, None));
        }
        let start = range.start;
        // The registry's from here on, unless it is given back.
        let code = ManuallyDrop::new(code);
        let (result, cleanup) = self.write(core::iter::once((range, Arc::as_ptr(&code).cast())));
        // Destructors run last, when the range has an owner that unregisters it.
        let result = result.map(|number| Registration::new(self, Some(CodeId::new(start, number))));
        let mut panics = Panics::default();
        if let Some(cleanup) = cleanup {
            cleanup.run_holding(&mut panics);
        }
        if result.is_err() {
            panics.drop(ManuallyDrop::into_inner(code));
        }
        self.go_on_unless_done(result.map(|one| [one]), panics).map(|[one]| one)
    }

    /// Gives back what was registered, unless a panic goes on: then it is unregistered first.
    fn go_on_unless_done<'r, R: IntoIterator<Item = Registration<'r, T>>>(
        &self,
        result: Result<R, RegisterError>,
        mut panics: Panics,
    ) -> Result<R, RegisterError> {
        if !panics.is_any() {
            return result;
        }
        // Not by dropping them: another panic would then abort.
        for id in result.into_iter().flatten().filter_map(Registration::leak) {
            // It is registered, or was removed meanwhile by a destructor; after a fork that left the registry locked it
            // stays.
            let _ = self.unregister_holding(id, &mut panics);
        }
        panics.go_on();
        unreachable!("there was a panic")
    }

    /// Registers many ranges at once: all or none, and lookups find all or none.
    ///
    /// The registrations come in the order of the ranges. O(m log (m + n)) for m ranges, and much faster than one by
    /// one.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register), and if ranges of the batch overlap each other; of several ranges at fault, one is
    /// named.
    ///
    /// # Panics
    ///
    /// As [`register`](Self::register), and if the iterator does. (It is exhausted in any case, so that each payload is
    /// dropped by itself.)
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock and allocates.
    pub fn register_all(
        &self,
        codes: impl IntoIterator<Item = (Range<usize>, Arc<T>)>,
    ) -> Result<Vec<Registration<'_, T>>, RegisterError> {
        let mut batch = Batch { codes: Vec::new() };
        let mut panics = Panics::default();
        let result = self.register_batch(codes, &mut batch, &mut panics);
        // What is registered is not in the batch any more. The rest goes, whatever its destructors do.
        batch.codes.drain(..).for_each(|(_, code)| panics.drop(ManuallyDrop::into_inner(code)));
        self.go_on_unless_done(result, panics)
    }

    fn register_batch(
        &self,
        codes: impl IntoIterator<Item = (Range<usize>, Arc<T>)>,
        batch: &mut Batch<T>,
        panics: &mut Panics,
    ) -> Result<Vec<Registration<'_, T>>, RegisterError> {
        let mut refused = None;
        for (range, code) in codes {
            let code = ManuallyDrop::new(code);
            if refused.is_some() {
                panics.drop(ManuallyDrop::into_inner(code));
            } else if batch.codes.try_reserve(1).is_err() {
                panics.drop(ManuallyDrop::into_inner(code));
                let bytes = (2 * batch.codes.len()).max(4) * size_of::<(Range<usize>, Arc<T>)>();
                refused = Some(RegisterError::OutOfMemory { range, bytes });
            } else {
                // Whatever comes of the range, the batch drops its code.
                refused = check(&range).err();
                batch.codes.push((range, code));
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        let codes = &mut batch.codes;
        let first = codes.first().map_or(0..0, |(range, _)| range.clone());
        let no_memory = |bytes| RegisterError::OutOfMemory { range: first.clone(), bytes };
        let (mut order, mut registrations) = (Vec::new(), Vec::new());
        let bytes = codes.len() * size_of::<usize>();
        order.try_reserve_exact(codes.len()).map_err(|_| no_memory(bytes))?;
        let bytes = codes.len() * size_of::<Registration<'_, T>>();
        registrations.try_reserve_exact(codes.len()).map_err(|_| no_memory(bytes))?;
        order.extend((0..codes.len()).filter(|i| !codes[*i].0.is_empty()));
        order.sort_unstable_by_key(|i| (codes[*i].0.start, *i));
        for neighbours in order.windows(2) {
            let [other, range] = [neighbours[0], neighbours[1]].map(|i| &codes[i].0);
            if range.start < other.end {
                return Err(RegisterError::OverlapInBatch { range: range.clone(), other: other.clone() });
            }
        }
        registrations.extend(codes.iter().map(|_| Registration::new(self, None)));
        let ranges = order.iter().map(|i| (codes[*i].0.clone(), Arc::as_ptr(&codes[*i].1).cast()));
        let (result, cleanup) = self.write(ranges);
        let result = result.map(|first| {
            for (number, i) in (first..).zip(&order) {
                registrations[*i] = Registration::new(self, Some(CodeId::new(codes[*i].0.start, number)));
            }
            // These are the registry's now, whose `Arc`s they were. None of this runs a destructor.
            codes.retain(|(range, _)| range.is_empty());
            registrations
        });
        if let Some(cleanup) = cleanup {
            cleanup.run_holding(panics);
        }
        result
    }

    /// Registers ranges in order of their starts: the number of the first, and what is left to do.
    fn write<'r>(
        &'r self,
        ranges: impl ExactSizeIterator<Item = (Range<usize>, *const ())>,
    ) -> (Result<u64, RegisterError>, Option<Cleanup<'r, T>>) {
        let mut ranges = ranges.peekable();
        let state = match self.state_or_new() {
            Ok(state) => state,
            Err(NoMemory { bytes }) => {
                let range = ranges.peek().map_or(0..0, |(range, _)| range.clone());
                return (Err(RegisterError::OutOfMemory { range, bytes }), None);
            }
        };
        let Ok(mut writer) = state.lock() else { return (Err(RegisterError::Forked), None) };
        let result = writer.register(self.published(state), ranges);
        let mut freed = Freed::nothing();
        let collected = writer.collect(&self.gate, &mut freed, || state.guards.through(), false);
        (result, Some(state.unlock(writer, freed, &collected)))
    }

    /// Removes what was registered as `id`, and says what became of its payload.
    ///
    /// Lookups that begin afterwards do not find it; those under way may go on using the payload, which is let go when
    /// they are done. This does not stop threads that execute the code. O(log n).
    ///
    /// Never fails for lack of memory, and never waits for a reader.
    ///
    /// # Errors
    ///
    /// If there is no such registration, or no longer, or it is another registry's.
    ///
    /// # Panics
    ///
    /// If the destructor of a payload that this call frees panics. The rest is freed first, and the code is
    /// unregistered. Of several panics the first goes on.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock, and may run destructors.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use trapline::{CodeRegistry, Holder, Unregistered};
    ///
    /// static CODE: CodeRegistry<&str> = CodeRegistry::new();
    ///
    /// let id = CODE.register(0x1000..0x2000, Arc::new("fib"))?.leak().unwrap();
    /// assert_eq!(CODE.unregister(id)?, Unregistered::Gone);
    ///
    /// # #[cfg(feature = "snapshot")] {
    /// let id = CODE.register(0x1000..0x2000, Arc::new("fib"))?.leak().unwrap();
    /// let snapshot = CODE.snapshot();
    /// assert_eq!(CODE.unregister(id)?, Unregistered::Held(Holder::Snapshot));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unregister(&self, id: CodeId) -> Result<Unregistered, UnregisterError> {
        let mut panics = Panics::default();
        let result = self.unregister_holding(id, &mut panics);
        panics.go_on();
        result
    }

    fn unregister_holding(&self, id: CodeId, panics: &mut Panics) -> Result<Unregistered, UnregisterError> {
        let missing = UnregisterError::NotRegistered { id };
        let Some(state) = self.state() else { return Err(missing) };
        let (start, number) = id.parts();
        let mut freed = Freed::nothing();
        let mut writer = state.lock().map_err(|_| UnregisterError::Forked)?;
        let guards_through = || state.guards.through();
        let removed = writer.unregister(self.published(state), start, number, &mut freed, guards_through);
        let Some((outcome, collected)) = removed else { return Err(missing) };
        state.unlock(writer, freed, &collected).run_holding(panics);
        Ok(outcome)
    }

    /// Removes what was registered as `id`, waits until nobody sees it any more, and gives its payload back.
    ///
    /// For those who must know, because they are about to reuse what the payload describes: when this returns, no lookup,
    /// guard or snapshot of this registry can lead to the payload, nor is any looking at it. (Clones of the `Arc`, the
    /// caller's own or of [`get_owned`](Self::get_owned), are their owners' business.)
    ///
    /// **This is the one call that waits for readers.** It waits for ever if the calling thread is one of them (it has a
    /// guard or a snapshot of this registry that sees the code, or is inside a closure of a lookup), if one of them waits
    /// for the calling thread, or if one never ends: a snapshot in a `static`, a closure that was left by `longjmp`, a
    /// handler whose thread a `fork` left behind; or if guards of this registry overlap without end while a guard of any
    /// registry stays. It polls, with pauses of up to a millisecond, and holds no lock in
    /// between. Without any memory the code stays registered until there is some.
    ///
    /// # Errors
    ///
    /// As [`unregister`](Self::unregister).
    ///
    /// # Panics
    ///
    /// If the destructor of another payload that this call happens to free panics. The code is unregistered by then, and its
    /// payload dropped.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock, and waits.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use trapline::CodeRegistry;
    ///
    /// static CODE: CodeRegistry<Vec<u8>> = CodeRegistry::new();
    ///
    /// let id = CODE.register(0x1000..0x2000, Arc::new(vec![1, 2, 3]))?.leak().unwrap();
    /// let payload = CODE.unregister_and_wait(id)?;
    /// assert_eq!(Arc::into_inner(payload), Some(vec![1, 2, 3]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unregister_and_wait(&self, id: CodeId) -> Result<Arc<T>, UnregisterError> {
        let mut panics = Panics::default();
        let result = self.wait_until_gone(id, &mut panics);
        if panics.is_any() {
            result.into_iter().for_each(|payload| panics.drop(payload));
            panics.go_on();
            unreachable!("there was a panic")
        }
        result
    }

    fn wait_until_gone(&self, id: CodeId, panics: &mut Panics) -> Result<Arc<T>, UnregisterError> {
        let missing = UnregisterError::NotRegistered { id };
        let Some(state) = self.state() else { return Err(missing) };
        let (start, number) = id.parts();
        let (mut taken, mut round) = (None, 0_u32);
        loop {
            // Forked is an answer of the first round, unless a destructor below forks.
            let mut writer = state.lock().map_err(|_| UnregisterError::Forked)?;
            if taken.is_none() {
                taken = writer.take(self.published(state), start, number).ok_or_else(|| missing.clone())?.ok();
            }
            let mut freed = Freed::nothing();
            let mut collected = writer.collect(&self.gate, &mut freed, || state.guards.through(), true);
            if let Some(waiting) = collected.guarded {
                state.unlock(writer, freed, &collected).run_holding(panics);
                state.guards.follow(waiting);
                writer = state.lock().map_err(|_| UnregisterError::Forked)?;
                freed = Freed::nothing();
                collected = writer.collect(&self.gate, &mut freed, || state.guards.through(), true);
            }
            let gone = taken.take_if(|taken| writer.is_out_of_sight(taken));
            state.unlock(writer, freed, &collected).run_holding(panics);
            if let Some(gone) = gone {
                // SAFETY: payloads of this registry come from an `Arc<T>`; this one was left to us, and nobody sees it.
                return Ok(unsafe { Arc::from_raw(gone.payload.cast::<T>()) });
            }
            sync::pause(round);
            // Weeks of pauses come to the last number: the wait goes on.
            round = round.saturating_add(1);
        }
    }

    /// Frees what can be freed. With no handler inside, and no guard and no snapshot that sees it, that is everything that
    /// was retired before.
    ///
    /// Writes do the same by themselves. This is for what others kept who have gone since.
    ///
    /// Never waits for a reader. Takes time in proportion to what is freed and to the superseded snapshots that are
    /// held. Does nothing in the child of a fork that left the registry locked.
    ///
    /// # Panics
    ///
    /// If the destructor of a payload does; the rest is freed first. Of several panics the first goes on.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock, and runs destructors.
    pub fn reclaim(&self) {
        let mut panics = Panics::default();
        if let (Some(state), Some(waiting)) = (self.state(), self.collect(&mut panics)) {
            // Not under the lock: crossbeam may run what others deferred.
            state.guards.follow(waiting);
            self.collect(&mut panics);
        }
        panics.go_on();
    }

    /// Frees what can be freed as things are. Returns the tick of the newest garbage that guards are in the way of.
    pub(super) fn collect(&self, panics: &mut Panics) -> Option<u64> {
        let state = self.state()?;
        let mut writer = state.lock().ok()?;
        // Without memory, hidden ranges stay until there is some.
        let _ = writer.sweep(self.published(state));
        let mut freed = Freed::nothing();
        let collected = writer.collect(&self.gate, &mut freed, || state.guards.through(), true);
        state.unlock(writer, freed, &collected).run_holding(panics);
        collected.guarded
    }

    /// Counts of what is registered and retired. Constant time.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().map_or(Stats::default(), |state| state.counts.get())
    }

    fn published<'r>(&'r self, state: &'r State<T>) -> Published<'r> {
        Published { gate: &self.gate, roots: &state.roots }
    }

    #[inline]
    fn state(&self) -> Option<&Counted<State<T>>> {
        // Acquire pairs with the exchange in `set_once`: the state is initialised.
        let state = self.state.load(Ordering::Acquire);
        // SAFETY: null, or from `Shared::into_raw`, and the registry has a reference until it is dropped.
        unsafe { state.as_ref() }
    }

    /// The first registration makes the state.
    fn state_or_new(&self) -> Result<&State<T>, NoMemory> {
        // SAFETY: from `Shared::into_raw`, and shared with nobody.
        let discard = |mine| drop(unsafe { Shared::from_raw(mine) });
        let state = sync::set_once(&self.state, || State::new().map(Shared::into_raw), discard)?;
        // SAFETY: from `Shared::into_raw`, and the registry has a reference until it is dropped.
        Ok(unsafe { &*state })
    }
}

/// What is to be registered at once. Codes are dropped by [`CodeRegistry::register_all`], or here if the caller's
/// iterator panics.
struct Batch<T> {
    codes: Vec<(Range<usize>, ManuallyDrop<Arc<T>>)>,
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        let mut panics = ManuallyDrop::new(Panics::default());
        // One panic is under way already: another one is held back for good.
        self.codes.drain(..).for_each(|(_, code)| panics.drop(ManuallyDrop::into_inner(code)));
    }
}

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
        // Acquire pairs with the exchange in `set_once`: the state is initialised.
        let state = self.state.load(Ordering::Acquire);
        if state.is_null() {
            return;
        }
        // SAFETY: from `Shared::into_raw`; this is the registry's reference.
        let state = unsafe { Shared::from_raw(state) };
        let mut panics = Panics::default();
        if close(&state, &mut panics) {
            // Perhaps the last reference: what snapshots kept that have gone meanwhile goes now.
            panics.drop(state);
        } else {
            // Half-way through a write that will never end: what is there cannot be told apart any more.
            core::mem::forget(state);
        }
        panics.go_on();
    }
}

/// Drops what no snapshot sees; false in a child of a fork that left the registry locked.
fn close<T>(state: &State<T>, panics: &mut Panics) -> bool {
    let Ok(mut writer) = state.lock() else { return false };
    let (mut freed, mut unseen) = (Freed::nothing(), Vec::new());
    writer.close(&state.roots, &mut freed, &mut unseen);
    state.unlock(writer, freed, &Collected::default()).run_holding(panics);
    for code in unseen {
        // SAFETY: payloads of this registry come from an `Arc<T>`; nobody sees or owns these any more.
        panics.drop(unsafe { Arc::from_raw(code.cast::<T>()) });
    }
    true
}
