//! Signals that are not ours get what the action before ours would have done. Read the rules in the module's
//! documentation first.
//!
//! What the kernel does for a handler besides calling it, we do in its place: the mask while it runs, the reset of a
//! one-shot handler. What it does by itself cannot be imitated: a handler without `SA_ONSTACK` now runs on the
//! alternate stack if the thread has one. Nothing of ours is pending while the old handler runs, so it may leave by
//! `siglongjmp`, and it may edit the context.

use super::handle::is_fault;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The action a signal had before ours, for ever.
pub(super) struct OldAction {
    action: libc::sigaction,
    /// A `SA_RESETHAND` handler ran: the signal's action is the default from then on.
    spent: AtomicBool,
}

impl OldAction {
    pub(super) fn new(action: libc::sigaction) -> Self {
        OldAction { action, spent: AtomicBool::new(false) }
    }
}

/// Null until `install` replaced the action; afterwards a leaked box.
pub(super) type Slot = AtomicPtr<OldAction>;

static SEGV: Slot = Slot::new(ptr::null_mut());
static BUS: Slot = Slot::new(ptr::null_mut());
static ILL: Slot = Slot::new(ptr::null_mut());
static FPE: Slot = Slot::new(ptr::null_mut());

pub(super) fn slot(signum: c_int) -> Option<&'static Slot> {
    match signum {
        libc::SIGSEGV => Some(&SEGV),
        libc::SIGBUS => Some(&BUS),
        libc::SIGILL => Some(&ILL),
        libc::SIGFPE => Some(&FPE),
        _ => None,
    }
}

/// Does what the old action would have done.
///
/// # Safety
///
/// The three arguments are what the kernel passed to our handler, which returns afterwards.
pub(super) unsafe fn pass_on(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the C library's variable of this thread.
    let errno = unsafe { *libc::__errno_location() };
    // Acquire: pairs with the Release store in `install`, which happens before our handler is installed; makes the
    // box's contents visible.
    let old = slot(signum).map_or(ptr::null_mut(), |slot| slot.load(Ordering::Acquire));
    // SAFETY: null or a leaked box.
    let old = unsafe { old.as_ref() };
    // SAFETY: the kernel's arguments.
    unsafe {
        match old {
            Some(old) if old.is_handler() && old.may_run() => old.call(signum, info, context),
            // A fault that is ignored would repeat for ever: the kernel kills for it, and so do we.
            Some(old) if old.action.sa_sigaction == libc::SIG_IGN && !is_fault(signum, info) => {}
            _ => die(signum, info),
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

impl OldAction {
    fn is_handler(&self) -> bool {
        !matches!(self.action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
    }

    /// False from the second call on, over all threads, if the handler is one-shot.
    fn may_run(&self) -> bool {
        // Relaxed: the read-modify-write alone elects the one caller; nothing is published with it.
        self.action.sa_flags & libc::SA_RESETHAND == 0 || !self.spent.swap(true, Ordering::Relaxed)
    }

    /// # Safety
    ///
    /// As for [`pass_on`], and the action is a handler.
    unsafe fn call(&self, signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let flags = self.action.sa_flags;
        let handler = self.action.sa_sigaction as *const ();
        // SAFETY: the kernel's context; a set is as many bits as it has bytes, of which the kernel knows 64.
        let wanted = unsafe {
            let mut wanted = first_word(&(*context.cast::<libc::ucontext_t>()).uc_sigmask);
            wanted |= first_word(&self.action.sa_mask);
            if flags & libc::SA_NODEFER == 0 {
                wanted |= 1_u64 << (signum.wrapping_sub(1) & 63);
            }
            wanted
        };
        let previous = set_mask(wanted);
        // SAFETY: whoever installed the handler answered for it, and said by its flags which of the two kinds it is.
        unsafe {
            if flags & libc::SA_SIGINFO != 0 {
                let handler = mem::transmute::<*const (), unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(
                    handler,
                );
                handler(signum, info, context);
            } else {
                let handler = mem::transmute::<*const (), unsafe extern "C" fn(c_int)>(handler);
                handler(signum);
            }
        }
        set_mask(previous);
    }
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
/// It happens after our handler returned, so that the core shows the interrupted instruction.
///
/// # Safety
///
/// As for [`pass_on`].
unsafe fn die(signum: c_int, info: *mut libc::siginfo_t) {
    // SAFETY: all zeroes is an empty mask, no flags, and `SIG_DFL`; async-signal-safe calls.
    unsafe {
        let default: libc::sigaction = mem::zeroed();
        libc::sigaction(signum, &default, ptr::null_mut());
        if is_fault(signum, info) {
            // The instruction runs again, and faults again.
            return;
        }
        // Blocked while our handler runs, so it stays pending until the kernel restores the mask. With the original's
        // information if the kernel lets us (it does not for some that it made up itself).
        let (process, thread) = (libc::getpid(), libc::gettid());
        if libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signum, info) != 0 {
            libc::syscall(libc::SYS_tgkill, process, thread, signum);
        }
    }
}
