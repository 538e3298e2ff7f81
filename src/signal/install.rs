//! Installing our handler.
//!
//! The old action is queried and published *before* ours is installed: a signal that arrives in between finds it. If
//! somebody changed the action in that moment, the kernel returns another one when ours is installed, and that is
//! published in its place.

use super::chain::{self, OldAction, Slot};
use super::handle::handle_signal;
use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io, mem, ops, ptr};

/// A set of the signals that processors' traps arrive as.
///
/// ```
/// use trapline::signal::Signals;
///
/// let signals = Signals::SEGV | Signals::BUS;
/// assert!(signals.contains(Signals::SEGV));
/// assert!(!signals.contains(Signals::all()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signals(u8);

impl Signals {
    /// `SIGSEGV`: inaccessible memory.
    pub const SEGV: Signals = Signals(1);
    /// `SIGBUS`: memory without anything behind it, misaligned accesses.
    pub const BUS: Signals = Signals(2);
    /// `SIGILL`: invalid instructions, `ud2`.
    pub const ILL: Signals = Signals(4);
    /// `SIGFPE`: integer division by zero or with overflow.
    pub const FPE: Signals = Signals(8);

    const EACH: [(Signals, c_int, &'static str); 4] = [
        (Signals::SEGV, libc::SIGSEGV, "SEGV"),
        (Signals::BUS, libc::SIGBUS, "BUS"),
        (Signals::ILL, libc::SIGILL, "ILL"),
        (Signals::FPE, libc::SIGFPE, "FPE"),
    ];

    /// None of them.
    pub const fn empty() -> Self {
        Signals(0)
    }

    /// All four.
    pub const fn all() -> Self {
        Signals(15)
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Signals) -> bool {
        self.0 & other.0 == other.0
    }
}

impl ops::BitOr for Signals {
    type Output = Signals;

    fn bitor(self, other: Signals) -> Signals {
        Signals(self.0 | other.0)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Signals::EACH.iter().filter(|each| self.contains(each.0)).map(|each| each.2);
        f.debug_set().entries(names).finish()
    }
}

/// Installs the handler that catches traps, process-wide and for good.
///
/// Signals that are no traps get what the action before ours would have done. Its handler is called with its own
/// flags and mask respected, except for `SA_ONSTACK`: it runs on the alternate stack if the thread has one. (Rust's
/// standard library gives its threads a small one; [`prepare_thread`](super::prepare_thread) replaces it by a larger.)
/// Interrupted system calls are restarted if they were before.
///
/// Idempotent, and safe to call from several threads. A signal is installed once: if somebody else replaced our
/// handler since, it stays replaced (they may be passing signals on to us).
///
/// # Errors
///
/// The operating system's. Signals that were installed before the failing one stay so.
///
/// # Safety
///
/// - Nothing in the process relies on getting these signals before this crate does, or on being the current action.
/// - The handlers installed so far stay callable for ever; what `sigaction` tells about them stays true.
/// - From now on a trap in registered code ends the `catch_trap` that it happens in: code is registered with a true
///   trap table.
///
/// # Signal safety
///
/// Not for signal handlers.
///
/// # Examples
///
/// See the [module's documentation](super).
pub unsafe fn install(signals: Signals) -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for (signal, signum, _) in Signals::EACH {
        if let Some(slot) = chain::slot(signum)
            && signals.contains(signal)
        {
            install_one(signum, slot)?;
        }
    }
    Ok(())
}

/// The signals whose current action is our handler.
///
/// Traps that arrive as another signal are caught only if its handler passes on to ours, or calls
/// [`handle_signal`](super::handle_signal). Another library, or the standard library's handler, may change an action at
/// any time: [`install`] puts ours back.
///
/// # Signal safety
///
/// Async-signal-safe: one system call for each signal.
///
/// # Examples
///
/// ```
/// use trapline::signal::{Signals, install, installed};
///
/// assert_eq!(installed(), Signals::empty());
/// // SAFETY: nothing else in this program relies on these signals.
/// unsafe { install(Signals::SEGV | Signals::ILL)? };
/// assert_eq!(installed(), Signals::SEGV | Signals::ILL);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn installed() -> Signals {
    let each = Signals::EACH.iter().filter(|each| exchange(each.1, None).is_ok_and(|action| is_ours(&action)));
    each.fold(Signals::empty(), |all, each| all | each.0)
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_signal as *const () as usize
}

/// Only under the lock.
fn install_one(signum: c_int, slot: &Slot) -> io::Result<()> {
    // Relaxed: the lock orders us after the store of an earlier call.
    if !slot.load(Ordering::Relaxed).is_null() {
        return Ok(());
    }
    let old = exchange(signum, None)?;
    publish(slot, old);

    // SAFETY: all zeroes is a valid value: no flags, an empty mask.
    let mut ours: libc::sigaction = unsafe { mem::zeroed() };
    ours.sa_sigaction = on_signal as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // Ignored signals interrupt nothing.
    if old.sa_flags & libc::SA_RESTART != 0 || old.sa_sigaction == libc::SIG_IGN {
        ours.sa_flags |= libc::SA_RESTART;
    }
    let replaced = match exchange(signum, Some(&ours)) {
        Ok(replaced) => replaced,
        Err(error) => {
            // Relaxed: our handler is not installed, nobody reads this but the next call, under the lock.
            slot.store(ptr::null_mut(), Ordering::Relaxed);
            return Err(error);
        }
    };
    if replaced.sa_sigaction != old.sa_sigaction || replaced.sa_flags != old.sa_flags {
        publish(slot, replaced);
    }
    Ok(())
}

fn publish(slot: &Slot, old: libc::sigaction) {
    // Release: pairs with the Acquire load in `chain::pass_on`; what it points at is complete. Leaked: a handler may
    // use it at any later time.
    slot.store(Box::into_raw(Box::new(OldAction::new(old))), Ordering::Release);
}

fn exchange(signum: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: all zeroes is a valid value to be overwritten.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both structures are valid; the caller of `install` answers for the handler.
    match unsafe { libc::sigaction(signum, new, &mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}

unsafe extern "C" fn on_signal(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel calls this, with these arguments, on the interrupted thread; it returns to the kernel.
    unsafe {
        if !handle_signal(signum, info, context) {
            chain::pass_on(signum, info, context);
        }
    }
}
