//! One activation: every frame, exactly.

use crate::common::{forbidden_page, in_child, install_all};
use crate::guest::{CALL_HOST, Context, Guest, RETURN, TRAP};
use crate::{HostEntry, assert_kinds, enter_without_frame_pointers, pcs, run};
use std::ffi::c_void;
use std::ptr;
use trapline::signal::{Entry, Exit, catch_trap_with, raise};
use trapline::{Backtrace, BacktraceEnd, PcKind, TrapCode, process};

#[test]
fn a_trap_deep_in_recursion_has_every_caller_with_its_return_address() {
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut backtrace = Backtrace::<256>::new();
        for depth in (0..40).chain([100, 254 - 1]) {
            let trap = run(&guest, &mut Context::new(depth, TRAP, &exit), &mut backtrace, None).unwrap_err();
            assert_eq!(trap.code, TrapCode::Unreachable);
            assert_eq!(backtrace.len() as u64, depth + 2);
            assert_eq!(pcs(&backtrace), guest.trapped(depth));
            assert_eq!(backtrace.end(), BacktraceEnd::Complete);
            assert_kinds(&backtrace, PcKind::Interrupted);
            let (pc, kind) = backtrace.pcs().next().unwrap();
            assert_eq!((Some(pc), kind.instruction(pc)), (trap.site.map(|site| site.pc), pc));
            for (pc, kind) in backtrace.pcs() {
                assert!(process::with(kind.instruction(pc), |_| ()).is_some());
            }
        }
    })
    .well();
}

#[test]
fn a_buffer_smaller_than_the_stack_keeps_the_innermost_frames() {
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        fn check<const N: usize>(guest: &Guest, exit: &Exit) {
            for depth in 0..20 {
                let mut backtrace = Backtrace::<N>::new();
                run(guest, &mut Context::new(depth, TRAP, exit), &mut backtrace, None).unwrap_err();
                let all = guest.trapped(depth);
                let (kept, end) = match all.get(..N) {
                    Some(kept) if all.len() > N => (kept, BacktraceEnd::Full),
                    _ => (all.as_slice(), BacktraceEnd::Complete),
                };
                assert_eq!((pcs(&backtrace).as_slice(), backtrace.end()), (kept, end), "{N} at {depth}");
            }
        }
        check::<0>(&guest, &exit);
        check::<1>(&guest, &exit);
        check::<2>(&guest, &exit);
        check::<7>(&guest, &exit);
        check::<64>(&guest, &exit);
    })
    .well();
}

#[test]
fn a_call_without_a_trap_leaves_the_backtrace_empty() {
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut backtrace = Backtrace::<16>::new();
        run(&guest, &mut Context::new(3, TRAP, &exit), &mut backtrace, None).unwrap_err();
        assert_eq!(backtrace.len(), 5);
        run(&guest, &mut Context::new(3, RETURN, &exit), &mut backtrace, None).unwrap();
        assert_eq!((backtrace.len(), backtrace.end()), (0, BacktraceEnd::NotTaken));
    })
    .well();
}

unsafe extern "C" fn interrupt(_: *mut c_void) {
    // SAFETY: called from a guest only; owns nothing.
    unsafe { raise(TrapCode::Interrupt) }
}

#[test]
fn a_raised_trap_has_the_frames_that_called_the_host() {
    in_child("", || {
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut backtrace = Backtrace::<64>::new();
        for depth in 0..20 {
            let mut context = Context { host: interrupt, ..Context::new(depth, CALL_HOST, &exit) };
            let trap = run(&guest, &mut context, &mut backtrace, Some(&exit)).unwrap_err();
            assert_eq!((trap.code, trap.site), (TrapCode::Interrupt, None));
            assert_eq!(pcs(&backtrace), guest.called_out(depth));
            assert_eq!(backtrace.end(), BacktraceEnd::Complete);
            assert_kinds(&backtrace, PcKind::ReturnAddress);
            assert_eq!((exit.fp(), exit.pc()), (0, 0), "the cell is as it was before the call");

            run(&guest, &mut context, &mut backtrace, None).unwrap_err();
            assert_eq!((backtrace.len(), backtrace.end()), (0, BacktraceEnd::HostFrame));
            exit.clear();
        }
    })
    .well();
}

#[test]
fn a_call_of_the_host_may_be_the_last_instruction_of_its_code() {
    /// Says that the call that led here returns to the end of the code, which is not code any more.
    unsafe extern "C" fn called_from_the_end(context: *mut c_void) {
        // SAFETY: the test's own context, whose data is an address; owns nothing.
        unsafe {
            let context = &*context.cast::<Context>();
            (*context.exit).set((*context.exit).fp(), context.data.addr());
            raise(TrapCode::Interrupt)
        }
    }
    in_child("", || {
        let (guest, exit) = (Guest::load(0), Exit::new());
        let end = guest.image.text_range().end;
        assert!(process::with(end, |_| ()).is_none() && process::with(end - 1, |_| ()).is_some());
        let data = ptr::without_provenance_mut(end);
        let mut context = Context { host: called_from_the_end, data, ..Context::new(3, CALL_HOST, &exit) };
        let mut backtrace = Backtrace::<8>::new();
        run(&guest, &mut context, &mut backtrace, Some(&exit)).unwrap_err();
        assert_eq!(pcs(&backtrace), [vec![end], guest.callers(3)].concat());
        assert_eq!(backtrace.end(), BacktraceEnd::Complete);
    })
    .well();
}

#[test]
fn a_raised_trap_with_an_exit_that_is_garbage_has_no_frames() {
    /// Says that the frame that called it is where the context's data points.
    unsafe extern "C" fn lie(context: *mut c_void) {
        // SAFETY: the test's own context; owns nothing.
        unsafe {
            let context = &*context.cast::<Context>();
            (*context.exit).set(context.data.addr(), (*context.exit).pc());
            raise(TrapCode::Interrupt)
        }
    }
    in_child("", || {
        let (guest, exit) = (Guest::load(0), Exit::new());
        let below_every_stack = forbidden_page();
        // A record as it should be, but not on this thread's stack below the entry.
        let record = [0, guest.at(0).after_call];
        let misplaced = (&raw const record).cast_mut().cast::<c_void>();
        for data in [below_every_stack, misplaced, ptr::without_provenance_mut(8), ptr::without_provenance_mut(!15)] {
            let mut context = Context { host: lie, data, ..Context::new(3, CALL_HOST, &exit) };
            let mut backtrace = Backtrace::<8>::new();
            run(&guest, &mut context, &mut backtrace, Some(&exit)).unwrap_err();
            assert_eq!((backtrace.len(), backtrace.end()), (0, BacktraceEnd::Corrupt), "{data:?}");
        }
    })
    .well();
}

#[test]
fn an_exit_of_another_call_is_not_taken_for_this_ones() {
    in_child("", || {
        let exit = Exit::new();
        let mut backtrace = Backtrace::<8>::new();
        exit.set((&raw const exit).addr(), interrupt as *const () as usize);
        let held = (exit.fp(), exit.pc());
        let entry = Entry::new().backtrace(&mut backtrace).exit(&exit);
        // SAFETY: `interrupt` owns nothing.
        unsafe { catch_trap_with(interrupt, ptr::null_mut(), entry) }.unwrap_err();
        assert_eq!((backtrace.len(), backtrace.end()), (0, BacktraceEnd::HostFrame));
        assert_eq!((exit.fp(), exit.pc()), held);
    })
    .well();
}

#[test]
fn guest_code_that_host_code_entered_has_its_frames_and_no_host_frames() {
    in_child("", || {
        install_all();
        let (guest, exit) = (Guest::load(0), Exit::new());
        let mut context = Context::new(5, TRAP, &exit);
        let mut call = HostEntry { function: guest.main(), context: context.as_argument() };
        let mut backtrace = Backtrace::<64>::new();
        let entry = Entry::new().backtrace(&mut backtrace);
        // SAFETY: the function owns nothing, and the guest's frames do not either.
        unsafe { catch_trap_with(enter_without_frame_pointers, (&raw mut call).cast(), entry) }.unwrap_err();
        assert_eq!((pcs(&backtrace), backtrace.end()), (guest.trapped(5), BacktraceEnd::HostFrame));
    })
    .well();
}
