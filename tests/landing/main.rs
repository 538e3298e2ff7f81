//! What a call of `catch_trap` leaves as it was: registers, floating-point control, mask, alternate stack.
//!
//! Each body runs in a child process: signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod callee_saved;
#[path = "../common/mod.rs"]
mod common;

use callee_saved::*;
use common::machine::{INVALID, LOAD, RETURN};
use common::{Guest, alternate_stack, forbidden_page, in_child, install_all, load, run};
use std::ffi::c_void;
use std::{mem, ptr};
use trapline::TrapCode;
use trapline::signal::{Trap, catch_trap};

#[test]
fn a_trap_restores_callee_saved_registers_and_floating_point_control() {
    in_child("", || {
        install_all();
        let site = CHANGE_EVERYTHING.len() - TRAP_LENGTH;
        let code = load(CHANGE_EVERYTHING, &[(site, TrapCode::Unreachable)]);
        struct Call {
            guest: Guest,
            trap: Option<Trap>,
            before: Option<FloatingPoint>,
            after: Option<FloatingPoint>,
        }
        unsafe extern "C" fn call(arg: *mut c_void) {
            // SAFETY: the test's own `Call`.
            let call = unsafe { &mut *arg.cast::<Call>() };
            round_up();
            call.before = Some(floating_point());
            // SAFETY: the guest skips only its own frame.
            call.trap = unsafe { catch_trap(call.guest, ptr::null_mut()) }.err();
            call.after = Some(floating_point());
            round_as_at_start();
        }
        let mut this = Call { guest: code.guest(), trap: None, before: None, after: None };
        let mut after = Registers::default();
        // SAFETY: `call` takes a `Call`; `after` has room.
        unsafe { with_known_registers(call, (&raw mut this).cast(), &mut after) };
        assert_eq!(this.trap.unwrap().code, TrapCode::Unreachable);
        assert_eq!(after, KNOWN);
        assert_eq!(this.after, this.before);
        assert!(this.after.unwrap().rounds_up());
    })
    .well();
}

#[test]
fn a_guest_that_returns_restores_callee_saved_registers() {
    in_child("", || {
        let code = load(RETURN, &[]);
        unsafe extern "C" fn call(arg: *mut c_void) {
            // SAFETY: the test's own guest, which only returns.
            unsafe { catch_trap(*arg.cast::<Guest>(), ptr::null_mut()) }.unwrap();
        }
        let (mut guest, mut after) = (code.guest(), Registers::default());
        // SAFETY: `call` takes a `Guest`; `after` has room.
        unsafe { with_known_registers(call, (&raw mut guest).cast(), &mut after) };
        assert_eq!(after, KNOWN);
    })
    .well();
}

#[test]
fn unwinders_find_the_caller_of_catch_trap() {
    unsafe extern "C" fn capture(arg: *mut c_void) {
        // SAFETY: the test's own.
        unsafe { *arg.cast::<String>() = std::backtrace::Backtrace::force_capture().to_string() };
    }
    in_child("", || {
        let mut trace = String::new();
        // SAFETY: no frame is skipped.
        unsafe { catch_trap(capture, (&raw mut trace).cast()) }.unwrap();
        let entry = trace.find("capture").expect(&trace);
        // What follows the last colons is a closure, spelt differently by different compilers.
        assert!(trace[entry..].contains("unwinders_find_the_caller_of_catch_trap::{"), "{trace}");
    })
    .well();
}

fn signal_mask() -> Vec<bool> {
    // SAFETY: queries into a valid set.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut set);
        (1..65).map(|signum| libc::sigismember(&set, signum) == 1).collect()
    }
}

#[test]
fn ten_thousand_traps_leave_the_mask_and_the_alternate_stack_alone() {
    in_child("", || {
        install_all();
        let invalid = load(INVALID, &[(0, TrapCode::Unreachable)]);
        let read = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        let page = forbidden_page();
        run(&invalid, ptr::null_mut()).unwrap_err();
        let (mask, stack) = (signal_mask(), alternate_stack());
        for _ in 0..5_000 {
            run(&invalid, ptr::null_mut()).unwrap_err();
            run(&read, page).unwrap_err();
        }
        let after = alternate_stack();
        assert_eq!(mask, signal_mask());
        assert_eq!((stack.ss_sp, stack.ss_size), (after.ss_sp, after.ss_size));
        assert_eq!(after.ss_flags, 0);
    })
    .well();
}
