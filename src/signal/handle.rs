//! The decision: is this signal a trap of registered code? Read the rules in the module's documentation first.

use super::innermost::innermost;
use super::trap::{Trap, TrapSignal, TrapSite};
use super::{arch, trace};
use crate::TrapCode;
use crate::process;
use std::ffi::{c_int, c_void};

/// For embedders who own the handlers: catches the trap, if this signal is one.
///
/// `true`: it was a trap, and the context now continues in [`catch_trap`](super::catch_trap). The handler must return
/// without touching the context again. `false`: nothing was changed; the signal is the embedder's.
///
/// The handler must be installed with `SA_SIGINFO` and `SA_ONSTACK`, and must not call this while it holds anything
/// that `catch_trap`'s return would not release. `info` is its `*mut siginfo_t`, by the type that every version of the
/// libc crate agrees on.
///
/// Thread-local state is touched only if the interrupted pc is registered code that trapped.
///
/// # Safety
///
/// Called from a signal handler with exactly the three arguments that the kernel passed it, on the thread that was
/// interrupted. The handler returns to the kernel afterwards.
///
/// # Signal safety
///
/// Async-signal-safe.
///
/// # Examples
///
/// ```
/// use std::ffi::{c_int, c_void};
///
/// unsafe extern "C" fn on_fault(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
///     // SAFETY: the kernel's own arguments.
///     if unsafe { trapline::signal::handle_signal(signum, info.cast(), context) } {
///         return;
///     }
///     // Not a trap: a crash reporter, or the previous handler.
/// }
/// # let _ = on_fault;
/// ```
#[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
pub unsafe fn handle_signal(signum: c_int, info: *mut c_void, context: *mut c_void) -> bool {
    let info = info.cast();
    arch::stop_alignment_checks();
    // SAFETY: the caller passes the kernel's arguments.
    if !unsafe { is_fault(signum, info, context) } {
        return false;
    }
    // SAFETY: the caller passes the kernel's context.
    let frame = unsafe { arch::frame(context) };
    let Some((trap_code, site)) = process::with(frame.pc, |found| {
        let text_offset = found.offset();
        let site = TrapSite { pc: frame.pc, text_offset, id: found.id() };
        (found.payload().trap_code(text_offset), site)
    }) else {
        return false;
    };
    // Only a stack overflow can be ours without a trap site, and it is a SIGSEGV.
    if trap_code.is_none() && signum != libc::SIGSEGV {
        return not_ours(signum, &site, "is no trap site");
    }
    let Some(activation) = innermost(frame.sp) else {
        return not_ours(signum, &site, "was not entered by catch_trap on this stack");
    };
    // SAFETY: the kernel's arguments.
    let fault_address = unsafe { fault_address(signum, info) };
    let (code, overflow) = match (trap_code, fault_address) {
        (Some(code), _) => (code, None),
        (None, Some(address)) if activation.stack().overflows(address, frame.sp) => {
            (TrapCode::StackOverflow, fault_address)
        }
        (None, _) => return not_ours(signum, &site, "is no trap site, and did not overflow the stack"),
    };
    // SAFETY: the caller passes the kernel's arguments.
    let signal = Some(TrapSignal { number: signum, code: unsafe { (*info).si_code } });
    let Some(sp) = activation.record(Trap { code, site: Some(site), fault_address, signal }) else {
        return false;
    };
    // SAFETY: registered code of this thread's innermost activation was interrupted with this frame.
    unsafe { trace::of_trap(activation, frame, overflow) };
    // SAFETY: the kernel's context; `sp` is of the innermost `enter` of this thread, which is below the trap.
    unsafe { arch::redirect(context, sp) };
    true
}

/// A fault of registered code that is passed on: `false`. Debug builds print why.
fn not_ours(_signum: c_int, _site: &TrapSite, _why: &str) -> bool {
    #[cfg(all(debug_assertions, not(trapline_rtsan)))]
    super::hints::say_why_passed_on(_signum, _site, _why);
    false
}

/// The kernel's code for a fault without an address; the field is zero then.
const SI_KERNEL: c_int = 0x80;

/// Whether the interrupted instruction itself caused this signal, one of our four.
///
/// # Safety
///
/// `info` and `context` are what the kernel passed to the handler.
pub(super) unsafe fn is_fault(signum: c_int, info: *const libc::siginfo_t, context: *const c_void) -> bool {
    // A SIGSEGV without an address may be made up: for another signal whose frame has no room on the stack.
    // SAFETY: the caller's.
    unsafe {
        is_forced(signum, info)
            && (signum != libc::SIGSEGV || (*info).si_code != SI_KERNEL || arch::is_protection_fault(context))
    }
}

/// Whether the kernel insists that this signal, one of our four, is handled: it was not sent, and does not just report
/// something in passing.
///
/// # Safety
///
/// `info` is what the kernel passed to the handler.
pub(super) unsafe fn is_forced(signum: c_int, info: *const libc::siginfo_t) -> bool {
    // The kernel's number for AArch64's memory tagging in its asynchronous mode; no other machine uses it.
    const SEGV_MTEAERR: c_int = 8;
    // SAFETY: the caller's.
    let code = unsafe { (*info).si_code };
    match signum {
        // Broken memory found in passing, reported to the thread that happens to run.
        libc::SIGBUS => code > 0 && code != libc::BUS_MCEERR_AO,
        // An access with a wrong tag, some time ago.
        libc::SIGSEGV => code > 0 && code != SEGV_MTEAERR,
        libc::SIGILL | libc::SIGFPE => code > 0,
        _ => false,
    }
}

/// # Safety
///
/// As for [`is_fault`], and it said yes.
unsafe fn fault_address(signum: c_int, info: *const libc::siginfo_t) -> Option<usize> {
    if signum != libc::SIGSEGV && signum != libc::SIGBUS {
        return None;
    }
    // SAFETY: both signals carry an address.
    unsafe { ((*info).si_code != SI_KERNEL).then(|| (*info).si_addr().addr()) }
}
