//! The interrupted code has had the processor check the alignment of each access (`EFLAGS.AC`). The kernel leaves that
//! on in handlers.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and a failure is a SIGBUS.

#![cfg(all(feature = "signal", target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::old_handler::*;
use common::{forbidden_page, in_child, install_all, load, run};
use std::arch::asm;
use std::ptr;
use trapline::TrapCode;

const AC: u64 = 1 << 18;
const DF: u64 = 1 << 10;

/// `pushfq; or dword [rsp], 0x40400; popfq`: checks alignment, and has string instructions run backwards.
const SET_FLAGS: [u8; 9] = [0x9c, 0x81, 0x0c, 0x24, 0x00, 0x04, 0x04, 0x00, 0x9d];

fn flags() -> u64 {
    let flags;
    // SAFETY: reads the flags by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

#[test]
fn a_trap_of_code_that_has_alignment_checked_is_caught() {
    for (variant, traps) in [("invalid", [0x0f, 0x0b]), ("load", [0x8b, 0x07])] {
        in_child(variant, || {
            install_all();
            let site = SET_FLAGS.len();
            // Three pieces of code, and a table with an odd number of sites: what is found has an odd place somewhere.
            let others =
                [1, 2].map(|n| load(&[0x90; 32], &(0..n).map(|at| (at, TrapCode::Interrupt)).collect::<Vec<_>>()));
            let code =
                load(&[&SET_FLAGS[..], &traps].concat(), &[(0, TrapCode::Interrupt), (site, TrapCode::HeapMisaligned)]);
            let before = flags() & (AC | DF);
            for _ in 0..3 {
                let trap = run(&code, forbidden_page());
                // Compiled code would not go far otherwise.
                assert_eq!((before, flags() & (AC | DF)), (0, 0));
                assert_eq!(trap.unwrap_err().code, TrapCode::HeapMisaligned);
            }
            drop(others);
        })
        .well();
    }
}

#[test]
fn code_that_has_alignment_checked_still_has_after_its_signal_was_passed_on() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        let rest = [
            0x0f, 0x0b, // ud2, which is skipped
            0x9c, 0x58, // pushfq; pop rax
            0x48, 0x89, 0x07, // mov [rdi], rax
            0x9c, 0x81, 0x24, 0x24, 0xff, 0xfb, 0xfb, 0xff, 0x9d, // pushfq; and dword [rsp], ~0x40400; popfq
            0xc3, // ret
        ];
        let mut seen = 0_u64;
        call_as_host(&[&SET_FLAGS[..], &rest].concat(), (&raw mut seen).cast());
        assert_eq!((calls(), seen & (AC | DF)), (1, AC | DF));
    })
    .well();
}

#[test]
fn a_trap_of_code_that_has_no_activation_leaves_the_checks_as_they_were() {
    // As above, at a trap site: the handler looked further.
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        let rest = [0x0f, 0x0b, 0x9c, 0x81, 0x24, 0x24, 0xff, 0xfb, 0xfb, 0xff, 0x9d, 0xc3];
        let code = load(&[&SET_FLAGS[..], &rest].concat(), &[(SET_FLAGS.len(), TrapCode::Unreachable)]);
        // SAFETY: the invalid instruction is skipped, and the flags are as before.
        unsafe { code.guest()(ptr::null_mut()) };
        assert_eq!(calls(), 1);
    })
    .well();
}
