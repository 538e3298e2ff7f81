//! Backtraces of guest code whose frames are known in advance.
//!
//! Most bodies run in a child process: signal actions belong to a whole process, and a walk that reads what is not
//! there dies.

#![cfg(all(feature = "signal", target_os = "linux", target_arch = "x86_64"))]

mod chains;
#[path = "../common/mod.rs"]
mod common;
mod guest;
mod nested;
mod overflow;
mod samples;
mod symbols;
mod synthetic;

use guest::{Context, Guest};
use std::arch::naked_asm;
use std::ffi::c_void;
use trapline::signal::{Entry, Exit, Trap, catch_trap_with};
use trapline::{Backtrace, PcKind};

fn pcs<const N: usize>(backtrace: &Backtrace<N>) -> Vec<usize> {
    backtrace.pcs().map(|frame| frame.0).collect()
}

/// What each frame of a backtrace has to be: the first one `first`, the others return addresses.
#[track_caller]
fn assert_kinds<const N: usize>(backtrace: &Backtrace<N>, first: PcKind) {
    for (index, (_, kind)) in backtrace.pcs().enumerate() {
        assert_eq!(kind, if index == 0 { first } else { PcKind::ReturnAddress }, "frame {index}");
    }
}

/// Runs `main` of the guest with a backtrace and an exit.
fn run<const N: usize>(
    guest: &Guest,
    context: &mut Context,
    backtrace: &mut Backtrace<N>,
    exit: Option<&Exit>,
) -> Result<(), Trap> {
    let mut entry = Entry::new().backtrace(backtrace);
    if let Some(exit) = exit {
        entry = entry.exit(exit);
    }
    // SAFETY: the guest skips only its own frames and those of host functions that own nothing, and changes no stacks.
    unsafe { catch_trap_with(guest.main(), context.as_argument(), entry) }
}

/// What [`enter_without_frame_pointers`] calls, and with what.
#[repr(C)]
struct HostEntry {
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
}

/// Host code between `catch_trap` and the guest, with something else in the frame pointer.
#[unsafe(naked)]
unsafe extern "C" fn enter_without_frame_pointers(entry: *mut c_void) {
    naked_asm!("push rbp", "mov ebp, 7", "mov rax, [rdi]", "mov rdi, [rdi + 8]", "call rax", "pop rbp", "ret")
}
