//! Entering guest code, and leaving it through a trap.
//!
//! An activation lives in the frame of [`catch_trap`]. The thread's innermost one on its own stack is in `OWN`, on other
//! stacks in `FOREIGN`. The handler that writes to an activation runs on the thread that owns it, while that thread is
//! inside `arch::enter`: the call is opaque to the compiler and the activation is reachable from it, so plain memory is
//! enough and no atomic is needed. The same goes for the buffer of a backtrace, which is reachable from the activation.
//!
//! # When an activation is believed
//!
//! A frame can go without `catch_trap` knowing: by `longjmp`, or with the stack of a fiber that nobody resumes. And a
//! thread that switches between fibers is not always in the call that it entered last. So a pointer to an activation
//! comes with the bounds of its stack, and is followed only from a stack pointer within these bounds and below it: what
//! is in between is mapped then. What it points at is taken for an activation if it and the frame that `enter` made
//! below it have each other's address. On the way out of `catch_trap`, by whatever way runs its destructors, the
//! activation forgets that frame.
//!
//! An activation below the stack pointer is gone, and the one that it was called in is the innermost. What is left of it
//! says which that was, if it is still intact.
//!
//! Of a stack that is neither the thread's own nor was described by the embedder ([`Entry::stack`]) only this much is
//! known: it does not reach down to any activation that was there before and is below. That is enough to tell fibers
//! apart as long as all of their calls are in the list; and if calls end out of order, so that they may not be, the
//! process is aborted.

use super::alt_stack;
use super::exit::{Exit, ExitFrame};
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
    sp: UnsafeCell<usize>,
    previous: Link,
    stack: Stack,
    others: Others,
    /// Whether the thread was in no other call when it began this one.
    outermost: bool,
    /// The frame of the previous activation's guest code that called out, to whoever made this activation.
    caller: Option<ExitFrame>,
    /// Null for none.
    exit: *const Exit,
    trace: Option<NonNull<Trace<[usize]>>>,
    trap: Cell<Option<Trap>>,
}

/// An activation, if it still is one, and the stack that it was made on.
#[derive(Clone, Copy)]
struct Link {
    activation: *const Activation,
    /// The one before it, for when the frame of that one has gone, and was written over.
    before: *const Activation,
    stack: Stack,
    others: Others,
}

/// What is known of the addresses of the activations of a list, seen from the last one: as much as tells three stacks
/// from each other, and any number that go up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Others {
    /// The nearest on either side, or something nearer.
    below: usize,
    above: usize,
    /// Of all, that one included.
    lowest: usize,
    highest: usize,
}

impl Others {
    const NONE: Others = Others { below: 0, above: usize::MAX, lowest: usize::MAX, highest: 0 };

    /// The same, seen from `here`, if this is seen from `last`.
    fn seen_from(self, here: usize, last: usize) -> Others {
        let nearest = if here < self.lowest {
            (0, self.lowest)
        } else if here > self.highest {
            (self.highest, usize::MAX)
        } else if self.below < here && here < last {
            (self.below, last)
        } else if last < here && here < self.above {
            (last, self.above)
        } else {
            (here, here)
        };
        let (lowest, highest) = (self.lowest.min(here), self.highest.max(here));
        Others { below: nearest.0, above: nearest.1, lowest, highest }
    }
}

/// Of `catch_trap_with` and `enter` together, at most, in bytes.
const LARGEST_FRAME: usize = 4096;

thread_local! {
    // Initialised at compile time and without a destructor: an access is an address computation, nothing is
    // registered or allocated. `catch_trap` touches them before any handler does.
    static OWN: Cell<Link> = const { Cell::new(Link::NONE) };
    static FOREIGN: Cell<Link> = const { Cell::new(Link::NONE) };
}

/// One of the two thread-locals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Own,
    Foreign,
}

impl Slot {
    fn other(self) -> Slot {
        match self {
            Slot::Own => Slot::Foreign,
            Slot::Foreign => Slot::Own,
        }
    }

    fn get(self) -> Link {
        match self {
            Slot::Own => OWN.get(),
            Slot::Foreign => FOREIGN.get(),
        }
    }

    fn set(self, link: Link) {
        match self {
            Slot::Own => OWN.set(link),
            Slot::Foreign => FOREIGN.set(link),
        }
    }
}

/// The innermost activation on the stack that `sp` is on; `None` if that is not known to be one of this thread's.
/// Handlers: only after the registry said that this thread runs guest code.
///
/// The reference must not be used after that activation's `catch_trap` returned.
pub(super) fn innermost<'a>(sp: usize) -> Option<&'a Activation> {
    let link = OWN.get();
    let link = if link.stack.contains(sp) {
        link
    } else if alt_stack::own_stack().is_some_and(|own| own.contains(sp)) {
        return None;
    } else {
        FOREIGN.get()
    };
    link.innermost(sp)
}

impl Link {
    const NONE: Link = Link { activation: ptr::null(), before: ptr::null(), stack: Stack::NONE, others: Others::NONE };

    /// See [`innermost`].
    fn innermost<'a>(mut self, sp: usize) -> Option<&'a Activation> {
        loop {
            let before = if !self.is_intact(sp) {
                self.before
            } else if self.activation.addr() > sp {
                // SAFETY: on the stack that is executing, above the stack pointer, and what `catch_trap` made it:
                // its frame is still there.
                return unsafe { self.activation.as_ref() };
            } else {
                // SAFETY: as `is_intact` says, it can be read; whatever is there is a pointer.
                unsafe { (&raw const (*self.activation).previous.activation).read_volatile() }
            };
            // Callers are above, so this ends.
            if before <= self.activation {
                return None;
            }
            self = Link { activation: before, before: ptr::null(), ..self };
        }
    }

    /// Whether there is an activation, or what is left of it, of the stack that `sp` is on.
    fn is_intact(self, sp: usize) -> bool {
        let Link { activation, stack, .. } = self;
        let address = activation.addr();
        if !stack.contains(sp) || !stack.contains(address) || !activation.is_aligned() {
            return false;
        }
        // Below the stack pointer, an unknown stack may have ended.
        if address <= sp && !stack.is_known() {
            return false;
        }
        // SAFETY: on the stack that `sp` is on, which is in use above `sp`, and has been below.
        let entry = unsafe { (&raw const (*activation).sp).cast::<usize>().read_volatile() };
        let below = address.wrapping_sub(entry);
        if below > LARGEST_FRAME || !entry.is_multiple_of(16) || !stack.contains(entry) || (sp < address && entry < sp)
        {
            return false;
        }
        // SAFETY: as above, and aligned.
        let owner = unsafe { ptr::with_exposed_provenance::<usize>(entry.wrapping_add(arch::OWNER)).read_volatile() };
        // SAFETY: no access.
        owner == unsafe { (&raw const (*activation).sp).addr() }
    }
}

impl Activation {
    pub(super) fn stack(&self) -> Stack {
        self.stack
    }

    /// The stack pointer of the frame to land on: the end of the stack that belongs to the guest code. `None` if the
    /// activation was not entered yet.
    pub(super) fn entry(&self) -> Option<usize> {
        // SAFETY: written by `arch::enter` on this thread only, and not while this runs.
        let sp = unsafe { *self.sp.get() };
        (sp != 0).then_some(sp)
    }

    /// The activation around this one, on the same stack.
    pub(super) fn previous(&self) -> Option<&Activation> {
        self.previous.innermost(ptr::from_ref(self).addr())
    }

    /// Whether there was none when this one was made, on any stack.
    pub(super) fn is_outermost(&self) -> bool {
        self.outermost
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
    /// Nothing.
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
/// [`handle_signal`](super::handle_signal); debug builds print a hint if nobody does. Calls nest: a host function called from guest code may enter again, and a
/// trap ends the innermost call only.
///
/// When this returns `Err`, all callee-saved registers and the floating-point control words are as they were at the
/// call. The signal mask and the alternate signal stack are as they were *at the trap*: what a host function changed in
/// between and did not put back stays changed.
///
/// # Panics
///
/// At a thread's first entry, before calling `f`, if [`prepare_thread`](super::prepare_thread) fails: no memory for
/// an alternate signal stack, none possible, or a signal that is blocked. A thread that prepared itself successfully
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
/// - Calling `f` with `arg` is sound, and `f` does not unwind. (But the C library may unwind it, to end the thread:
///   `pthread_exit`, cancellation. Later calls on that thread work as ever.)
/// - Every frame between this call and an instruction that may trap, or a host function that may [`raise`], can
///   vanish without running destructors: frames of generated code can, those of a host function that owns anything
///   cannot. `f` itself is such a frame.
/// - What `f` and its callees left half-done when they trapped is handled by the caller.
/// - After a `longjmp` out of this call to a place around it, or on another stack that was in it when it was given up,
///   registered code does not trap before the thread has left the place, or outside of a later call. The later calls
///   notice that this one has gone. Most traps outside of them do as well, and are passed on, but an old frame that
///   nothing wrote to since looks like one that is still there.
/// - Guest code runs on the stack that this is called on. A trap on another one is not caught but passed on, as long as
///   bounds tell the two apart: a thread's own stack has them, others need [`Entry::stack`]. Without it, a stack is
///   neither given up nor resumed on another thread while it is in a call, and nothing traps on another such stack
///   outside of calls.
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
    // SAFETY: the caller's; no buffer and no exit.
    unsafe { catch_trap_with(f, arg, Entry::new()) }
}

/// [`catch_trap`], with a backtrace of the trap.
///
/// Everything that is said there holds here.
///
/// # Panics
///
/// As [`catch_trap`]; and if the stack that was given with [`Entry::stack`] is not the one that this is called on.
///
/// # Safety
///
/// As for [`catch_trap`], and:
///
/// - If a stack is given, it is the one that this is called on, and mapped as it says until this call is left.
/// - If none is, this is not called on the thread's own, and a backtrace or an exit is given: the calls nested in this
///   one are on the same stack. (The frames are read between one and the next.)
/// - Nobody but the guest code writes to the exit, through the pointer that it has, while this runs; and whoever else
///   uses the cell leaves in it what it held.
///
/// # Signal safety
///
/// Not for signal handlers.
///
/// # Examples
///
/// ```ignore-aarch64
/// use std::{ffi::c_void, ptr, sync::Arc};
/// use trapline::signal::{Entry, Signals, catch_trap_with, install};
/// use trapline::{Backtrace, BacktraceEnd, CodeMemory, ImageBuilder, PcKind, TrapCode, register_code};
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
/// let memory = Arc::new(CodeMemory::parse(&image.finish()?)?.publish()?);
/// let _registration = register_code(memory.clone())?;
/// let start = memory.text_range().start;
/// // SAFETY: the text is a function of the C calling convention that leaves nothing to clean up.
/// let function: unsafe extern "C" fn(*mut c_void) = unsafe { std::mem::transmute(start) };
/// // SAFETY: nothing else in this program relies on these signals.
/// unsafe { install(Signals::all())? };
///
/// let mut backtrace = Backtrace::<8>::new();
/// // SAFETY: the functions skip no frames but their own, and stay on this stack.
/// let trap = unsafe { catch_trap_with(function, ptr::null_mut(), Entry::new().backtrace(&mut backtrace)) };
/// assert_eq!(trap.unwrap_err().code, TrapCode::Unreachable);
/// let expected = [(start + 15, PcKind::Faulting), (start + 9, PcKind::ReturnAddress)];
/// assert_eq!(backtrace.frames().collect::<Vec<_>>(), expected);
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
    super::forgotten::look_for_handlers(f as usize);
    let own = match alt_stack::own_stack_of_prepared_thread() {
        Ok(own) => own,
        Err(error) => panic!("cannot prepare this thread for catching traps: {error}"),
    };
    let Entry { trace, exit, stack } = entry;
    let mut place = MaybeUninit::<Activation>::uninit();
    // The activations before this one are above it.
    let here = place.as_ptr().wrapping_add(1).addr();
    if let Some(given) = stack {
        assert!(given.contains(here), "called at {here:#x}, which is not on the stack that was given ({given})");
    }
    let trace = trace.map(|trace| {
        trace.restart(PcKind::ReturnAddress);
        NonNull::from(trace)
    });
    let slot = if own.contains(here) { Slot::Own } else { Slot::Foreign };
    let link = slot.get();
    let around = link.innermost(here);
    let previous = match around {
        Some(around) => {
            Link { activation: around, before: around.previous.activation, stack: around.stack, others: around.others }
        }
        // What is on this stack has gone.
        None if link.stack.contains(here) => Link::NONE,
        None => link,
    };
    let others = previous.others.seen_from(here, previous.activation.addr());
    let stack = match stack {
        Some(given) => given,
        None if previous.stack.is_known() && previous.stack.contains(here) => previous.stack,
        None if own.contains(here) => own,
        // Its end is this call: what is above is of no interest.
        None => Stack::unknown(others.below, here.saturating_add(LARGEST_FRAME)),
    };
    let held = exit.map(|exit| (exit, exit.fp(), exit.pc()));
    // What the previous activation's cell says now it may not say later: this one may share it.
    let caller = around.and_then(Activation::exit);
    if let Some(exit) = exit {
        exit.clear();
    }
    let activation: &Activation = place.write(Activation {
        sp: UnsafeCell::new(0),
        previous,
        stack,
        others,
        outermost: previous.activation.is_null() && slot.other().get().activation.is_null(),
        caller,
        exit: exit.map_or(ptr::null(), ptr::from_ref),
        trace,
        trap: Cell::new(None),
    });
    let inside = Inside { activation, slot, held };
    slot.set(Link { activation, before: previous.activation, stack, others });
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
    slot: Slot,
    held: Option<(&'a Exit, usize, usize)>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Nobody takes it for one that is entered from now on. Volatile: readers find it by its address.
        // SAFETY: `enter` has been left, and nobody else writes to it.
        unsafe { self.activation.sp.get().write_volatile(0) };
        leave(self.activation, self.slot);
        if let Some((exit, fp, pc)) = self.held {
            exit.set(fp, pc);
        }
    }
}

/// Makes the activation before this one the innermost. (Not inlined: a fiber may have changed its thread.)
#[inline(never)]
fn leave(left: &Activation, slot: Slot) {
    let current = slot.get();
    // Others that are deeper on the same stack have gone without telling.
    let inside = slot == Slot::Own || (left.stack.is_known() && left.stack.contains(current.activation.addr()));
    if ptr::eq(current.activation, left) || inside {
        slot.set(left.previous);
    } else if !current.activation.is_null() && !current.stack.is_known() && !left.stack.is_known() {
        eprintln!(
            "trapline: catch_trap on a stack of unknown bounds returns before one that was called later on this thread; \
             to switch between fibers inside of catch_trap, say with Entry::stack where their stacks are"
        );
        std::process::abort();
    }
    // Otherwise a fiber that has been resumed in between is the innermost, and stays it.
}

/// Ends the innermost [`catch_trap`] of this thread with the trap `code`, from a host function that guest code called.
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
/// Not for signal handlers: it would leave the handler without the kernel's knowledge. A handler that wants to stop
/// guest code sets a flag that the code polls.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece of memory as a stack, with calls on it as they would lie there.
    struct Made {
        words: Box<[usize; WORDS]>,
    }

    const WORDS: usize = 4096;

    impl Made {
        fn new() -> Made {
            Made { words: vec![0; WORDS].try_into().unwrap() }
        }

        fn at(&self, word: usize) -> usize {
            self.words.as_ptr().expose_provenance() + word * 16
        }

        fn stack(&self) -> Stack {
            Stack::given(&(self.at(0)..self.at(WORDS / 2)), 0)
        }

        fn link(&self, activation: *const Activation, before: *const Activation) -> Link {
            Link { activation, before, stack: self.stack(), others: Others::NONE }
        }

        /// An activation in a frame so many pairs of words up, which entered guest code 20 pairs further down.
        fn call(&mut self, pair: usize, previous: *const Activation) -> *const Activation {
            let place = ptr::with_exposed_provenance_mut::<Activation>(self.at(pair));
            let previous = self.link(previous, ptr::null());
            let activation = Activation {
                sp: UnsafeCell::new(self.at(pair - 20)),
                previous,
                stack: self.stack(),
                others: Others::NONE,
                outermost: false,
                caller: None,
                exit: ptr::null(),
                trace: None,
                trap: Cell::new(None),
            };
            // SAFETY: within the memory, which is aligned to a word and more.
            unsafe {
                place.write(activation);
                ptr::with_exposed_provenance_mut::<usize>(self.at(pair - 20) + arch::OWNER)
                    .write((*place).sp.get().addr());
            }
            place
        }
    }

    fn found(link: Link, sp: usize) -> *const Activation {
        link.innermost(sp).map_or(ptr::null(), ptr::from_ref)
    }

    #[test]
    fn an_activation_is_found_from_below_the_frame_that_it_entered_from() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        let link = made.link(call, ptr::null());
        for (pair, expected) in [(0, call), (979, call), (980, call), (981, ptr::null()), (1000, ptr::null())] {
            assert_eq!(found(link, made.at(pair)), expected, "{pair}");
        }
        assert_eq!(found(link, made.at(0) - 1), ptr::null(), "another stack");
    }

    #[test]
    fn an_activation_below_the_pointer_is_not_looked_at_on_a_stack_that_may_have_ended() {
        let mut made = Made::new();
        let around = made.call(1090, ptr::null());
        let call = made.call(1000, around);
        let link = made.link(call, ptr::null());
        assert_eq!(found(link, made.at(1050)), around);
        let unknown = Link { stack: Stack::unknown(made.at(0), made.at(1100)), ..link };
        assert_eq!(found(unknown, made.at(0)), call);
        assert_eq!(found(unknown, made.at(1050)), ptr::null());
    }

    #[test]
    fn an_activation_that_is_left_is_none_any_more() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        let link = made.link(call, ptr::null());
        assert_eq!(found(link, made.at(0)), call);
        // SAFETY: in this memory, and nobody else looks at it.
        drop(Inside { activation: unsafe { &*call }, slot: Slot::Foreign, held: None });
        assert_eq!(found(link, made.at(0)), ptr::null());
    }

    #[test]
    fn without_an_activation_there_is_none() {
        let made = Made::new();
        assert_eq!(found(Link::NONE, made.at(0)), ptr::null());
    }

    #[test]
    fn an_activation_and_its_frame_have_each_others_address() {
        for (what, pair, offset, value) in [
            ("the owner", 980, arch::OWNER / 8, 0),
            ("the owner, by one word", 980, arch::OWNER / 8, 8),
            ("the stack pointer, as when it has been left", 1000, 0, 0),
            ("the stack pointer, unaligned", 1000, 0, 1),
        ] {
            let mut made = Made::new();
            let call = made.call(1000, ptr::null());
            let link = made.link(call, ptr::null());
            assert_eq!(found(link, made.at(0)), call);
            // SAFETY: in this memory.
            unsafe {
                let word = ptr::with_exposed_provenance_mut::<usize>(made.at(pair) + 8 * offset);
                let word = if pair == 1000 { (*call).sp.get() } else { word };
                word.write(if value == 0 { 0 } else { word.read() + value });
            }
            assert_eq!(found(link, made.at(0)), ptr::null(), "{what}");
        }
    }

    /// Whatever the order: never further down than the next one below, and no nearer for up to three.
    #[test]
    fn the_nearest_activation_below_is_known() {
        fn each_order(left: &[usize], done: &mut Vec<usize>, others: Others) {
            for (index, here) in left.iter().enumerate() {
                let seen = others.seen_from(*here, done.last().copied().unwrap_or(0));
                let below = done.iter().copied().filter(|other| other < here).max().unwrap_or(0);
                let above = done.iter().copied().filter(|other| other > here).min().unwrap_or(usize::MAX);
                assert!(below <= seen.below && seen.below <= *here, "{here} after {done:?}: {seen:?}");
                assert!(*here <= seen.above && seen.above <= above, "{here} after {done:?}: {seen:?}");
                let all = [done.as_slice(), &[*here]].concat();
                let in_order = all.is_sorted() || all.iter().rev().is_sorted();
                assert!(done.len() > 2 && !in_order || (seen.below, seen.above) == (below, above), "{here}, {done:?}");
                let mut left = left.to_vec();
                done.push(left.remove(index));
                each_order(&left, done, seen);
                done.pop();
            }
        }
        each_order(&[10, 20, 30, 40, 50, 60], &mut Vec::new(), Others::NONE);
    }

    #[test]
    fn an_activation_is_near_its_frame() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        for (entry, expected) in [(1000 - LARGEST_FRAME / 16, call), (1000 - LARGEST_FRAME / 16 - 1, ptr::null())] {
            let entry = made.at(entry);
            // SAFETY: in this memory.
            unsafe {
                (*call).sp.get().write(entry);
                ptr::with_exposed_provenance_mut::<usize>(entry + arch::OWNER).write((*call).sp.get().addr());
            }
            assert_eq!(found(made.link(call, ptr::null()), made.at(0)), expected);
        }
    }

    #[test]
    fn one_that_has_gone_leads_to_the_one_around_it() {
        let mut made = Made::new();
        let outer = made.call(1500, ptr::null());
        let gone = made.call(1000, outer);
        let deeper = made.call(500, gone);
        let sp = made.at(1200);
        assert_eq!(found(made.link(deeper, gone), sp), outer);
        assert_eq!(found(made.link(gone, outer), sp), outer);
        assert_eq!(found(made.link(outer, ptr::null()), sp), outer);
        // Written over: what was before it is still known.
        made.call(1000, outer);
        // SAFETY: in this memory.
        unsafe { (*gone).sp.get().write(0) };
        assert_eq!(found(made.link(gone, outer), sp), outer);
        assert_eq!(found(made.link(gone, ptr::null()), sp), ptr::null());
        assert_eq!(found(made.link(gone, gone), sp), ptr::null(), "and this ends");
    }
}
