//! Signals that are not ours get what the action before ours would have done. Read the rules in the module's
//! documentation first.
//!
//! What the kernel does for a handler besides calling it, we do in its place: the mask while it runs, the reset of a
//! one-shot handler. What it does by itself cannot be imitated: a handler without `SA_ONSTACK` now runs on the
//! alternate stack if the thread has one. Nothing of ours is pending while the old handler runs, so it may leave by
//! `siglongjmp`, and it may edit the context.
//!
//! # An old handler that sets the action
//!
//! That of Rust's standard library sets the default and returns, so that a fault kills when it comes again; but what
//! was merely sent does not come again. Such a change means what it would mean without us: the new action takes the old
//! handler's place *after* ours, which is put back at once.
//!
//! # An old handler that passes on to us
//!
//! Then the signal goes to the next action of the chain ([`super::old_actions`]), and after the last it kills. Which is
//! next is kept in a [`Passing`] in our frame, which the interrupted context links to while the old handler runs: in
//! `uc_link`, which the kernel clears in each signal frame and does not read when the handler returns. That needs no
//! thread-local, and if the old handler leaves by a jump, it vanishes with the signal's frame.
//!
//! The old handler may be that of another copy of this crate, in a shared library. A copy that has no action left
//! returns and tells the call around it, which goes on with its own; the outermost kills.

use super::handle::{is_fault, is_forced};
use super::install::{put_in_front, query};
use super::old_actions::{self, Action, Chain, Slot};
use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::mem;
use std::ptr;

/// Does what the old action would have done.
///
/// # Safety
///
/// The three arguments are what the kernel passed to our handler, which returns afterwards.
pub(super) unsafe fn pass_on(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(slot) = old_actions::slot(signum) else { return };
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the C library's variable of this thread.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel's arguments.
    unsafe {
        let around = Passing::all_around(context).find(|passing| passing.is_of(slot));
        let mut chain = around.map_or_else(|| slot.load().chain(), |passing| passing.rest.get());
        loop {
            let Some(id) = chain.first() else {
                // A handler that passes the signal on through us may have more actions.
                if let Some(passing) = around {
                    passing.rest.set(Chain::EMPTY);
                }
                match Passing::all_around(context).next() {
                    Some(passing) => passing.unanswered.set(1),
                    None => die(signum, info, context.cast()),
                }
                break;
            };
            let action = id.action();
            if action.is_handler() && (action.flags & libc::SA_RESETHAND == 0 || slot.spend(id)) {
                let before = query(signum).ok();
                let passing = Passing::new((*context).uc_link.cast(), slot, chain.rest());
                (*context).uc_link = ptr::from_ref(&passing).cast_mut().cast();
                call(action, signum, info, context);
                (*context).uc_link = passing.outer.cast_mut().cast();
                if query(signum).ok() != before {
                    // What cannot be kept stays in force: `installed` tells.
                    let _ = put_in_front(signum, slot);
                }
                if passing.unanswered.get() != 0 {
                    chain = passing.rest.get();
                    continue;
                }
            } else if action.handler != libc::SIG_IGN || is_forced(signum, info) {
                // A fault that is ignored would repeat for ever: the kernel kills for it, and so do we.
                die(signum, info, context.cast());
            }
            break;
        }
    }
    // SAFETY: the C library's variable of this thread, once more.
    unsafe { *libc::__errno_location() = errno };
}

/// One call of an old handler that has not returned.
///
/// In all versions of this crate the same, since two in one process may pass on to each other.
#[repr(C)]
struct Passing {
    mark: u64,
    /// What the context linked to before.
    outer: *const Passing,
    /// Whose chain `rest` is part of: of which signal, of which copy of this crate.
    slot: *const Slot,
    /// The actions after the one that was called, unless they were called, too, by a call inside.
    rest: Cell<Chain>,
    /// Not 0 if the signal came back to a copy of this crate that had no action left for it.
    unanswered: Cell<u64>,
}

impl Passing {
    const MARK: u64 = u64::from_le_bytes(*b"trapline");

    fn new(outer: *const Passing, slot: &Slot, rest: Chain) -> Self {
        Passing { mark: Passing::MARK, outer, slot, rest: Cell::new(rest), unanswered: Cell::new(0) }
    }

    fn is_of(&self, slot: &Slot) -> bool {
        ptr::eq(self.slot, slot)
    }

    /// The calls that the signal with this context is passing through, from the innermost.
    ///
    /// # Safety
    ///
    /// `context` is what the kernel passed to a handler of this thread that has not returned.
    unsafe fn all_around<'a>(context: *const libc::ucontext_t) -> impl Iterator<Item = &'a Passing> {
        let here = 0_u8;
        // The stack between this frame and the context: outer calls have higher addresses.
        let (mut low, high) = ((&raw const here).addr(), context.addr().saturating_sub(size_of::<Passing>()));
        // SAFETY: the caller's.
        let mut next: *const Passing = unsafe { (*context).uc_link }.cast_const().cast();
        std::iter::from_fn(move || {
            if next.addr() <= low || next.addr() > high || !next.is_aligned() {
                return None;
            }
            low = next.addr();
            // SAFETY: aligned, and within the part of this thread's stack that is in use. Any bytes are a valid value.
            let passing = unsafe { &*next };
            next = passing.outer;
            // Only a `pass_on` that has not returned leaves its mark: it takes its link away before it does.
            (passing.mark == Passing::MARK).then_some(passing)
        })
    }
}

/// # Safety
///
/// As for [`pass_on`], and the action is a handler.
unsafe fn call(action: Action, signum: c_int, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let handler = action.handler as *const ();
    // SAFETY: the kernel's context.
    let mut wanted = unsafe { first_word(&(*context).uc_sigmask) } | action.mask;
    if action.flags & libc::SA_NODEFER == 0 {
        wanted |= 1_u64 << (signum.wrapping_sub(1) & 63);
    }
    let previous = set_mask(wanted);
    // SAFETY: the handler was installed as one that can be called, and its flags say which of the two kinds it is.
    unsafe {
        if action.flags & libc::SA_SIGINFO != 0 {
            type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            mem::transmute::<*const (), Handler>(handler)(signum, info, context.cast());
        } else {
            mem::transmute::<*const (), unsafe extern "C" fn(c_int)>(handler)(signum);
        }
    }
    set_mask(previous);
}

/// The 64 signals that the kernel knows. In the context, what follows them is not part of the set.
///
/// # Safety
///
/// At least 8 bytes are readable there.
unsafe fn first_word(set: *const libc::sigset_t) -> u64 {
    // SAFETY: the caller's; the type is made of words, so it is aligned.
    unsafe { set.cast::<u64>().read() }
}

fn set_mask(word: u64) -> u64 {
    // SAFETY: all zeroes is the empty set, of which the first word is then set; async-signal-safe calls.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        let mut previous: libc::sigset_t = mem::zeroed();
        ptr::from_mut(&mut set).cast::<u64>().write(word);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, &mut previous);
        first_word(&previous)
    }
}

/// The default action of our four signals: the process dies of it, with a core dump where enabled.
///
/// It happens after our handler returned, so that the core shows the interrupted instruction. (If an old handler passed
/// on to us, the call around that puts our handler back, with the default after it, and the signal comes once more.)
///
/// # Safety
///
/// As for [`pass_on`].
unsafe fn die(signum: c_int, info: *mut libc::siginfo_t, context: *const libc::ucontext_t) {
    // SAFETY: the kernel's arguments; all zeroes is an empty mask, no flags, and `SIG_DFL`; async-signal-safe calls.
    unsafe {
        // Not what C libraries remember, which is another's in a child of `vfork` or `clone`.
        let (process, thread) = (system_call(libc::SYS_getpid, [0; 4]), system_call(libc::SYS_gettid, [0; 4]));
        // The first process of a container does not die of what is sent to it. The kernel drops that.
        let is_init = process == 1;
        if is_init && !is_forced(signum, info) {
            return;
        }
        let default: libc::sigaction = mem::zeroed();
        libc::sigaction(signum, &default, ptr::null_mut());
        // The fault may not come again: the kernel makes some up, and another thread may repair what caused it. So
        // the signal is sent. It is blocked while our handler runs, and stays pending until the kernel restores the
        // mask. With the original's information if the kernel lets us.
        let (number, address) = (c_long::from(signum), info.expose_provenance() as c_long);
        if system_call(libc::SYS_rt_tgsigqueueinfo, [process, thread, number, address]) != 0 {
            system_call(libc::SYS_tgkill, [process, thread, number, 0]);
        }
        // What is sent is dropped here, too, and only an instruction that faults again kills.
        if is_init && !is_fault(signum, info, context.cast()) {
            system_call(libc::SYS_exit_group, [number.wrapping_add(128), 0, 0, 0]);
        }
    }
}

/// One call in one place, which `verification/reachable` can follow: of several, the compiler makes calls of a register.
///
/// # Safety
///
/// The system call may be made with these arguments.
#[inline(never)]
unsafe fn system_call(number: c_long, arguments: [c_long; 4]) -> c_long {
    let [a, b, c, d] = arguments;
    // SAFETY: the caller's.
    unsafe { libc::syscall(number, a, b, c, d) }
}
