//! Handlers that catch a trap without asking whether it is one: what is left of a trap when the registry is a constant.
//!
//! The landing is of the same kind as trapline's: the call saves what the calling convention preserves, and leaves its
//! stack pointer in a thread-local variable; the handler points the interrupted context at the landing. Others look
//! the pc up before they do, in the registry or in a locked map, which tells what that costs.

use super::guests::{Code, Guest};
use core::arch::naked_asm;
use core::cell::Cell;
use core::ffi::{c_int, c_void};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::{mem, ptr};
use trapline::image::Image;
use trapline::process;

thread_local! {
    static LANDING: Cell<usize> = const { Cell::new(0) };
    /// The instruction's length, for the handler that goes on behind it.
    static SKIPPED: Cell<i64> = const { Cell::new(0) };
}

/// A handler.
pub type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Installed in the place of another handler for the three signals, until it is dropped.
pub struct Installed([(c_int, libc::sigaction); 3]);

impl Installed {
    /// # Safety
    ///
    /// Until the result is dropped, nothing raises one of the three signals but calls that `handler` is made for.
    pub unsafe fn new(handler: Handler) -> Self {
        Self([libc::SIGILL, libc::SIGFPE, libc::SIGSEGV].map(|signal| {
            // SAFETY: all zeroes is a valid action; the caller answers for the handler.
            unsafe {
                let mut new: libc::sigaction = mem::zeroed();
                let mut old: libc::sigaction = mem::zeroed();
                new.sa_sigaction = handler as *const () as usize;
                new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &raw const new, &raw mut old), 0);
                (signal, old)
            }
        }))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for (signal, old) in &self.0 {
            // SAFETY: what was there before.
            unsafe { libc::sigaction(*signal, old, ptr::null_mut()) };
        }
    }
}

/// Calls `f(arg)`: whether a trap landed.
///
/// # Safety
///
/// `f` may be called with `arg`, and [`land`] or a handler that looks up before it is installed. No frame between this
/// call and the trap owns anything.
pub unsafe fn catch(f: Guest, arg: *mut c_void) -> bool {
    // SAFETY: the caller's; the variable is this thread's, and the handler's that interrupts it.
    LANDING.with(|landing| unsafe { enter(f, arg, landing.as_ptr()) != 0 })
}

/// Calls `f(arg)`, which traps under [`skip`] and returns.
///
/// # Safety
///
/// `f` may be called with `arg`, traps at an instruction of `skipped` bytes, and [`skip`] is installed.
pub unsafe fn call(f: Guest, arg: *mut c_void, skipped: i64) {
    SKIPPED.set(skipped);
    // SAFETY: the caller's.
    unsafe { f(arg) }
}

/// Catches whatever it is.
///
/// # Safety
///
/// The kernel calls it, of a thread inside [`catch`].
pub unsafe extern "C" fn land(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's context.
    unsafe { redirect(context) }
}

/// Catches what the registry says is a trap.
///
/// # Safety
///
/// As for [`land`].
pub unsafe extern "C" fn look_up(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's context.
    unsafe {
        if process::trap_code(pc(context)).is_none() {
            libc::abort();
        }
        redirect(context);
    }
}

/// What engines ask today, by the last address of a text.
static MAP: RwLock<BTreeMap<usize, (usize, Arc<Image>)>> = RwLock::new(BTreeMap::new());

/// Makes code known to [`look_up_in_map`].
pub fn add_to_map(code: &Code) {
    let range = code.memory.text_range();
    let mut map = MAP.write().unwrap_or_else(PoisonError::into_inner);
    map.insert(range.end - 1, (range.start, Arc::clone(&code.memory)));
}

/// Makes it unknown again.
pub fn remove_from_map(code: &Code) {
    let mut map = MAP.write().unwrap_or_else(PoisonError::into_inner);
    map.remove(&(code.memory.text_range().end - 1));
}

/// Catches what a locked map says is a trap. (It is no handler to be imitated: a thread that was interrupted while it
/// writes to the map would wait for itself. Nobody does here.)
///
/// # Safety
///
/// As for [`land`].
pub unsafe extern "C" fn look_up_in_map(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's context.
    let pc = unsafe { pc(context) };
    let found = {
        let map = MAP.read().unwrap_or_else(PoisonError::into_inner);
        map.range(pc..).next().and_then(|(_, (start, code))| Some((Arc::clone(code), pc.checked_sub(*start)?)))
    };
    // SAFETY: as above.
    unsafe {
        if found.is_none_or(|(code, offset)| code.trap_code(offset).is_none()) {
            libc::abort();
        }
        redirect(context);
    }
}

/// Goes on behind the instruction: what the kernel takes, with the least handler there can be.
///
/// # Safety
///
/// The kernel calls it, of a thread inside [`call`].
pub unsafe extern "C" fn skip(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's context.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += SKIPPED.get() };
}

/// The interrupted program counter.
///
/// # Safety
///
/// `context` is what the kernel passed to a handler that has not returned.
pub unsafe fn pc(context: *const c_void) -> usize {
    // SAFETY: the caller's.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] as usize }
}

/// # Safety
///
/// As for [`pc`], of a thread inside [`catch`].
unsafe fn redirect(context: *mut c_void) {
    const DIRECTION: i64 = 1 << 10;
    // SAFETY: the caller's.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = landed as *const () as i64;
        registers[libc::REG_RSP as usize] = LANDING.get() as i64;
        registers[libc::REG_EFL as usize] &= !DIRECTION;
    }
}

/// Calls `f(arg)` and returns 0, or 1 if a trap lands; leaves its stack pointer in `*sp`.
#[unsafe(naked)]
unsafe extern "C" fn enter(f: Guest, arg: *mut c_void, sp: *mut usize) -> u32 {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 24",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rdx], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "xor eax, eax",
        "leave",
        "ret",
    )
}

/// Returns 1 from the [`enter`] whose stack pointer this is.
#[unsafe(naked)]
unsafe extern "C" fn landed() -> ! {
    naked_asm!(
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 24",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "mov eax, 1",
        "ret",
    )
}
