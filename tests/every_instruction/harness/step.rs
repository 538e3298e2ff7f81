//! The trap flag: a SIGTRAP after every instruction of this thread.
//!
//! The processor traps after each instruction that begins with the flag set. The kernel clears it for the handler and
//! restores it from the context, so stepping goes on by itself when the handler returns. Where signals are blocked the
//! kernel kills the process instead: the creation and the end of threads are for [`lifetime`](super::lifetime).

use super::memory;
use super::page::{Verdict, end, page};
use super::stack;
use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The kind of handler that the kernel calls with three arguments.
pub type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Has the processor trap after each instruction from the next but one on.
#[inline(always)]
pub fn arm() {
    // SAFETY: changes the trap flag; SIGTRAP is handled.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// The last instruction that traps is the last of this.
#[inline(always)]
pub fn disarm() {
    // SAFETY: changes the trap flag.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
}

/// Installs `handler`, which runs on the alternate stack and may itself be stepped and interrupted by others.
pub fn handle(signal: c_int, handler: Handler) {
    // SAFETY: a zeroed sigaction is a valid one, and the handlers are async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

/// A function that handlers call, or none.
pub struct Hook(AtomicPtr<()>);

impl Hook {
    pub const fn none() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Sets the function, and gives what was set before.
    pub fn set(&self, f: fn()) -> *mut () {
        // Relaxed: it is set before anything is interrupted, or by the thread whose handler calls it.
        self.0.swap(f as *mut (), Ordering::Relaxed)
    }

    pub fn call(&self) {
        let f = self.0.load(Ordering::Relaxed);
        if !f.is_null() {
            // SAFETY: only `set` stores here, and stores such functions.
            unsafe { std::mem::transmute::<*mut (), fn()>(f)() };
        }
    }
}

static AT_EACH: Hook = Hook::none();
static IN_HANDLER: Hook = Hook::none();

/// Once a process, before anything is stepped.
pub fn install() {
    handle(libc::SIGTRAP, on_trap);
    handle(libc::SIGUSR1, on_user_signal);
    handle(libc::SIGSEGV, on_fault);
    handle(libc::SIGBUS, on_fault);
}

/// Runs `f`, and `at_each` in a signal handler after each of its instructions. Nests: inside a handler, too.
#[inline(never)]
pub fn stepped<R>(at_each: fn(), f: impl FnOnce() -> R) -> R {
    let before = AT_EACH.set(at_each);
    arm();
    let result = f();
    disarm();
    AT_EACH.0.store(before, Ordering::Relaxed);
    result
}

/// From so many interruption points on, what is being stepped runs to its end without.
pub fn limit(points: u64) {
    LIMIT.store(points, Ordering::Relaxed);
}

static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
const TRAP_FLAG: i64 = 1 << 8;

/// Runs `f` in a handler of this thread, where it may neither allocate nor free.
pub fn in_handler(f: fn()) {
    IN_HANDLER.set(f);
    // SAFETY: the signal is handled by `on_user_signal`.
    unsafe { libc::raise(libc::SIGUSR1) };
}

extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    stack::note_frame(context.addr());
    keeping_errno(|| memory::forbid_while(|| AT_EACH.call()));
    if page().points() >= LIMIT.load(Ordering::Relaxed) {
        page().note_cut();
        // SAFETY: the kernel's context. What is interrupted goes on without the flag.
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG };
    }
}

extern "C" fn on_user_signal(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    keeping_errno(|| memory::forbid_while(|| IN_HANDLER.call()));
}

pub fn keeping_errno(f: impl FnOnce()) {
    // SAFETY: the C library's variable of this thread.
    let errno = unsafe { *libc::__errno_location() };
    f();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// A fault at a freed block is a verdict; any other one kills, as it would have.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments; both signals carry an address.
    let (address, pc) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        ((*info).si_addr().addr(), context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64)
    };
    if memory::is_quarantined(address) {
        end(Verdict::UseAfterFree, [address as u64, pc, 0]);
    }
    // SAFETY: all zeroes is the default action; the instruction faults again.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &default, ptr::null_mut());
    }
}
