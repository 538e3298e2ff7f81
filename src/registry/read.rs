//! The ways to look up.

#[cfg(feature = "guard")]
use super::Guard;
#[cfg(feature = "snapshot")]
use super::Snapshot;
use super::{CodeRegistry, Found, View};
use crate::handler::node;
#[cfg(feature = "snapshot")]
use crate::sync::{Ordering, Shared};
use alloc::sync::Arc;

impl<T: Send + Sync + 'static> CodeRegistry<T> {
    /// Finds the range that holds `pc`, and calls `f` with it: the lookup for signal handlers.
    ///
    /// O(log n), wait-free where fetch-and-add is one instruction. What `f` is given stays alive until it returns.
    /// `f` is called in the gate: while it runs, what was registered when the lookup began is not freed. A panic that
    /// unwinds through `with` leaves the gate. A `longjmp` or any other jump out of `f` does not: the registry keeps what
    /// this lookup saw for ever, and from some such jumps on *everything* that is retired later. Copy the answer out,
    /// return, then jump.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe, if `f` is.
    ///
    /// On any thread, at any instruction: it takes no lock, allocates and frees nothing, makes no system call, uses no
    /// thread-local storage, runs no destructor, and does not panic. Lookups may be nested. Its own accesses are aligned:
    /// it may interrupt code that has the processor check that (`EFLAGS.AC`), if it is compiled with optimisation and `f`
    /// does the same.
    #[inline(always)]
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub fn with<R>(&self, pc: usize, f: impl for<'a> FnOnce(Found<'a, T>) -> R) -> Option<R> {
        let (_inside, root) = self.gate.enter();
        // SAFETY: the nodes below the root, and their payloads, are not freed before `_inside` is dropped (N4). A payload
        // of this registry is a T, and `f` cannot let it escape.
        unsafe { node::find(root, pc).map(|entry| f(Found::new(pc, entry))) }
    }

    /// Calls `f` with a view of the registry, for many lookups in a row: the stack walk of a signal handler.
    ///
    /// As [`with`](Self::with), but the gate is entered once, and all lookups see the registry as of that moment. What
    /// is said there of `f` holds here: while it runs, what the view sees is not freed, and it must return.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe, if `f` is.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use trapline::CodeRegistry;
    ///
    /// static CODE: CodeRegistry<&str> = CodeRegistry::new();
    ///
    /// let _fib = CODE.register(0x1000..0x1400, Arc::new("fib"))?;
    /// let _main = CODE.register(0x2000..0x2100, Arc::new("main"))?;
    /// let stack = [0x1234, 0x1300, 0x2010, 0x9999];
    /// let guests = CODE.view(|view| stack.iter().take_while(|pc| view.get(**pc).is_some()).count());
    /// assert_eq!(guests, 3);
    /// # Ok::<(), trapline::RegisterError>(())
    /// ```
    ///
    /// What is found stays inside:
    ///
    /// ```compile_fail
    /// # static CODE: trapline::CodeRegistry<&str> = trapline::CodeRegistry::new();
    /// let escaped = CODE.view(|view| view.get(0x1000));
    /// ```
    #[inline(always)]
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub fn view<R>(&self, f: impl for<'a> FnOnce(View<'a, T>) -> R) -> R {
        let (_inside, root) = self.gate.enter();
        // SAFETY: the nodes below the root, and their payloads, are not freed before `_inside` is dropped (N4). A payload
        // of this registry is a T, and `f` cannot let the view escape.
        f(unsafe { View::new(root) })
    }

    /// Finds the range that holds `pc`, and gives its payload to keep, and the offset of `pc` in the range, in bytes.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: dropping an `Arc` may free.
    #[must_use]
    pub fn get_owned(&self, pc: usize) -> Option<(Arc<T>, usize)> {
        self.with(pc, |found| (found.to_arc(), found.offset()))
    }

    /// Pins the calling thread, for many lookups in a row.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: the first pin of a thread allocates, and any may run what others deferred.
    #[cfg(feature = "guard")]
    #[must_use]
    pub fn pin(&self) -> Guard<'_, T> {
        let pin = crate::sync::epoch::pin();
        let counted = self.gate.count_guard();
        if let Some(state) = self.state()
            && let Some(tick) = state.guards.waiting()
        {
            state.guards.defer(tick, &pin);
        }
        Guard::new(self, counted, pin)
    }

    /// The registry as it is now, to keep.
    ///
    /// Constant time; takes no lock. A snapshot that is taken after a lookup is never older than what that found.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: arc-swap allocates when a thread first uses it.
    #[cfg(feature = "snapshot")]
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<T> {
        let Some(state) = self.state() else { return Snapshot::empty() };
        let Some(root) = state.roots.load() else { return Snapshot::empty() };
        // Acquire as in `state`. The registry has a reference until it is dropped.
        // SAFETY: from `Shared::into_raw`, and not null, since there is a state.
        Snapshot::new(root, unsafe { Shared::share(self.state.load(Ordering::Acquire)) })
    }
}
