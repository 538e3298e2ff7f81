//! Installing our handler.
//!
//! The action that is there is queried and published *before* ours is installed: a signal that arrives in between finds
//! it. If the action changes in that moment, the kernel returns another one when ours is installed, and that is
//! published in front of it.

use super::handle::handle_signal;
use super::old_actions::{self, Action, Id, LONGEST, MOST_HANDLERS, Slot};
use super::{chain, library};
use std::ffi::{c_int, c_void};
use std::{fmt, io, mem, ops, ptr};

/// A set of the signals that processors' traps arrive as.
///
/// # Examples
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
    /// `SIGBUS`: a mapped file that is too short, misaligned accesses.
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

    /// The empty set.
    #[must_use]
    pub const fn empty() -> Self {
        Signals(0)
    }

    /// All four signals.
    #[must_use]
    pub const fn all() -> Self {
        Signals(15)
    }

    /// Whether all of `other` are in this set.
    #[must_use]
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
/// Idempotent, and safe to call from several threads. Called again after other code set an action of its own, it puts
/// ours back in front: signals that are no traps go to that code's handler, and if it passes them on to ours, to the
/// action that was there before. A ring of handlers therefore ends, and its last member is the default action, as long as each passes on
/// the context that it got. [`installed`] tells whether there is anything to put back.
///
/// If an old handler sets another action while it runs, that action takes its place and ours stays installed. (Rust's
/// standard library sets the default. For the moment between, traps of other threads are not caught.) A handler that
/// leaves by a jump instead of returning leaves the action as it set it.
///
/// A shared library that this crate is part of is not unloaded any more: `dlclose` keeps it.
///
/// It takes no lock and allocates nothing. A child of `fork` has the handlers of its parent and may install more,
/// whatever other threads of the parent were doing.
///
/// # Errors
///
/// The operating system's; or that a signal has had too many different handlers (6, and 60 in all). Signals that were
/// installed before the failing one stay so.
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
/// Not for handlers: changes signal actions.
///
/// # Examples
///
/// See the [module's documentation](super).
pub unsafe fn install(signals: Signals) -> io::Result<()> {
    library::keep_loaded()?;
    for (signal, signum, _) in Signals::EACH {
        if let Some(slot) = old_actions::slot(signum)
            && signals.contains(signal)
        {
            put_in_front(signum, slot)?;
        }
    }
    Ok(())
}

/// The signals whose current action is our handler.
///
/// Traps that arrive as another signal are caught only if its handler passes on to ours, or calls
/// [`handle_signal`](super::handle_signal). Another library, or the standard library's handler, may change an action at
/// any time: [`install`] puts ours back. One system call for each signal.
///
/// # Signal safety
///
/// Async-signal-safe.
///
/// # Examples
///
/// ```standalone_crate
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

/// Why our handler is not installed. Made in handlers, too, so nothing is allocated.
pub(super) enum Refused {
    System(c_int),
    NoRoom,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::System(code) => io::Error::from_raw_os_error(code),
            Refused::NoRoom => io::Error::other(format!(
                "the signal's handlers cannot be kept: at most {LONGEST} different ones for each signal, and \
                 {MOST_HANDLERS} in all"
            )),
        }
    }
}

/// Makes our handler the signal's action, and what is its action now the first that signals are passed on to.
///
/// In handlers, too: what they call changes actions.
pub(super) fn put_in_front(signum: c_int, slot: &Slot) -> Result<(), Refused> {
    // Before the query: if another thread publishes what it found later, what we found is out of date.
    let mut seen = slot.load();
    let mut current = exchange(signum, None)?;
    let mut replaced = false;
    while !is_ours(&current) {
        let chain = Id::of(&Action::new(&current)).and_then(|id| seen.chain().with_first(id));
        let Some(chain) = chain else {
            if replaced {
                exchange(signum, Some(&current))?;
            }
            return Err(Refused::NoRoom);
        };
        if !slot.replace(seen, chain) {
            seen = slot.load();
            // Only this call knows what ours replaced.
            if !replaced {
                current = exchange(signum, None)?;
            }
            continue;
        }
        let before = Action::new(&current);
        current = match exchange(signum, Some(&ours(&current))) {
            Ok(current) => current,
            Err(refused) => {
                let now = slot.load();
                if now.chain() == chain {
                    slot.replace(now, seen.chain());
                }
                return Err(refused);
            }
        };
        if Action::new(&current) == before {
            break;
        }
        // It changed since the query. Once more, for the chain and for our flags.
        seen = slot.load();
        replaced = true;
    }
    Ok(())
}

/// Our action, in the place of `old`.
fn ours(old: &libc::sigaction) -> libc::sigaction {
    // SAFETY: all zeroes is a valid value: no flags, an empty mask.
    let mut ours: libc::sigaction = unsafe { mem::zeroed() };
    ours.sa_sigaction = on_signal as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // Ignored signals interrupt nothing.
    if old.sa_flags & libc::SA_RESTART != 0 || old.sa_sigaction == libc::SIG_IGN {
        ours.sa_flags |= libc::SA_RESTART;
    }
    ours
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_signal as *const () as usize
}

/// The signal's current action.
pub(super) fn query(signum: c_int) -> Result<Action, Refused> {
    exchange(signum, None).map(|action| Action::new(&action))
}

fn exchange(signum: c_int, new: Option<&libc::sigaction>) -> Result<libc::sigaction, Refused> {
    // SAFETY: all zeroes is a valid value to be overwritten.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both structures are valid; the caller of `install` answers for the handler.
    match unsafe { libc::sigaction(signum, new, &mut old) } {
        0 => Ok(old),
        // SAFETY: the C library's variable of this thread.
        _ => Err(Refused::System(unsafe { *libc::__errno_location() })),
    }
}

unsafe extern "C" fn on_signal(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel calls this, with these arguments, on the interrupted thread; it returns to the kernel.
    unsafe {
        if !handle_signal(signum, info.cast(), context) {
            chain::pass_on(signum, info, context);
        }
    }
}
