//! Entering guest code, and leaving it through a trap.
//!
//! An activation lives in the frame of [`catch_trap`]; how the thread's innermost one is found is told in `innermost`.
//! The handler that writes to an activation runs on the thread that owns it, while that thread is
//! inside `arch::enter`: the call is opaque to the compiler and the activation is reachable from it, so plain memory is
//! enough and no atomic is needed. The same goes for the buffer of a backtrace, which is reachable from the activation.

use super::exit::{Exit, ExitFrame};
use super::innermost::{Place, innermost};
use super::stack_guard::Stack;
use super::trap::Trap;
use super::{arch, trace};
use crate::TrapCode;
use crate::backtrace::Backtrace;
use crate::handler::walk::{PcKind, Trace};
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::{fmt, ptr, ptr::NonNull};

/// One call of [`catch_trap`] that has not returned.
pub(super) struct Activation {
    /// The stack pointer of the frame to land on; 0 until `arch::enter` stores it, and again when it is left.
    pub(super) sp: UnsafeCell<usize>,
    pub(super) place: Place,
    /// The frame of the previous activation's guest code, whose call of the host led to this activation.
    caller: Option<ExitFrame>,
    /// Null if there is no exit.
    exit: *const Exit,
    trace: Option<NonNull<Trace<[usize]>>>,
    trap: Cell<Option<Trap>>,
}

impl Activation {
    pub(super) const fn new(place: Place) -> Activation {
        let (sp, trap) = (UnsafeCell::new(0), Cell::new(None));
        Activation { sp, place, caller: None, exit: ptr::null(), trace: None, trap }
    }

    // A function of its own, as `previous` is, so that `verification/reachable` finds every access to the thread-local under
    // a name of this file, wherever the compiler would have inlined it.
    #[inline(never)]
    pub(super) fn stack(&self) -> Stack {
        self.place.stack()
    }

    /// The stack pointer of the frame to land on: the end of the stack that belongs to the guest code. `None` if the
    /// activation was not entered yet.
    pub(super) fn entry(&self) -> Option<usize> {
        // SAFETY: written by `arch::enter` on this thread only, and not while this runs.
        let sp = unsafe { *self.sp.get() };
        (sp != 0).then_some(sp)
    }

    /// The activation around this one, on the same stack.
    #[inline(never)]
    pub(super) fn previous(&self) -> Option<&Activation> {
        self.place.previous(ptr::from_ref(self).addr())
    }

    /// Whether the thread had no activation on another stack when this one was made.
    pub(super) fn is_outermost(&self) -> bool {
        self.place.is_outermost()
    }

    /// Marks it as left, so that nobody takes it for an activation that is still entered.
    pub(super) fn leave(&self) {
        // Volatile: readers find it by its address.
        // SAFETY: `enter` has been left, and nobody else writes to it.
        unsafe { self.sp.get().write_volatile(0) };
        self.place.leave(self);
    }

    /// Where the guest code of the previous activation called out, if that is known.
    pub(super) fn caller(&self) -> Option<ExitFrame> {
        self.caller
    }

    /// Where the guest code of this activation called out, if that is known. Not for handlers: generated code may be
    /// about to write it.
    pub(super) fn exit(&self) -> Option<ExitFrame> {
        // SAFETY: null, or borrowed by `catch_trap_with` for as long as the activation lives.
        unsafe { self.exit.as_ref() }.and_then(Exit::frame)
    }

    /// The buffer for the backtrace of a trap.
    pub(super) fn trace(&self) -> Option<NonNull<Trace<[usize]>>> {
        self.trace
    }

    /// Leaves the trap for `catch_trap` to find, and says where to land. `None` if the activation was not entered yet.
    pub(super) fn record(&self, trap: Trap) -> Option<usize> {
        let sp = self.entry()?;
        self.trap.set(Some(trap));
        Some(sp)
    }
}

/// What [`catch_trap_with`] does besides catching a trap.
///
/// # Examples
///
/// ```
/// use trapline::Backtrace;
/// use trapline::signal::{Entry, Exit};
///
/// let (mut backtrace, exit) = (Backtrace::<16>::new(), Exit::new());
/// let entry = Entry::new().backtrace(&mut backtrace).exit(&exit);
/// # let _ = entry;
/// ```
#[derive(Default)]
pub struct Entry<'a> {
    trace: Option<&'a mut Trace<[usize]>>,
    exit: Option<&'a Exit>,
    stack: Option<Stack>,
}

impl<'a> Entry<'a> {
    /// An empty set of options.
    #[must_use]
    pub const fn new() -> Self {
        Entry { trace: None, exit: None, stack: None }
    }

    /// Collects the guest frames into `backtrace` when a trap is caught, hardware's or [`raise`]d, in the handler.
    ///
    /// Without a trap it is empty afterwards. A raised trap has frames only if the guest code notes its [`Exit`]s.
    #[must_use]
    pub fn backtrace<const N: usize>(mut self, backtrace: &'a mut Backtrace<N>) -> Self {
        self.trace = Some(backtrace.trace());
        self
    }

    /// Says where the guest code notes the frames that call the host.
    ///
    /// With it, the backtraces of nested calls go on beyond that host code.
    #[must_use]
    pub fn exit(mut self, exit: &'a Exit) -> Self {
        self.exit = Some(exit);
        self
    }

    /// Says which stack the call is made on, if it is not one that the thread was started with by the C library: a
    /// fiber's, or one that was made for the thread (`pthread_attr_setstack`).
    ///
    /// `stack` are the addresses that can be used, and `guard` is the number of bytes right below that are
    /// inaccessible, 0 if there are none. With it, a [`StackOverflow`](TrapCode::StackOverflow) of that stack is
    /// caught, and fibers can be told from each other. Calls nested in this one on the same stack need not repeat it.
    ///
    /// # Examples
    ///
    /// ```
    /// use trapline::signal::Entry;
    ///
    /// # let (mapping, page) = (0x10_0000, 0x1000);
    /// // One mapping of which the lowest page was made inaccessible.
    /// let entry = Entry::new().stack(mapping + page..mapping + 0x4_0000, page);
    /// # let _ = entry;
    /// ```
    #[must_use]
    pub fn stack(mut self, stack: Range<usize>, guard: usize) -> Self {
        self.stack = Some(Stack::given(&stack, guard));
        self
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("backtrace", &self.trace.is_some())
            .field("exit", &self.exit)
            .field("stack", &self.stack)
            .finish()
    }
}

/// Calls `f(arg)`; a trap in registered code below it becomes an `Err`.
///
/// Signals must be handled by [`install`](super::install) or an embedder's handler that calls
/// [`handle_signal`](super::handle_signal); debug builds print a hint if neither is there. Calls nest: a host function called
/// from guest code may enter again, and a trap ends the innermost call only.
///
/// When this returns `Err`, all callee-saved registers and the floating-point control words are as they were at the
/// call. The signal mask and the alternate signal stack are as they were *at the trap*: what a host function changed in
/// between and did not put back stays changed.
///
/// # Panics
///
/// At a thread's first entry, before calling `f`, if [`prepare_thread`](super::prepare_thread) fails: if an alternate
/// signal stack cannot be allocated or set, or a signal is blocked. A thread that prepared itself successfully
/// never panics here. (The error is kept out of the result because it can occur once per thread, and a trap at every
/// call.)
///
/// # Aborts
///
/// With a message, if this call returns while another that this thread began later has not, and the two may be on
/// different stacks that nobody described with [`Entry::stack`].
///
/// # Safety
///
/// - Calling `f` with `arg` is sound, and `f` does not unwind. (The C library may unwind it to end the thread:
///   `pthread_exit`, cancellation. Later calls on that thread work as ever.)
/// - Every frame between this call and an instruction that may trap, or a host function that may [`raise`], can
///   vanish without running destructors: frames of generated code can, those of a host function that owns anything
///   cannot. `f` itself is such a frame.
/// - What `f` and its callees left half-done when they trapped is handled by the caller.
/// - If this call is given up, by `longjmp` to a place outside of it, by a thread's end without unwinding, or with a
///   fiber that is not resumed, then no registered code traps *outside of other calls* where it could be taken for the
///   code of this one: on the same stack, deeper. (Other calls notice that this one has gone. Most such traps do, too,
///   and are passed on; but a frame that nothing wrote to since looks as if it were still there.)
/// - Guest code runs on the stack that this is called on. A trap on another one is not caught but passed on, as far as
///   the two can be told apart: the thread's own stack from others, others if [`Entry::stack`] says where they are. On a
///   stack that is not the thread's own, and where it does not say so, this call is not given up, nor resumed on
///   another thread; and registered code does not trap on other such stacks outside of calls.
///
/// # Errors
///
/// The [`Trap`], if the code trapped or a host function [raised](raise) one.
///
/// # Signal safety
///
/// Not for handlers: the first call on a thread allocates.
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
/// // SAFETY: the function owns nothing, and skips its own frame only.
/// let trap = unsafe { catch_trap(out_of_fuel, ptr::null_mut()) }.unwrap_err();
/// assert_eq!(trap.code, TrapCode::OutOfFuel);
/// assert_eq!(trap.site, None);
/// ```
pub unsafe fn catch_trap(f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) -> Result<(), Trap> {
    // SAFETY: the caller's; no buffer and no exit.
    unsafe { catch_trap_with(f, arg, Entry::new()) }
}

/// [`catch_trap`], with a backtrace of the trap.
///
/// Everything said there holds here.
///
/// # Panics
///
/// As [`catch_trap`]; and if the stack that was given with [`Entry::stack`] is not the one that this is called on.
///
/// # Safety
///
/// As for [`catch_trap`], and:
///
/// - If a stack is given, it is the one that this is called on, and mapped as it says until this call is left. If the
///   call is given up and the stack unmapped, registered code does not trap at its addresses outside of other calls.
/// - If no stack is given, this is not called on the thread's own, and a backtrace or an exit is given: the calls nested in this
///   one are on the same stack. (The frames are read between one and the next.)
/// - If the call is given up, the exit stays for as long as others are made on this stack.
/// - While this runs, only the guest code writes to the exit, through the pointer that it has; other users of the cell
///   leave in it what it held.
///
/// # Errors
///
/// The [`Trap`], if the code trapped or a host function [raised](raise) one.
///
/// # Signal safety
///
/// Not for handlers: the first call on a thread allocates.
///
/// # Examples
///
/// ```ignore-aarch64
/// use std::{ffi::c_void, ptr, sync::Arc};
/// use trapline::signal::{Entry, Signals, catch_trap_with, install};
/// use trapline::{Backtrace, BacktraceEnd, PcKind, TrapCode, process};
/// use trapline::image::{Image, ImageBuilder};
///
/// let mut image = ImageBuilder::new();
/// image.text(&[
///     0x55, // push rbp
///     0x48, 0x89, 0xe5, // mov rbp, rsp
///     0xe8, 0x02, 0x00, 0x00, 0x00, // call the function at 11
///     0x5d, // pop rbp
///     0xc3, // ret
///     0x55, // push rbp
///     0x48, 0x89, 0xe5, // mov rbp, rsp
///     0x0f, 0x0b, // ud2
/// ]);
/// image.trap(15, TrapCode::Unreachable);
/// let image = Arc::new(Image::parse(&image.finish()?)?.publish()?);
/// let _registration = process::register(image.clone())?;
/// // SAFETY: the text is a function of the C calling convention that leaves nothing to clean up.
/// let function: unsafe extern "C" fn(*mut c_void) = unsafe { image.entry(0) }.unwrap();
/// // SAFETY: nothing else in this program relies on these signals.
/// unsafe { install(Signals::all())? };
///
/// let mut backtrace = Backtrace::<8>::new();
/// // SAFETY: the functions skip no frames but their own, and stay on this stack.
/// let trap = unsafe { catch_trap_with(function, ptr::null_mut(), Entry::new().backtrace(&mut backtrace)) };
/// assert_eq!(trap.unwrap_err().code, TrapCode::Unreachable);
/// let start = image.text_range().start;
/// let expected = [(start + 15, PcKind::Interrupted), (start + 9, PcKind::ReturnAddress)];
/// assert_eq!(backtrace.pcs().collect::<Vec<_>>(), expected);
/// assert_eq!(backtrace.end(), BacktraceEnd::Complete);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(never)] // so that the activation is near the frame of `enter`
pub unsafe fn catch_trap_with(
    f: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    entry: Entry<'_>,
) -> Result<(), Trap> {
    #[cfg(debug_assertions)]
    super::hints::look_for_handlers(f as usize);
    let Entry { trace, exit, stack } = entry;
    let mut room = MaybeUninit::<Activation>::uninit();
    // The activations before this one are above it.
    let here = room.as_ptr().wrapping_add(1).addr();
    if let Some(given) = stack {
        assert!(given.contains(here), "called at {here:#x}, which is not on the stack that was given ({given})");
    }
    let trace = trace.map(|trace| {
        trace.restart(PcKind::ReturnAddress);
        NonNull::from(trace)
    });
    let mut foreign = MaybeUninit::uninit();
    let (place, around) = match Place::of_call(here, stack, &mut foreign) {
        Ok(found) => found,
        Err(error) => panic!("cannot prepare this thread for catching traps: {error}"),
    };
    let held = exit.map(|exit| (exit, exit.fp(), exit.pc()));
    // What the previous activation's cell says now it may not say later: this one may share it.
    let caller = around.and_then(Activation::exit);
    if let Some(exit) = exit {
        exit.clear();
    }
    let exit = exit.map_or(ptr::null(), ptr::from_ref);
    let activation: &Activation = room.write(Activation { caller, exit, trace, ..Activation::new(place) });
    let inside = Inside { activation, held };
    activation.place.enter(activation);
    // SAFETY: the caller answers for `f`; a landing comes here, too.
    let trapped = unsafe { arch::enter(f, arg, activation.sp.get()) };
    drop(inside);
    match activation.trap.get() {
        Some(trap) if trapped != 0 => Err(trap),
        _ => Ok(()),
    }
}

/// Puts everything back when [`catch_trap_with`] is left, be it by unwinding.
struct Inside<'a> {
    activation: &'a Activation,
    held: Option<(&'a Exit, usize, usize)>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.activation.leave();
        if let Some((exit, fp, pc)) = self.held {
            exit.set(fp, pc);
        }
    }
}

/// Ends the innermost [`catch_trap`] of this thread with the trap `code`, from a host function that guest code called.
/// (A handler that wants to stop guest code sets a flag that the code polls.)
///
/// Aborts the process, with a message, if this thread has no activation on this stack.
///
/// # Safety
///
/// No frame between this call and the `catch_trap` runs its destructors: not the guest's, and not the caller's. The
/// caller owns nothing that must be dropped.
///
/// # Signal safety
///
/// Not for handlers: the kernel would not know that the handler has ended.
///
/// # Examples
///
/// See [`catch_trap`].
pub unsafe fn raise(code: TrapCode) -> ! {
    let here = 0_u8;
    match innermost((&raw const here).addr())
        .and_then(|activation| Some((activation, activation.record(Trap::raised(code))?)))
    {
        // SAFETY: the frame belongs to the `catch_trap` this thread is in; the caller answers for those skipped.
        Some((activation, sp)) => unsafe {
            trace::of_raise(activation);
            arch::unwind_to(sp)
        },
        None => {
            eprintln!(
                "trapline: raise of \"{code}\" on a thread that is not inside catch_trap, or not on the stack of its last call"
            );
            std::process::abort()
        }
    }
}
