//! Handlers that were there before ours, what they were told, and ways to cause their signals.

use super::load;
use super::machine::{SKIPPED, pc, set_pc};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::{mem, ptr};
use trapline::TrapCode;

pub const FOUR: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

pub fn set_action(signum: c_int, handler: usize, flags: c_int, mask: &[c_int]) {
    // SAFETY: the tests' handlers are of the kind that their flags say.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        for &signum in mask {
            libc::sigaddset(&mut action.sa_mask, signum);
        }
        assert_eq!(libc::sigaction(signum, &action, ptr::null_mut()), 0);
    }
}

pub fn action_of(signum: c_int) -> libc::sigaction {
    // SAFETY: queries into a valid structure.
    unsafe {
        let mut action = mem::zeroed();
        assert_eq!(libc::sigaction(signum, ptr::null(), &mut action), 0);
        action
    }
}

/// The first 64 signals of this thread's mask; bit 0 is signal 1.
pub fn mask() -> u64 {
    // SAFETY: queries into a valid set, which starts with these bits.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut set);
        ptr::from_ref(&set).cast::<u64>().read()
    }
}

pub fn bit(signum: c_int) -> u64 {
    1 << (signum - 1)
}

pub static CALLS: AtomicUsize = AtomicUsize::new(0);
pub static SIGNUM: AtomicI32 = AtomicI32::new(0);
pub static CODE: AtomicI32 = AtomicI32::new(0);
pub static ADDRESS: AtomicUsize = AtomicUsize::new(0);
pub static PC: AtomicUsize = AtomicUsize::new(0);
pub static MASK: AtomicU64 = AtomicU64::new(0);
pub static THREAD: AtomicI32 = AtomicI32::new(0);

pub fn calls() -> usize {
    CALLS.load(Ordering::Relaxed)
}

/// Keeps what it was told. After a fault it skips the instruction.
pub unsafe extern "C" fn skip(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments, passed on.
    unsafe {
        CALLS.fetch_add(1, Ordering::Relaxed);
        SIGNUM.store(signum, Ordering::Relaxed);
        CODE.store((*info).si_code, Ordering::Relaxed);
        MASK.store(mask(), Ordering::Relaxed);
        THREAD.store(libc::gettid(), Ordering::Relaxed);
        let pc = pc(context);
        PC.store(pc, Ordering::Relaxed);
        if (*info).si_code > 0 {
            ADDRESS.store((*info).si_addr().addr(), Ordering::Relaxed);
            set_pc(context, pc + SKIPPED);
        }
        *libc::__errno_location() = libc::EXDEV;
    }
}

pub static PAGE: AtomicUsize = AtomicUsize::new(0);

/// The one-argument kind: makes the page accessible, so that the fault does not come again.
pub unsafe extern "C" fn open_page(signum: c_int) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    SIGNUM.store(signum, Ordering::Relaxed);
    MASK.store(mask(), Ordering::Relaxed);
    let page = ptr::with_exposed_provenance_mut(PAGE.load(Ordering::Relaxed));
    // SAFETY: the test's own page.
    unsafe { libc::mprotect(page, 4096, libc::PROT_READ) };
}

pub const SKIP: usize = 0;
pub const OPEN_PAGE: usize = 1;

/// The address of a handler, which a constant cannot have.
pub fn handler(which: usize) -> usize {
    match which {
        SKIP => skip as *const () as usize,
        _ => open_page as *const () as usize,
    }
}

pub fn errno() -> c_int {
    // SAFETY: this thread's variable.
    unsafe { *libc::__errno_location() }
}

/// Executes code that is not registered: to everyone but its author it is host code.
pub fn call_as_host(text: &[u8], arg: *mut c_void) {
    let (host, _memory) = load(text, &[(0, TrapCode::Unreachable)]).unregister();
    // SAFETY: returns, or faults.
    unsafe { host(arg) }
}

/// Sends to the thread of this process with the kernel's number `thread`.
pub fn send_to(thread: c_int, signum: c_int) {
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signum) };
}

#[derive(Clone, Copy, Debug)]
pub enum Sent {
    Kill,
    Raise,
    PthreadKill,
    Queue,
}

pub fn send(how: Sent, signum: c_int) {
    // SAFETY: sends to this process or thread.
    let sent = unsafe {
        match how {
            // To this process; other threads could take it, so let there be none that does.
            Sent::Kill => libc::kill(libc::getpid(), signum),
            Sent::Raise => libc::raise(signum),
            Sent::PthreadKill => libc::pthread_kill(libc::pthread_self(), signum),
            Sent::Queue => {
                let value = libc::sigval { sival_ptr: ptr::null_mut() };
                libc::sigqueue(libc::getpid(), signum, value)
            }
        }
    };
    assert_eq!(sent, 0);
}
