//! Backtraces of this thread's guest code. Read the rules in the module's documentation first.
//!
//! The stack of a thread inside nested activations, from high to low addresses:
//!
//! ```text
//!   catch_trap   the outer activation, in its frame
//!   enter        stores its stack pointer: the end of what belongs to the guest code it calls
//!   guest        frames, the last of which is in the inner activation as its caller
//!   host         unknown
//!   catch_trap   the inner activation, in its frame
//!   enter        stores its stack pointer
//!   guest        frames, down to the interrupted stack pointer
//! ```
//!
//! Each part of guest frames is walked by itself, within its own bounds: from the interrupted stack pointer, or the
//! inner activation, up to the stack pointer that `enter` stored. What lies within is mapped stack of this thread,
//! because both are on one stack. (Where its bounds are not known, `catch_trap_with` and `sample` demand it.)

use super::activation::Activation;
use super::arch;
use super::exit::ExitFrame;
use super::innermost::innermost;
use crate::backtrace::Backtrace;
use crate::handler::walk::{self, BacktraceEnd, PcKind, Registers, Trace};
use crate::process;
use std::ffi::c_void;
use std::ptr;

/// Collects the guest frames of the interrupted thread: for the handler of a sampling profiler.
///
/// The frames replace what was in the buffer. If the thread was interrupted in code that is not registered, there are no
/// frames: a host function's frames are not walked, and what called it is unknown. Otherwise the first is the
/// interrupted instruction ([`PcKind::Interrupted`]), its callers follow, and beyond host code those of the calls of
/// [`catch_trap_with`](super::catch_trap_with) around it, as far as [`Exit`](super::Exit)s were noted. The bounds of
/// the walk are those of the thread's calls of `catch_trap`. Guest code that was entered in another way shows its
/// first frame only ([`BacktraceEnd::NoActivation`]); [`Backtrace::walk`] is for it. Thread-local state is touched only if
/// the interrupted pc is registered code.
///
/// # Safety
///
/// - Called from a signal handler installed with `SA_SIGINFO`, with the third argument that the kernel passed it, on
///   the thread that was interrupted.
/// - On stacks whose bounds are not known ([`Entry::stack`](super::Entry::stack)), guest code runs on the one that its
///   `catch_trap` was called on, and so do the calls nested in that.
///
/// # Signal safety
///
/// Async-signal-safe.
///
/// # Examples
///
/// ```
/// use std::ffi::{c_int, c_void};
/// use trapline::Backtrace;
///
/// unsafe extern "C" fn on_sigprof(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
///     let mut backtrace = Backtrace::<32>::new();
///     // SAFETY: the kernel's own argument; guest code of this program changes no stacks.
///     unsafe { trapline::signal::sample(context, &mut backtrace) };
///     // Hand the frames to the profiler, if there are any.
/// }
/// # let _ = on_sigprof;
/// ```
pub unsafe fn sample<const N: usize>(context: *const c_void, backtrace: &mut Backtrace<N>) {
    // SAFETY: the caller passes the kernel's argument.
    let frame = unsafe { arch::frame(context) };
    let trace = backtrace.trace();
    trace.restart(PcKind::Interrupted);
    trace.end = process::view(|view| {
        let is_code = |pc| view.get(pc).is_some();
        if !is_code(frame.pc) {
            return BacktraceEnd::HostFrame;
        }
        // Registry first, thread-local last.
        let Some((activation, _)) = innermost(frame.sp).and_then(|found| Some((found, found.entry()?))) else {
            return if trace.push(frame.pc) { BacktraceEnd::NoActivation } else { BacktraceEnd::Full };
        };
        // SAFETY: this thread's innermost activation, and what its guest code was interrupted with.
        unsafe { from_frame(activation, frame, None, is_code, trace) }
    });
}

/// Collects the frames of a trap into the buffer that `activation` was given, if it was.
///
/// `overflow` is the address that faulted, if the trap is an overflow of the activation's stack.
///
/// # Safety
///
/// `activation` is this thread's innermost, and `frame` what its guest code was interrupted with.
pub(super) unsafe fn of_trap(activation: &Activation, frame: Registers, overflow: Option<usize>) {
    let Some(mut trace) = activation.trace() else { return };
    // SAFETY: `catch_trap_with` borrows the buffer for as long as the activation lives, and leaves it alone.
    let trace = unsafe { trace.as_mut() };
    trace.restart(PcKind::Interrupted);
    // SAFETY: the caller's.
    trace.end =
        process::view(|view| unsafe { from_frame(activation, frame, overflow, |pc| view.get(pc).is_some(), trace) });
}

/// Collects the frames below a host function into the buffer that `activation` was given, if it was.
///
/// # Safety
///
/// `activation` is this thread's innermost, and the caller has not returned to it.
pub(super) unsafe fn of_raise(activation: &Activation) {
    let Some(mut trace) = activation.trace() else { return };
    // SAFETY: `catch_trap_with` borrows the buffer for as long as the activation lives, and leaves it alone.
    let trace = unsafe { trace.as_mut() };
    trace.restart(PcKind::ReturnAddress);
    // The callers of this have their frames above.
    let here = 0_u8;
    let part = Part { activation, low: (&raw const here).addr() };
    let exit = activation.exit();
    trace.end = process::view(|view| {
        let is_code = |pc| view.get(pc).is_some();
        let Some(exit) = exit else { return BacktraceEnd::HostFrame };
        match part.continue_at(exit, is_code, trace) {
            // SAFETY: the caller's: everything above this frame, up to the activation's entry, is this thread's stack.
            Ok(()) => unsafe { part.follow(exit.fp, is_code, trace) },
            Err(end) => end,
        }
    });
}

/// # Safety
///
/// As for [`of_trap`].
unsafe fn from_frame(
    activation: &Activation,
    frame: Registers,
    overflow: Option<usize>,
    is_code: impl Fn(usize) -> bool,
    trace: &mut Trace<[usize]>,
) -> BacktraceEnd {
    if !trace.push(frame.pc) {
        return BacktraceEnd::Full;
    }
    // The stack pointer may be beyond what is mapped.
    let low = activation.stack().readable_from(frame.sp, overflow);
    // SAFETY: from the stack pointer upwards, without the guard, the stack is mapped: the activation is on it.
    unsafe { Part { activation, low }.follow(frame.fp, is_code, trace) }
}

/// The guest frames of one activation: between `low` and the stack pointer of its `enter`.
#[derive(Clone, Copy)]
struct Part<'a> {
    activation: &'a Activation,
    low: usize,
}

impl Part<'_> {
    fn stack(self) -> std::ops::Range<usize> {
        self.low..self.activation.entry().unwrap_or(0)
    }

    /// Collects what `fp` leads to in this part, then in those of the activations around it.
    ///
    /// # Safety
    ///
    /// [`Part::stack`] is mapped stack of this thread, which executes below it.
    unsafe fn follow(
        mut self,
        mut fp: usize,
        is_code: impl Fn(usize) -> bool,
        trace: &mut Trace<[usize]>,
    ) -> BacktraceEnd {
        loop {
            // SAFETY: the caller's for the first part. The others lie between an inner activation and the `enter` that
            // it was called below.
            let end = unsafe { walk::walk(fp, self.stack(), &is_code, trace) };
            // Host code may have entered the guest code for `catch_trap`, and frame pointers end there.
            if !matches!(end, BacktraceEnd::Complete | BacktraceEnd::HostFrame) {
                return end;
            }
            let Some(previous) = self.activation.previous() else {
                // Activations on other stacks are not followed.
                return if self.activation.is_outermost() { end } else { BacktraceEnd::HostFrame };
            };
            let Some(exit) = self.activation.caller() else { return BacktraceEnd::HostFrame };
            self = Part { activation: previous, low: ptr::from_ref(self.activation).addr() };
            if let Err(end) = self.continue_at(exit, &is_code, trace) {
                return end;
            }
            fp = exit.fp;
        }
    }

    /// Collects the frame that called the host, if it is one.
    fn continue_at(
        self,
        exit: ExitFrame,
        is_code: impl Fn(usize) -> bool,
        trace: &mut Trace<[usize]>,
    ) -> Result<(), BacktraceEnd> {
        if !walk::is_readable(exit.fp, &self.stack()) {
            return Err(BacktraceEnd::Corrupt);
        }
        if !is_code(PcKind::ReturnAddress.instruction(exit.pc)) {
            return Err(BacktraceEnd::HostFrame);
        }
        if trace.push(exit.pc) { Ok(()) } else { Err(BacktraceEnd::Full) }
    }
}
