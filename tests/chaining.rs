//! What is not a trap gets what the action before ours would have done.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and many bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{self, ENDLESS, INVALID, LOAD};
use common::old_handler::*;
use common::{forbidden_page, in_child, install_all, load};
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::{ptr, thread};
use trapline::TrapCode;
use trapline::signal::catch_trap;

#[test]
fn a_fault_in_host_code_reaches_the_old_handler_with_its_information() {
    in_child("", || {
        set_action(libc::SIGSEGV, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        let page = forbidden_page();
        let (host, _memory) = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]).unregister();
        // SAFETY: sets this thread's variable; the load's fault is skipped.
        unsafe {
            *libc::__errno_location() = libc::EDOM;
            host(page);
        }
        assert_eq!(errno(), libc::EDOM);
        assert_eq!(calls(), 1);
        assert_eq!(SIGNUM.load(Ordering::Relaxed), libc::SIGSEGV);
        assert_eq!(CODE.load(Ordering::Relaxed), 2, "SEGV_ACCERR");
        assert_eq!(ADDRESS.load(Ordering::Relaxed), page.addr());
        assert_eq!(PC.load(Ordering::Relaxed), host as *const () as usize);
        // SAFETY: no preconditions.
        assert_eq!(THREAD.load(Ordering::Relaxed), unsafe { libc::gettid() });
    })
    .well();
}

#[test]
fn a_fault_in_host_code_below_an_activation_is_passed_on() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        let (host, _memory) = load(INVALID, &[(0, TrapCode::Unreachable)]).unregister();
        // SAFETY: the fault is skipped, the function returns.
        assert_eq!(unsafe { catch_trap(host, ptr::null_mut()) }, Ok(()));
        assert_eq!(calls(), 1);
    })
    .well();
}

#[test]
fn a_fault_at_registered_code_that_is_no_trap_site_is_passed_on() {
    for (signum, text) in [(libc::SIGILL, INVALID), (libc::SIGSEGV, LOAD)] {
        in_child(&signum.to_string(), || {
            set_action(signum, handler(SKIP), libc::SA_SIGINFO, &[]);
            install_all();
            let code = load(text, &[(2, TrapCode::Unreachable)]);
            // SAFETY: the fault is skipped, the function returns.
            let answer = unsafe { catch_trap(code.guest(), forbidden_page()) };
            assert_eq!(answer, Ok(()));
            assert_eq!(calls(), 1);
        })
        .well();
    }
}

#[test]
fn a_trap_on_a_thread_without_activation_is_passed_on() {
    for variant in ["never entered", "entered before", "other thread inside"] {
        in_child(variant, || {
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
            install_all();
            let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
            let guest = code.guest();
            match variant {
                "entered before" => {
                    // SAFETY: skips only the guest's frame.
                    unsafe { catch_trap(guest, ptr::null_mut()) }.unwrap_err();
                }
                "other thread inside" => {
                    unsafe extern "C" fn wait(arg: *mut c_void) {
                        // SAFETY: the test's barrier.
                        unsafe { &*arg.cast::<std::sync::Barrier>() }.wait();
                        thread::sleep(std::time::Duration::from_secs(30));
                    }
                    let barrier: &_ = Box::leak(Box::new(std::sync::Barrier::new(2)));
                    thread::spawn(|| {
                        let arg = ptr::from_ref(barrier).cast_mut().cast();
                        // SAFETY: no frame is skipped.
                        unsafe { catch_trap(wait, arg) }
                    });
                    barrier.wait();
                }
                _ => {}
            }
            // SAFETY: the fault is skipped, the function returns.
            unsafe { guest(ptr::null_mut()) };
            assert_eq!(calls(), 1);
        })
        .well();
    }
}

const SENT: [Sent; 4] = [Sent::Kill, Sent::Raise, Sent::PthreadKill, Sent::Queue];

/// A signal to the process may go to another thread and take its time.
fn wait_for_calls(expected: usize) {
    for _ in 0..10_000 {
        if calls() >= expected {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(calls(), expected);
}

fn wait_to_die() {
    thread::sleep(std::time::Duration::from_secs(30));
}

#[test]
fn a_sent_signal_kills_if_the_old_action_was_the_default() {
    for signum in FOUR {
        for how in SENT {
            in_child(&format!("{signum} {how:?}"), || {
                set_action(signum, libc::SIG_DFL, 0, &[]);
                install_all();
                send(how, signum);
                wait_to_die();
            })
            .by_signal(signum);
        }
    }
}

#[test]
fn a_sent_signal_is_ignored_if_it_was_before() {
    for signum in FOUR {
        in_child(&signum.to_string(), || {
            set_action(signum, libc::SIG_IGN, 0, &[]);
            install_all();
            for _ in 0..3 {
                for how in SENT {
                    send(how, signum);
                }
            }
            // And ours stays installed.
            assert_ne!(action_of(signum).sa_sigaction, libc::SIG_IGN);
        })
        .well();
    }
}

#[test]
fn a_sent_signal_reaches_the_old_handler() {
    for signum in FOUR {
        in_child(&signum.to_string(), || {
            set_action(signum, handler(SKIP), libc::SA_SIGINFO, &[]);
            install_all();
            for (index, how) in SENT.into_iter().enumerate() {
                send(how, signum);
                wait_for_calls(index + 1);
                assert_eq!(SIGNUM.load(Ordering::Relaxed), signum);
                assert!(CODE.load(Ordering::Relaxed) <= 0);
            }
        })
        .well();
    }
}

#[test]
fn a_signal_sent_while_a_guest_is_at_a_trap_site_is_no_trap() {
    in_child("", || {
        set_action(libc::SIGSEGV, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        let code = load(ENDLESS, &[(0, TrapCode::MemoryOutOfBounds)]);
        let guest = code.guest();
        // SAFETY: no preconditions.
        let this_thread = unsafe { libc::gettid() };
        thread::scope(|scope| {
            scope.spawn(move || {
                while PC.load(Ordering::Relaxed) != guest as *const () as usize {
                    send_to(this_thread, libc::SIGSEGV);
                    thread::sleep(std::time::Duration::from_millis(1));
                }
                let start = guest as *const () as usize;
                // SAFETY: the test's own code.
                unsafe {
                    let page = ptr::with_exposed_provenance_mut::<c_void>(start & !4095);
                    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                    assert_eq!(libc::mprotect(page, 4096, all), 0);
                    machine::end(start);
                }
            });
            // SAFETY: returns once the loop is open.
            assert_eq!(unsafe { catch_trap(guest, ptr::null_mut()) }, Ok(()));
        });
    })
    .well();
}

#[test]
fn a_fault_kills_if_the_old_action_was_the_default_or_to_ignore() {
    for action in [libc::SIG_DFL, libc::SIG_IGN] {
        let causes = [
            (libc::SIGILL, INVALID),
            (libc::SIGSEGV, LOAD),
            #[cfg(target_arch = "x86_64")]
            (libc::SIGFPE, machine::DIVIDE),
        ];
        for (signum, text) in causes {
            in_child(&format!("{signum} {action}"), || {
                set_action(signum, action, 0, &[]);
                install_all();
                call_as_host(text, forbidden_page());
            })
            .by_signal(signum);
        }
    }
}
