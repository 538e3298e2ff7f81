//! The process-wide registry of code memory.
//!
//! [`register_code`] takes the range from the memory itself, so that safe code cannot make a handler believe that
//! somebody else's addresses hold guest code.

use std::sync::Arc;

use super::allocate::{self, OutOfMemory};
use super::memory::CodeMemory;
use super::registered::RegisteredCode;
use crate::handler::trap_code::TrapCode;
use crate::registry::{
    CodeId, CodeRegistry, Found, RegisterError, Registration, Snapshot, Stats, UnregisterError, Unregistered, View,
};

/// Constant-initialised: a handler may be the first caller ever.
static CODE: CodeRegistry<RegisteredCode> = CodeRegistry::new();

/// Makes `code` known to the whole process, signal handlers included, until the registration is dropped.
///
/// The range is [`CodeMemory::text_range`]. Code without text is registered nowhere, successfully. The registry keeps
/// the memory mapped while a lookup may still see it, even after the registration and every other `Arc` are gone.
///
/// O(log n).
///
/// # Errors
///
/// A [`RegisterError`], with nothing registered: for instance if this memory is registered already.
///
/// # Signal safety
///
/// Not for handlers: allocates and takes the writers' lock.
pub fn register_code(code: Arc<CodeMemory>) -> Result<CodeRegistration, RegisterError> {
    let range = code.text_range();
    match allocate::arc(RegisteredCode::shared(code)) {
        Ok(code) => register(code),
        Err(OutOfMemory { bytes }) => Err(RegisterError::OutOfMemory { range, bytes }),
    }
}

/// As [`register_code`], for a private copy.
pub(crate) fn register_private_copy(code: Arc<RegisteredCode>) -> Result<CodeRegistration, RegisterError> {
    register(code)
}

fn register(code: Arc<RegisteredCode>) -> Result<CodeRegistration, RegisterError> {
    CODE.register(code.text_range(), code).map(CodeRegistration)
}

/// Where the registered range that `pc` lies in starts.
pub(crate) fn start_of_code(pc: usize) -> Option<usize> {
    CODE.with(pc, |found| found.range().start)
}

/// Keeps code known to the process; see [`register_code`].
///
/// Dropping it hides the code from later lookups. It stops no thread that executes the code: keep the
/// [`CodeMemory`] alive until none does.
#[must_use = "dropping the registration unregisters the code"]
pub struct CodeRegistration(Registration<'static, RegisteredCode>);

impl CodeRegistration {
    /// The id that lookups report for this code, or `None` for code without text.
    #[must_use]
    pub fn id(&self) -> Option<CodeId> {
        self.0.id()
    }

    /// Hides the code from later lookups, and says whether anybody may still see it. If nobody does, the registry has let
    /// go of the memory when this returns.
    ///
    /// # Errors
    ///
    /// If this process was forked while another thread of its parent was writing to the registry.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes the writers' lock, and may unmap.
    pub fn unregister(self) -> Result<Unregistered, UnregisterError> {
        self.0.unregister()
    }

    /// Hides the code from later lookups, and waits until nobody sees it any more; see
    /// [`CodeRegistry::unregister_and_wait`], and there what would make it wait for ever. `None` for code without text.
    ///
    /// The memory is unmapped when the result is dropped, unless there are other `Arc`s of it.
    ///
    /// # Errors
    ///
    /// As [`unregister`](Self::unregister).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: waits.
    pub fn unregister_and_wait(self) -> Result<Option<Arc<RegisteredCode>>, UnregisterError> {
        self.0.leak().map(|id| CODE.unregister_and_wait(id)).transpose()
    }

    /// Leaves the code registered for the rest of the process.
    pub fn leak(self) -> Option<CodeId> {
        self.0.leak()
    }
}

impl std::fmt::Debug for CodeRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CodeRegistration").field(&self.id()).finish()
    }
}

/// Calls `f` with the registered code that `pc`, an absolute address, lies in, and the offset in its text.
///
/// `f` borrows the code for its own time only, and must return: copy the answer out, and jump elsewhere afterwards.
///
/// O(log n).
///
/// # Signal safety
///
/// Async-signal-safe, if `f` is.
pub fn lookup_code<R>(pc: usize, f: impl for<'a> FnOnce(Found<'a, RegisteredCode>) -> R) -> Option<R> {
    CODE.with(pc, f)
}

/// Calls `f` with a view of all registered code, for many lookups in a row; see [`CodeRegistry::view`].
///
/// # Signal safety
///
/// Async-signal-safe, if `f` is.
pub fn code_view<R>(f: impl for<'a> FnOnce(View<'a, RegisteredCode>) -> R) -> R {
    CODE.view(f)
}

/// Why the instruction at `pc`, an absolute address, traps, if it is a trap site of registered code.
///
/// O(log n + log t) for n registered ranges and t trap sites in the range found.
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn lookup_trap_code(pc: usize) -> Option<TrapCode> {
    CODE.with(pc, |found| found.payload().trap_code(found.offset()))?
}

/// Whether the instruction at `pc`, an absolute address, is a trap site of registered code.
///
/// As fast as [`lookup_trap_code`].
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn is_trap_pc(pc: usize) -> bool {
    lookup_trap_code(pc).is_some()
}

/// The registered code that `pc`, an absolute address, lies in, to keep, and the offset in its text.
///
/// Keeps the memory mapped, not registered. O(log n).
///
/// # Signal safety
///
/// Not for handlers: dropping the `Arc` may unmap. They have [`lookup_code`].
#[must_use]
pub fn find_code(pc: usize) -> Option<(Arc<RegisteredCode>, usize)> {
    CODE.get_owned(pc)
}

/// All registered code as it is now, to iterate or to keep; see [`CodeRegistry::snapshot`].
///
/// # Signal safety
///
/// Not for handlers: it may take a lock, and the first use of a thread allocates.
#[must_use]
pub fn code_snapshot() -> Snapshot<RegisteredCode> {
    CODE.snapshot()
}

/// Counts of what is registered, and of what was unregistered and is not freed yet.
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn code_stats() -> Stats {
    CODE.stats()
}

/// Frees what was unregistered and no lookup can see any more, and tries once more to unmap what the operating system
/// refused to: see [`code_memory_stats`](crate::code_memory_stats).
///
/// # Signal safety
///
/// Not for handlers: unmaps memory.
pub fn reclaim_code() {
    CODE.reclaim();
    #[cfg(unix)]
    super::leftover::retry(usize::MAX);
}
