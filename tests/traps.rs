//! Traps of hand-assembled code, by the hardware and by the host.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and some bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::*;
use common::{Guest, Loaded, forbidden_page, in_child, install_all, load, page_past_the_end_of_a_file, run};
use std::ffi::c_void;
use std::{ptr, thread};
use trapline::TrapCode;
use trapline::signal::{Trap, catch_trap, raise};

#[track_caller]
fn assert_trap(code: &Loaded, trap: Trap, expected: TrapCode, offset: usize, address: Option<usize>) {
    assert_eq!(trap.code, expected);
    let site = trap.site.unwrap();
    assert_eq!((site.text_offset, site.pc), (offset, code.start + offset));
    assert_eq!(trap.fault_address, address);
}

#[test]
fn an_invalid_instruction_is_a_trap() {
    in_child("", || {
        install_all();
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        let trap = run(&code, ptr::null_mut()).unwrap_err();
        assert_trap(&code, trap, TrapCode::Unreachable, 0, None);
        assert!(trap.to_string().starts_with("trap: unreachable"), "{trap}");
    })
    .well();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_division_by_zero_is_a_trap() {
    in_child("", || {
        install_all();
        let code = load(DIVIDE, &[(6, TrapCode::IntegerDivisionByZero)]);
        let trap = run(&code, ptr::null_mut()).unwrap_err();
        assert_trap(&code, trap, TrapCode::IntegerDivisionByZero, 6, None);
    })
    .well();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_smallest_integer_divided_by_minus_one_is_a_trap() {
    in_child("", || {
        install_all();
        let text = [
            0xb8, 0x00, 0x00, 0x00, 0x80, // mov eax, 0x80000000
            0x99, // cdq
            0xb9, 0xff, 0xff, 0xff, 0xff, // mov ecx, -1
            0xf7, 0xf9, // idiv ecx
            0xc3, // ret
        ];
        let code = load(&text, &[(11, TrapCode::IntegerOverflow)]);
        let trap = run(&code, ptr::null_mut()).unwrap_err();
        assert_trap(&code, trap, TrapCode::IntegerOverflow, 11, None);
    })
    .well();
}

#[test]
fn loads_and_stores_in_a_forbidden_page_are_traps_with_their_address() {
    in_child("", || {
        install_all();
        let page = forbidden_page();
        let load_code = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        let store_code = load(STORE, &[(STORE_AT, TrapCode::MemoryOutOfBounds)]);
        let trap = run(&load_code, page).unwrap_err();
        assert_trap(&load_code, trap, TrapCode::MemoryOutOfBounds, 0, Some(page.addr()));
        let trap = run(&store_code, page).unwrap_err();
        assert_trap(&store_code, trap, TrapCode::MemoryOutOfBounds, STORE_AT, Some(page.addr() + 16));
        // The same code with memory behind its pointer runs to its end.
        let mut room = [0_u32; 8];
        assert_eq!(run(&load_code, room.as_mut_ptr().cast()), Ok(()));
        assert_eq!(run(&store_code, room.as_mut_ptr().cast()), Ok(()));
        assert_eq!(room[4], 1);
    })
    .well();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_address_that_is_not_canonical_is_not_reported() {
    in_child("", || {
        install_all();
        let code = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        let trap = run(&code, ptr::without_provenance_mut(1 << 63)).unwrap_err();
        assert_trap(&code, trap, TrapCode::MemoryOutOfBounds, 0, None);
    })
    .well();
}

#[test]
fn a_load_past_the_end_of_a_mapped_file_is_a_trap() {
    in_child("", || {
        install_all();
        let second_page = page_past_the_end_of_a_file();
        let code = load(LOAD, &[(0, TrapCode::TableOutOfBounds)]);
        let trap = run(&code, second_page).unwrap_err();
        assert_trap(&code, trap, TrapCode::TableOutOfBounds, 0, Some(second_page.addr()));
    })
    .well();
}

/// The number and the code of the signal.
fn signal_of(trap: Trap) -> Option<(i32, i32)> {
    trap.signal.map(|signal| (signal.number, signal.code))
}

#[test]
fn a_trap_says_which_signal_it_was() {
    in_child("", || {
        const ILL_ILLOPC: i32 = 1;
        const ILL_ILLOPN: i32 = 2;
        const SEGV_MAPERR: i32 = 1;
        const SEGV_ACCERR: i32 = 2;
        install_all();
        let invalid = load(INVALID, &[(0, TrapCode::Unreachable)]);
        // Kernels, and emulators, see it differently: an illegal opcode or an illegal operand.
        let illegal = signal_of(run(&invalid, ptr::null_mut()).unwrap_err());
        assert!([ILL_ILLOPC, ILL_ILLOPN].map(|code| Some((libc::SIGILL, code))).contains(&illegal), "{illegal:?}");
        // One load, faulting for three reasons.
        let code = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        let trap = run(&code, forbidden_page()).unwrap_err();
        assert_eq!(signal_of(trap), Some((libc::SIGSEGV, SEGV_ACCERR)));
        assert!(trap.to_string().ends_with(", by SIGSEGV (code 2)"), "{trap}");
        let trap = run(&code, ptr::without_provenance_mut(64)).unwrap_err();
        assert_eq!(signal_of(trap), Some((libc::SIGSEGV, SEGV_MAPERR)));
        let trap = run(&code, page_past_the_end_of_a_file()).unwrap_err();
        assert_eq!(signal_of(trap), Some((libc::SIGBUS, libc::BUS_ADRERR)));
        assert!(trap.to_string().ends_with(", by SIGBUS (code 2)"), "{trap}");
    })
    .well();
}

/// `7 / 0` and `i32::MIN / -1` cannot be told apart; what the documentation tells compilers to do instead.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_checked_division_tells_overflow_from_a_divisor_of_zero() {
    in_child("", || {
        install_all();
        let text = [
            0x8b, 0x07, // mov eax, [rdi]
            0x8b, 0x4f, 0x04, // mov ecx, [rdi + 4]
            0x85, 0xc9, // test ecx, ecx
            0x74, 0x04, // jz to ud2
            0x99, // cdq
            0xf7, 0xf9, // idiv ecx
            0xc3, // ret
            0x0f, 0x0b, // ud2
        ];
        let code = load(&text, &[(10, TrapCode::IntegerOverflow), (13, TrapCode::IntegerDivisionByZero)]);
        let divide = |a: i32, b: i32| {
            let mut both = [a, b];
            run(&code, both.as_mut_ptr().cast())
        };
        assert_eq!(divide(7, 2), Ok(()));
        let overflow = divide(i32::MIN, -1).unwrap_err();
        assert_eq!((overflow.code, signal_of(overflow)), (TrapCode::IntegerOverflow, Some((libc::SIGFPE, 1))));
        let by_zero = divide(7, 0).unwrap_err();
        assert_eq!(by_zero.code, TrapCode::IntegerDivisionByZero);
    })
    .well();
}

#[repr(C)]
struct HostCall {
    function: Guest,
    guest: Guest,
    seen: Option<Trap>,
    returned: bool,
}

#[test]
fn a_trap_ends_the_innermost_entry_only() {
    in_child("", || {
        install_all();
        let outer = load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::BadSignature)]);
        let inner = load(INVALID, &[(0, TrapCode::NullReference)]);
        unsafe extern "C" fn enter_again(arg: *mut c_void) {
            // SAFETY: the test's own structure.
            let call = unsafe { &mut *arg.cast::<HostCall>() };
            for _ in 0..3 {
                // SAFETY: the guest skips only its own frame.
                call.seen = unsafe { catch_trap(call.guest, ptr::null_mut()) }.err();
            }
            call.returned = true;
        }
        let mut call = HostCall { function: enter_again, guest: inner.guest(), seen: None, returned: false };
        let trap = run(&outer, (&raw mut call).cast()).unwrap_err();
        assert_trap(&inner, call.seen.unwrap(), TrapCode::NullReference, 0, None);
        assert!(call.returned);
        assert_trap(&outer, trap, TrapCode::BadSignature, CALL_HOST_INVALID, None);
        // And none is left: the same trap is not ours any more.
        assert_eq!(run(&load(RETURN, &[]), ptr::null_mut()), Ok(()));
    })
    .well();
}

unsafe extern "C" fn interrupt(_: *mut c_void) {
    // SAFETY: called from a guest only; owns nothing.
    unsafe { raise(TrapCode::Interrupt) }
}

#[test]
fn a_host_function_can_raise_a_trap() {
    in_child("", || {
        let outer = load(CALL_HOST, &[]);
        let mut call = HostCall { function: interrupt, guest: interrupt, seen: None, returned: false };
        for _ in 0..1_000 {
            let trap = run(&outer, (&raw mut call).cast()).unwrap_err();
            assert_eq!(trap.code, TrapCode::Interrupt);
            assert_eq!((trap.site, trap.fault_address, trap.signal), (None, None, None));
        }
    })
    .well();
}

#[test]
fn raising_without_an_activation_aborts() {
    in_child("never entered", || {
        // SAFETY: it aborts.
        unsafe { raise(TrapCode::Interrupt) }
    })
    .by_signal(libc::SIGABRT);
    in_child("after a trap", || {
        install_all();
        run(&load(INVALID, &[(0, TrapCode::Unreachable)]), ptr::null_mut()).unwrap_err();
        // SAFETY: it aborts.
        unsafe { raise(TrapCode::Interrupt) }
    })
    .by_signal(libc::SIGABRT);
}

#[test]
fn four_threads_trap_at_the_same_time() {
    in_child("", || {
        install_all();
        let page = forbidden_page().addr();
        let invalid = load(INVALID, &[(0, TrapCode::Unreachable)]);
        #[cfg(target_arch = "x86_64")]
        let divide = &load(DIVIDE, &[(6, TrapCode::IntegerDivisionByZero)]);
        let read = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        thread::scope(|scope| {
            for number in 0..4 {
                let (invalid, read) = (&invalid, &read);
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let address = page + number * 8;
                        let trap = run(read, ptr::with_exposed_provenance_mut(address)).unwrap_err();
                        assert_trap(read, trap, TrapCode::MemoryOutOfBounds, 0, Some(address));
                        let trap = run(invalid, ptr::null_mut()).unwrap_err();
                        assert_trap(invalid, trap, TrapCode::Unreachable, 0, None);
                        #[cfg(target_arch = "x86_64")]
                        {
                            let trap = run(divide, ptr::null_mut()).unwrap_err();
                            assert_trap(divide, trap, TrapCode::IntegerDivisionByZero, 6, None);
                        }
                    }
                });
            }
        });
    })
    .well();
}
