//! The old action's handler runs as if it were still the current one: its kind, its flags, its mask.
//!
//! Each body runs in a child process: signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{INVALID, LOAD, RECURSE};
use common::old_handler::*;
use common::{Guest, forbidden_page, in_child, install_all, load};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::{Signals, catch_trap, handle_signal, install, installed, prepare_thread};

#[test]
fn a_handler_of_one_argument_is_called_as_such() {
    in_child("", || {
        set_action(libc::SIGSEGV, handler(OPEN_PAGE), 0, &[]);
        install_all();
        let page = forbidden_page();
        PAGE.store(page.expose_provenance(), Ordering::Relaxed);
        call_as_host(LOAD, page);
        assert_eq!((calls(), SIGNUM.load(Ordering::Relaxed)), (1, libc::SIGSEGV));
        send(Sent::Raise, libc::SIGSEGV);
        assert_eq!(calls(), 2);
    })
    .well();
}

#[test]
fn a_one_shot_handler_runs_once() {
    for sent in [true, false] {
        let variant = if sent { "sent" } else { "fault" };
        in_child(variant, || {
            let flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
            set_action(libc::SIGILL, handler(SKIP), flags, &[]);
            install_all();
            let cause = || match sent {
                true => send(Sent::Raise, libc::SIGILL),
                false => call_as_host(INVALID, ptr::null_mut()),
            };
            cause();
            if calls() != 1 {
                std::process::exit(1);
            }
            cause();
            std::process::exit(2);
        })
        .by_signal(libc::SIGILL);
    }
}

#[test]
fn the_old_handlers_mask_is_in_force_while_it_runs_and_no_longer() {
    let (usr1, usr2, ill) = (libc::SIGUSR1, libc::SIGUSR2, libc::SIGILL);
    for (variant, flags, expected) in [
        ("deferred", libc::SA_SIGINFO, bit(usr1) | bit(usr2) | bit(ill)),
        ("not deferred", libc::SA_SIGINFO | libc::SA_NODEFER, bit(usr1) | bit(usr2)),
        ("one argument", 0, bit(usr1) | bit(usr2) | bit(ill)),
        ("one argument, not deferred", libc::SA_NODEFER, bit(usr1) | bit(usr2)),
    ] {
        in_child(variant, || {
            let which = if flags & libc::SA_SIGINFO != 0 { SKIP } else { OPEN_PAGE };
            set_action(ill, handler(which), flags, &[usr2]);
            install_all();
            // SAFETY: blocks one signal in this thread.
            let before = unsafe {
                let mut blocked: libc::sigset_t = mem::zeroed();
                libc::sigaddset(&mut blocked, usr1);
                libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, ptr::null_mut());
                mask()
            };
            assert_eq!(before, bit(usr1));
            send(Sent::Raise, ill);
            assert_eq!(calls(), 1);
            assert_eq!(MASK.load(Ordering::Relaxed), expected);
            assert_eq!(mask(), before);
        })
        .well();
    }
}

#[test]
fn an_old_handler_that_is_not_deferred_is_interrupted_by_its_own_signal() {
    static DEPTH: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn nest(signum: c_int) {
        if DEPTH.fetch_add(1, Ordering::Relaxed) < 3 {
            // SAFETY: sends to this thread.
            unsafe { libc::raise(signum) };
            // Ran inside `raise`, not after us.
            assert_eq!(DEPTH.load(Ordering::Relaxed), 4);
        }
    }
    in_child("", || {
        set_action(libc::SIGFPE, nest as *const () as usize, libc::SA_NODEFER, &[]);
        install_all();
        // The alternate stack of the test's thread has no room for four signal frames.
        prepare_thread().unwrap();
        send(Sent::Raise, libc::SIGFPE);
        assert_eq!(DEPTH.load(Ordering::Relaxed), 4);
    })
    .well();
}

#[test]
fn system_calls_are_restarted_if_they_were_before() {
    for (variant, action, flags, restarted) in [
        ("interrupted", handler(SKIP), 0, false),
        ("restarted", handler(SKIP), libc::SA_RESTART, true),
        ("ignored", libc::SIG_IGN, 0, true),
    ] {
        in_child(variant, || {
            set_action(libc::SIGFPE, action, libc::SA_SIGINFO | flags, &[]);
            install_all();
            // SAFETY: a fresh pipe; the other thread interrupts the read, then gives it a byte.
            unsafe {
                let mut pipe = [0; 2];
                assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
                let reader = libc::gettid();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        for _ in 0..50 {
                            thread::sleep(std::time::Duration::from_millis(2));
                            send_to(reader, libc::SIGFPE);
                        }
                        libc::write(pipe[1], [1_u8].as_ptr().cast(), 1);
                    });
                    let mut byte = 0_u8;
                    let read = libc::read(pipe[0], (&raw mut byte).cast(), 1);
                    assert_eq!(read, if restarted { 1 } else { -1 });
                });
            }
        })
        .well();
    }
}

#[test]
fn installing_twice_and_from_many_threads_keeps_the_old_action() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(install_all);
            }
        });
        install_all();
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!(calls(), 1);
    })
    .well();
}

#[test]
fn signals_that_were_not_asked_for_stay_as_they_are() {
    in_child("", || {
        for signum in FOUR {
            set_action(signum, handler(SKIP), libc::SA_SIGINFO, &[]);
        }
        // SAFETY: the child process is about these signals.
        unsafe { install(Signals::ILL | Signals::FPE) }.unwrap();
        let ours = FOUR.map(|signum| action_of(signum).sa_sigaction != handler(SKIP));
        assert_eq!(ours, [false, false, true, true]);
    })
    .well();
}

#[test]
fn the_signals_that_are_installed_are_told_until_somebody_changes_the_action() {
    in_child("", || {
        assert_eq!(installed(), Signals::empty());
        // SAFETY: the child process is about these signals.
        unsafe { install(Signals::ILL | Signals::BUS) }.unwrap();
        assert_eq!(installed(), Signals::ILL | Signals::BUS);
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        assert_eq!(installed(), Signals::BUS);
        install_all();
        assert!(installed().contains(Signals::SEGV | Signals::BUS | Signals::FPE));
    })
    .well();
}

#[test]
fn the_standard_librarys_overflow_message_survives() {
    in_child("", || {
        // Its handler is the old action here.
        assert_ne!(action_of(libc::SIGSEGV).sa_sigaction, libc::SIG_DFL);
        install_all();
        thread::spawn(|| call_as_host(RECURSE, ptr::null_mut())).join().unwrap();
    })
    .by_signal(libc::SIGABRT);
}

#[test]
fn an_old_handler_may_leave_by_a_jump() {
    in_child("", || {
        unsafe extern "C" fn leave(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
            // SAFETY: a thread may end anywhere if nothing on its stack needs cleanup.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        set_action(libc::SIGILL, leave as *const () as usize, libc::SA_SIGINFO, &[]);
        install_all();
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        extern "C" fn fault(arg: *mut c_void) -> *mut c_void {
            // SAFETY: an invalid instruction, which ends this thread.
            unsafe { mem::transmute::<*mut c_void, Guest>(arg)(ptr::null_mut()) };
            arg
        }
        // SAFETY: a thread of the C library, which is not joined.
        unsafe {
            let mut other = mem::zeroed();
            let arg = ptr::with_exposed_provenance_mut(code.start);
            assert_eq!(libc::pthread_create(&mut other, ptr::null(), fault, arg), 0);
        }
        thread::sleep(std::time::Duration::from_millis(50));
        // The registry's gate is free, and traps are caught as before.
        // SAFETY: skips only the guest's frame.
        unsafe { catch_trap(code.guest(), ptr::null_mut()) }.unwrap_err();
    })
    .well();
}

#[test]
fn an_embedders_own_handler_catches_traps_and_keeps_the_rest() {
    static REST: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn own(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's arguments.
        if !unsafe { handle_signal(signum, info.cast(), context) } {
            REST.fetch_add(1, Ordering::Relaxed);
            // SAFETY: as above.
            unsafe { skip(signum, info, context) };
        }
    }
    in_child("", || {
        for signum in [libc::SIGILL, libc::SIGUSR1] {
            let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            set_action(signum, own as *const () as usize, flags, &[]);
        }
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        // SAFETY: skips only the guest's frame.
        unsafe { catch_trap(code.guest(), ptr::null_mut()) }.unwrap_err();
        assert_eq!(REST.load(Ordering::Relaxed), 0);
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!(REST.load(Ordering::Relaxed), 1);
        send(Sent::Raise, libc::SIGUSR1);
        assert_eq!(REST.load(Ordering::Relaxed), 2);
    })
    .well();
}
