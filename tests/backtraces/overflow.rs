//! Stack overflows: the stack pointer is where nothing can be read.

use crate::common::{in_child, install_all, load};
use crate::guest::{Context, Guest, RETURN};
use crate::{pcs, run};
use std::{mem, ptr, thread};
use trapline::signal::{Entry, Exit, catch_trap_with};
use trapline::{Backtrace, BacktraceEnd, TrapCode};

/// Whether each frame is called by the next. The first may hide its caller: it was about to make its frame.
fn is_chain(guest: &Guest, frames: &[usize]) -> bool {
    let Some((&first, callers)) = frames.split_first() else { return false };
    let Some(mut callee) = guest.function_of(first) else { return false };
    callers.iter().enumerate().all(|(index, pc)| {
        let Some(caller) = guest.function_of(*pc - 1) else { return false };
        let calls = |callee: usize| caller == if callee == 1 { 3 } else { callee - 1 };
        let right = calls(callee) || (index == 0 && calls(if callee == 1 { 3 } else { callee - 1 }));
        callee = caller;
        right && *pc == guest.functions[caller].after_call
    })
}

fn overflow(frame: u32) {
    let (guest, exit) = (Guest::load(frame), Exit::new());
    for _ in 0..3 {
        let mut backtrace = Backtrace::<100>::new();
        let mut context = Context::new(1 << 40, RETURN, &exit);
        let trap = run(&guest, &mut context, &mut backtrace, None).unwrap_err();
        assert_eq!(trap.code, TrapCode::StackOverflow);
        assert_eq!((backtrace.len(), backtrace.end()), (100, BacktraceEnd::Full), "{frame}: {backtrace:?}");
        assert!(is_chain(&guest, &pcs(&backtrace)), "{frame}: {backtrace:x?}");
    }
}

const FRAMES: [u32; 6] = [0, 8, 400, 4096, 8 << 10, 70 << 10];

#[test]
fn a_stack_overflow_on_a_spawned_thread_has_the_innermost_frames() {
    in_child("", || {
        install_all();
        for frame in FRAMES {
            thread::Builder::new().stack_size(16 << 20).spawn(move || overflow(frame)).unwrap().join().unwrap();
        }
    })
    .well();
}

/// The lowest address of this thread's stack: just below is the guard.
fn lowest_address() -> usize {
    // SAFETY: asks for this thread, which exists; the attributes are initialised by the answer.
    unsafe {
        let mut attributes: libc::pthread_attr_t = mem::zeroed();
        let (mut low, mut size) = (ptr::null_mut(), 0);
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        assert_eq!(libc::pthread_attr_getstack(&attributes, &mut low, &mut size), 0);
        libc::pthread_attr_destroy(&mut attributes);
        low.addr()
    }
}

#[test]
fn a_frame_pointer_into_the_guard_is_not_followed() {
    in_child("", || {
        install_all();
        let overflow = [
            0x48, 0x89, 0xfc, // mov rsp, rdi
            0x48, 0x89, 0xfd, // mov rbp, rdi
            0x50, // push rax
        ];
        let trap = [
            0x48, 0x89, 0xfc, // mov rsp, rdi
            0x48, 0x89, 0xfd, // mov rbp, rdi
            0x0f, 0x0b, // ud2
        ];
        thread::spawn(move || {
            let overflow = (load(&overflow, &[]), TrapCode::StackOverflow);
            let trap = (load(&trap, &[(6, TrapCode::Unreachable)]), TrapCode::Unreachable);
            for (code, expected) in [&overflow, &trap] {
                for below in [16, 32, 1024, 4080] {
                    let sp = ptr::without_provenance_mut(lowest_address() - below);
                    let mut backtrace = Backtrace::<8>::new();
                    let entry = Entry::new().backtrace(&mut backtrace);
                    // SAFETY: nothing is skipped but the function; the stack pointer is the caller's again afterwards.
                    let trap = unsafe { catch_trap_with(code.guest(), sp, entry) }.unwrap_err();
                    assert_eq!(trap.code, *expected);
                    assert_eq!((pcs(&backtrace), backtrace.end()), (vec![code.start + 6], BacktraceEnd::Corrupt));
                }
            }
        })
        .join()
        .unwrap();
    })
    .well();
}

/// The test harness keeps the main thread for itself, so this body runs before it starts.
extern "C" fn before_main() {
    let selected = std::env::var(crate::common::SELECTED).unwrap_or_default();
    if selected.starts_with("overflow::a_stack_overflow_on_the_main_thread") {
        install_all();
        // As it is at first, and as somebody changes it.
        for bytes in [8 << 20, 64 << 20, 12 << 20] {
            // SAFETY: a valid structure, of this process.
            unsafe {
                let mut limit: libc::rlimit = mem::zeroed();
                assert_eq!(libc::getrlimit(libc::RLIMIT_STACK, &mut limit), 0);
                limit.rlim_cur = limit.rlim_max.min(bytes);
                assert_eq!(libc::setrlimit(libc::RLIMIT_STACK, &limit), 0);
            }
            FRAMES.into_iter().for_each(overflow);
        }
        // SAFETY: nothing to clean up.
        unsafe { libc::_exit(42) };
    }
}

// SAFETY: the section holds functions that the C library calls at start.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[test]
fn a_stack_overflow_on_the_main_thread_has_the_innermost_frames() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}
