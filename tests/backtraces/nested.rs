//! Guest calls host calls guest: frames of both guests, and nothing made up in between.

use crate::common::{in_child, install_all};
use crate::guest::{CALL_HOST, Context, Guest, TRAP};
use crate::{HostEntry, assert_kinds, enter_without_frame_pointers, pcs, run};
use std::ffi::c_void;
use trapline::signal::{Entry, Exit, catch_trap, catch_trap_with, raise};
use trapline::{Backtrace, BacktraceEnd, PcKind, TrapCode};

/// What the host function that enters again does.
struct Nest<'a> {
    guest: &'a Guest,
    /// Called with the cell of the outer call before entering again.
    before: &'a dyn Fn(&Exit),
    exit: &'a Exit,
    inner: Context,
    inner_exit: Option<&'a Exit>,
    backtrace: Backtrace<128>,
    trap: Option<TrapCode>,
}

unsafe extern "C" fn nest(context: *mut c_void) {
    // SAFETY: the test's own context, whose data is a `Nest`.
    let this = unsafe { &mut *(*context.cast::<Context>()).data.cast::<Nest<'_>>() };
    (this.before)(this.exit);
    let result = run(this.guest, &mut this.inner, &mut this.backtrace, this.inner_exit);
    this.trap = result.err().map(|trap| trap.code);
}

const OUTER: u64 = 4;
const INNER: u64 = 7;

/// A guest at depth `OUTER` calls the host, which enters one that traps at depth `INNER`.
fn trap_inside(guest: &Guest, exits: bool, before: &dyn Fn(&Exit)) -> Backtrace<128> {
    let exit = Exit::new();
    let inner_exit = exits.then_some(&exit);
    let inner = Context::new(INNER, TRAP, &exit);
    let backtrace = Backtrace::new();
    let mut this = Nest { guest, before, exit: &exit, inner, inner_exit, backtrace, trap: None };
    let mut context = Context { host: nest, data: (&raw mut this).cast(), ..Context::new(OUTER, CALL_HOST, &exit) };
    let mut outer = Backtrace::<8>::new();
    run(guest, &mut context, &mut outer, inner_exit).unwrap();
    assert_eq!(this.trap, Some(TrapCode::Unreachable));
    assert_eq!(outer.end(), BacktraceEnd::NotTaken, "the outer call did not trap");
    this.backtrace
}

#[test]
fn a_trap_inside_a_nested_call_has_the_frames_of_both_guests() {
    in_child("", || {
        install_all();
        let guest = Guest::load(0);
        let backtrace = trap_inside(&guest, true, &|_| ());
        assert_eq!(pcs(&backtrace), [guest.trapped(INNER), guest.called_out(OUTER)].concat());
        assert_eq!(backtrace.end(), BacktraceEnd::Complete);
        assert_kinds(&backtrace, PcKind::Interrupted);
    })
    .well();
}

#[test]
fn host_code_that_entered_the_inner_guest_does_not_end_the_walk() {
    unsafe extern "C" fn nest(context: *mut c_void) {
        // SAFETY: the test's own context, whose data is a `Nest`; the function that enters owns nothing.
        unsafe {
            let this = &mut *(*context.cast::<Context>()).data.cast::<Nest<'_>>();
            let mut call = HostEntry { function: this.guest.main(), context: this.inner.as_argument() };
            let entry = Entry::new().backtrace(&mut this.backtrace);
            catch_trap_with(enter_without_frame_pointers, (&raw mut call).cast(), entry).unwrap_err();
        }
    }
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let (inner, backtrace) = (Context::new(INNER, TRAP, &exit), Backtrace::new());
        let mut this =
            Nest { guest: &guest, before: &|_| (), exit: &exit, inner, inner_exit: None, backtrace, trap: None };
        let mut context = Context { host: nest, data: (&raw mut this).cast(), ..Context::new(OUTER, CALL_HOST, &exit) };
        run(&guest, &mut context, &mut Backtrace::<8>::new(), Some(&exit)).unwrap();
        assert_eq!(pcs(&this.backtrace), [guest.trapped(INNER), guest.called_out(OUTER)].concat());
        assert_eq!(this.backtrace.end(), BacktraceEnd::Complete);
    })
    .well();
}

#[test]
fn without_an_exit_only_the_inner_frames_are_known() {
    in_child("", || {
        install_all();
        let guest = Guest::load(0);
        for backtrace in [trap_inside(&guest, false, &|_| ()), trap_inside(&guest, true, &Exit::clear)] {
            assert_eq!(pcs(&backtrace), guest.trapped(INNER));
            assert_eq!(backtrace.end(), BacktraceEnd::HostFrame);
        }
    })
    .well();
}

/// An address on the stack that calls from here will be above.
#[inline(never)]
fn below_the_next_call() -> usize {
    let room = std::hint::black_box([0_usize; 8192]);
    (&raw const room).addr() & !15
}

#[test]
fn an_exit_that_is_garbage_ends_the_walk_where_the_guest_was_entered() {
    in_child("", || {
        install_all();
        let guest = Guest::load(0);
        let heap = Box::leak(vec![guest.functions[0].after_call; 64].into_boxed_slice());
        type Lie<'a> = (&'a str, &'a dyn Fn(&Exit) -> usize);
        let fps: [Lie<'_>; 10] = [
            ("the heap", &|_| heap.as_ptr().addr()),
            ("no memory", &|_| 0x10),
            ("above the outer call", &|_| (&raw const heap).addr() & !15),
            // Readable, as it is on this stack; but the outer guest's frames are all above the inner call.
            ("below the inner call", &|_| below_the_next_call()),
            ("the entry", &|exit| exit.fp() + (1 << 20)),
            ("the end of memory", &|_| usize::MAX & !15),
            ("unaligned", &|exit| exit.fp() + 1),
            ("the cell", &|exit| (&raw const *exit).addr()),
            ("kernel memory", &|_| 1 << 63),
            ("one", &|_| 1),
        ];
        for (what, fp) in fps {
            let backtrace = trap_inside(&guest, true, &|exit| exit.set(fp(exit), exit.pc()));
            assert_eq!(pcs(&backtrace), guest.trapped(INNER), "{what}");
            assert_eq!(backtrace.end(), BacktraceEnd::Corrupt, "{what}");
        }
        for pc in [0, 1, nest as *const () as usize, usize::MAX] {
            let backtrace = trap_inside(&guest, true, &|exit| exit.set(exit.fp(), pc));
            assert_eq!(pcs(&backtrace), guest.trapped(INNER), "{pc:#x}");
            assert_eq!(backtrace.end(), BacktraceEnd::HostFrame, "{pc:#x}");
        }
    })
    .well();
}

#[test]
fn an_exit_anywhere_in_the_outer_stack_reads_nothing_else() {
    in_child("", || {
        install_all();
        let guest = Guest::load(0);
        for offset in 0..400 {
            let backtrace = trap_inside(&guest, true, &|exit| exit.set(exit.fp() + offset, exit.pc()));
            let (inner, frames) = (guest.trapped(INNER), pcs(&backtrace));
            assert_eq!(frames[..inner.len()], inner);
            assert!(frames.len() <= inner.len() + 1 + guest.called_out(OUTER).len(), "{offset}: {backtrace:?}");
            if offset % 8 != 0 {
                assert_eq!((frames.len(), backtrace.end()), (inner.len(), BacktraceEnd::Corrupt));
            }
        }
    })
    .well();
}

/// Enters itself until `left` is 0, then traps.
struct Deeper<'a> {
    guest: &'a Guest,
    exit: &'a Exit,
    left: u64,
    backtrace: &'a mut Backtrace<512>,
}

unsafe extern "C" fn deeper(context: *mut c_void) {
    // SAFETY: the test's own context, whose data is a `Deeper`.
    let this = unsafe { &mut *(*context.cast::<Context>()).data.cast::<Deeper<'_>>() };
    this.left -= 1;
    let bottom = if this.left == 0 { TRAP } else { CALL_HOST };
    let held = (this.exit.fp(), this.exit.pc());
    let mut inner = Context { host: deeper, data: ptr_to(this), ..Context::new(this.left % 5, bottom, this.exit) };
    if bottom == TRAP {
        run(this.guest, &mut inner, this.backtrace, Some(this.exit)).unwrap_err();
    } else {
        let entry = Entry::new().exit(this.exit);
        // SAFETY: as in `run`.
        unsafe { catch_trap_with(this.guest.main(), inner.as_argument(), entry) }.unwrap();
    }
    assert_eq!((this.exit.fp(), this.exit.pc()), held, "the cell is the outer call's again");
}

fn ptr_to(this: &mut Deeper<'_>) -> *mut c_void {
    std::ptr::from_mut(this).cast()
}

#[test]
fn one_cell_serves_any_number_of_nested_calls() {
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut backtrace = Backtrace::<512>::new();
        let mut this = Deeper { guest: &guest, exit: &exit, left: 30, backtrace: &mut backtrace };
        let mut context = Context { host: deeper, data: ptr_to(&mut this), ..Context::new(30 % 5, CALL_HOST, &exit) };
        let mut outer = Backtrace::<8>::new();
        run(&guest, &mut context, &mut outer, Some(&exit)).unwrap();
        let mut expected = guest.trapped(0);
        for left in 1..=30 {
            expected.extend(guest.called_out(left % 5));
        }
        assert_eq!((pcs(&backtrace), backtrace.end()), (expected, BacktraceEnd::Complete));
    })
    .well();
}

#[test]
fn a_trap_of_the_outer_guest_after_a_nested_call_has_its_own_frames_only() {
    unsafe extern "C" fn enter_and_return(context: *mut c_void) {
        // SAFETY: the test's own context, whose data is a guest; it changes the outer context on the way out.
        unsafe {
            let context = &mut *context.cast::<Context>();
            let guest = &*context.data.cast::<Guest>();
            let mut inner = Context::new(INNER, TRAP, &*context.exit);
            catch_trap(guest.main(), inner.as_argument()).unwrap_err();
            raise(TrapCode::OutOfFuel)
        }
    }
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut context = Context {
            host: enter_and_return,
            data: (&raw const guest).cast_mut().cast(),
            ..Context::new(OUTER, CALL_HOST, &exit)
        };
        let mut backtrace = Backtrace::<64>::new();
        let trap = run(&guest, &mut context, &mut backtrace, Some(&exit)).unwrap_err();
        assert_eq!(trap.code, TrapCode::OutOfFuel);
        assert_eq!((pcs(&backtrace), backtrace.end()), (guest.called_out(OUTER), BacktraceEnd::Complete));
    })
    .well();
}
