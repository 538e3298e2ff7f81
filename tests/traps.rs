//! Traps of hand-assembled code, by the hardware and by the host.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and some bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::*;
use common::{Guest, Loaded, forbidden_page, in_child, install_all, load, run};
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
        assert_trap(&store_code, trap, TrapCode::MemoryOutOfBounds, STORE_AT as usize, Some(page.addr() + 16));
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
        // SAFETY: a fresh file and a fresh mapping of two pages of it, of which it has one.
        let second_page = unsafe {
            let file = libc::memfd_create(c"trap".as_ptr(), 0);
            assert_eq!(libc::ftruncate(file, 4096), 0);
            libc::mmap(ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, file, 0).add(4096)
        };
        let code = load(LOAD, &[(0, TrapCode::TableOutOfBounds)]);
        let trap = run(&code, second_page).unwrap_err();
        assert_trap(&code, trap, TrapCode::TableOutOfBounds, 0, Some(second_page.addr()));
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
        assert_trap(&outer, trap, TrapCode::BadSignature, CALL_HOST_INVALID as usize, None);
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
            assert_eq!((trap.site, trap.fault_address), (None, None));
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
