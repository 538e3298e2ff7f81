//! Entering guest code, and leaving it through a trap.
//!
//! An activation lives in the frame of [`catch_trap`]; the thread's innermost one is in `CURRENT`. The handler that
//! writes to an activation runs on the thread that owns it, while that thread is inside `arch::enter`: the call is
//! opaque to the compiler and the activation is reachable from it, so plain memory is enough and no atomic is needed.

use super::alt_stack::{self, StackGuard};
use super::arch;
use super::trap::Trap;
use crate::TrapCode;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::ptr;

/// One call of [`catch_trap`] that has not returned.
pub(super) struct Activation {
    /// The stack pointer of the frame to land on; 0 until `arch::enter` stores it.
    sp: UnsafeCell<usize>,
    previous: *const Activation,
    trap: Cell<Option<Trap>>,
    guard: StackGuard,
}

thread_local! {
    // Initialised at compile time and without a destructor: an access is an address computation, nothing is
    // registered or allocated. `catch_trap` touches it before any handler does.
    static CURRENT: Cell<*const Activation> = const { Cell::new(ptr::null()) };
}

/// The innermost activation of this thread. Handlers: only after the registry said that this thread runs guest code.
///
/// The reference must not be used after that activation's `catch_trap` returned.
pub(super) fn current<'a>() -> Option<&'a Activation> {
    let current = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: `catch_trap` points this at an activation in its frame and restores it before that frame goes.
    unsafe { current.as_ref() }
}

impl Activation {
    pub(super) fn guard(&self) -> StackGuard {
        self.guard
    }

    /// Leaves the trap for `catch_trap` to find, and says where to land. `None` if the activation was not entered yet.
    pub(super) fn record(&self, trap: Trap) -> Option<usize> {
        // SAFETY: written by `arch::enter` on this thread only, and not while this runs.
        let sp = unsafe { *self.sp.get() };
        if sp == 0 {
            return None;
        }
        self.trap.set(Some(trap));
        Some(sp)
    }
}

/// Calls `f(arg)`; a trap in registered code below it becomes an `Err`.
///
/// Signals must be handled by [`install`](super::install) or an embedder's handler that calls
/// [`handle_signal`](super::handle_signal). Calls nest: a host function called from guest code may enter again, and a
/// trap ends the innermost call only.
///
/// When this returns `Err`, all callee-saved registers and the floating-point control words are as they were at the
/// call, and so are the signal mask and the alternate signal stack.
///
/// # Panics
///
/// At a thread's first entry, before calling `f`, if [`prepare_thread`](super::prepare_thread) fails: no memory for
/// an alternate signal stack, or none possible. A thread that prepared itself successfully never panics here. (The
/// error is kept out of the result because it can occur once per thread, and a trap at every call.)
///
/// # Safety
///
/// - Calling `f` with `arg` is sound, and `f` does not unwind.
/// - Every frame between this call and an instruction that may trap, or a host function that may [`raise`], can
///   vanish without running destructors: frames of generated code can, those of a host function that owns anything
///   cannot. `f` itself is such a frame.
/// - What `f` and its callees left half-done when they trapped is handled by the caller.
///
/// # Signal safety
///
/// Not for signal handlers: the first call on a thread allocates.
///
/// # Examples
///
/// ```
/// use std::{ffi::c_void, ptr};
/// use trapline::TrapCode;
/// use trapline::signal::{catch_trap, raise};
///
/// unsafe extern "C" fn out_of_fuel(_: *mut c_void) {
///     // SAFETY: called below `catch_trap` only; this frame owns nothing.
///     unsafe { raise(TrapCode::OutOfFuel) }
/// }
/// // SAFETY: as above.
/// let trap = unsafe { catch_trap(out_of_fuel, ptr::null_mut()) }.unwrap_err();
/// assert_eq!(trap.code, TrapCode::OutOfFuel);
/// assert_eq!(trap.site, None);
/// ```
pub unsafe fn catch_trap(f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) -> Result<(), Trap> {
    let guard = match alt_stack::guard_of_prepared_thread() {
        Ok(guard) => guard,
        Err(error) => panic!("cannot prepare this thread for catching traps: {error}"),
    };
    let previous = CURRENT.get();
    let activation = Activation { sp: UnsafeCell::new(0), previous, trap: Cell::new(None), guard };
    CURRENT.set(&activation);
    // SAFETY: the caller answers for `f`; a landing comes here, too.
    let trapped = unsafe { arch::enter(f, arg, activation.sp.get()) };
    CURRENT.set(activation.previous);
    match activation.trap.get() {
        Some(trap) if trapped != 0 => Err(trap),
        _ => Ok(()),
    }
}

/// Ends the innermost [`catch_trap`] of this thread with the trap `code`, from a host function that guest code called.
///
/// Aborts the process, with a message, if this thread has no activation.
///
/// # Safety
///
/// No frame between this call and the `catch_trap` runs its destructors: not the guest's, and not the caller's. The
/// caller owns nothing that must be dropped.
///
/// # Signal safety
///
/// Not for signal handlers: it would leave the handler without the kernel's knowledge. A handler that wants to stop
/// guest code sets a flag that the code polls.
///
/// # Examples
///
/// See [`catch_trap`].
pub unsafe fn raise(code: TrapCode) -> ! {
    match current().and_then(|activation| activation.record(Trap::raised(code))) {
        // SAFETY: the frame belongs to the `catch_trap` this thread is in; the caller answers for those skipped.
        Some(sp) => unsafe { arch::unwind_to(sp) },
        None => {
            eprintln!("trapline: raise of \"{code}\" on a thread that is not inside catch_trap");
            std::process::abort()
        }
    }
}
