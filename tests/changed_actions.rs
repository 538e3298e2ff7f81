//! Somebody else sets an action after ours: an old handler while it runs, a library in front, one that goes away.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and many bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{INVALID, LOAD};
use common::old_handler::*;
use common::{forbidden_page, in_child, install_all, load, run};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::{Signals, install, installed, prepare_thread};

/// The two signals that the standard library's own handler is installed for.
const OF_STD: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// A trap is caught as each of two signals, on a thread of the test and on a new one.
fn assert_traps_are_caught() {
    assert_eq!(installed(), Signals::all());
    let invalid = load(INVALID, &[(0, TrapCode::Unreachable)]);
    let read = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
    let page = forbidden_page().addr();
    let twice = || {
        assert_eq!(run(&invalid, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
        assert_eq!(run(&read, ptr::without_provenance_mut(page)).unwrap_err().code, TrapCode::MemoryOutOfBounds);
    };
    twice();
    thread::scope(|scope| scope.spawn(twice).join().unwrap());
}

#[test]
fn a_sent_signal_makes_the_standard_librarys_handler_give_up_but_not_ours() {
    for signum in OF_STD {
        in_child(&signum.to_string(), || {
            assert_ne!(action_of(signum).sa_sigaction, libc::SIG_DFL);
            install_all();
            send(Sent::Raise, signum);
            assert_traps_are_caught();
        })
        .well();
    }
}

#[test]
fn the_second_sent_signal_kills_as_it_does_with_the_standard_librarys_handler_alone() {
    for signum in OF_STD {
        for with_ours in [false, true] {
            in_child(&format!("{signum} {with_ours}"), || {
                if with_ours {
                    install_all();
                }
                send(Sent::Raise, signum);
                if CALLS.fetch_add(1, Ordering::Relaxed) != 0 {
                    std::process::exit(1);
                }
                send(Sent::Raise, signum);
            })
            .by_signal(signum);
        }
    }
}

#[test]
fn a_fault_that_the_standard_librarys_handler_does_not_know_kills() {
    in_child("", || {
        install_all();
        call_as_host(LOAD, forbidden_page());
    })
    .by_signal(libc::SIGSEGV);
}

/// What the handler below sets in its own place.
static SUCCESSOR: AtomicUsize = AtomicUsize::new(0);
static RESIGNED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn resign(signum: c_int) {
    RESIGNED.fetch_add(1, Ordering::Relaxed);
    set_action(signum, SUCCESSOR.load(Ordering::Relaxed), libc::SA_SIGINFO, &[]);
}

#[test]
fn an_action_that_an_old_handler_sets_takes_its_place_behind_ours() {
    for sent in [true, false] {
        in_child(&sent.to_string(), || {
            SUCCESSOR.store(handler(SKIP), Ordering::Relaxed);
            set_action(libc::SIGILL, resign as *const () as usize, 0, &[]);
            install_all();
            for times in 1..4 {
                if sent {
                    send(Sent::Raise, libc::SIGILL);
                } else {
                    call_as_host(INVALID, ptr::null_mut());
                }
                assert_eq!(RESIGNED.load(Ordering::Relaxed), 1);
                // A fault comes again at once.
                assert_eq!(calls(), if sent { times - 1 } else { times });
                assert_traps_are_caught();
            }
        })
        .well();
    }
}

#[test]
fn an_old_handler_that_sets_the_signal_to_be_ignored_has_it_ignored() {
    in_child("", || {
        SUCCESSOR.store(libc::SIG_IGN, Ordering::Relaxed);
        set_action(libc::SIGFPE, resign as *const () as usize, 0, &[]);
        install_all();
        for _ in 0..3 {
            send(Sent::Raise, libc::SIGFPE);
        }
        assert_eq!(RESIGNED.load(Ordering::Relaxed), 1);
        assert_traps_are_caught();
    })
    .well();
}

#[test]
fn a_one_shot_handler_leaves_the_catching_of_traps_as_it_was() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO | libc::SA_RESETHAND, &[]);
        install_all();
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!(calls(), 1);
        assert_traps_are_caught();
    })
    .well();
}

/// Sets the default, as a crash reporter that detaches.
fn detach() {
    for signum in FOUR {
        set_action(signum, libc::SIG_DFL, 0, &[]);
    }
}

#[test]
fn installing_again_puts_our_handler_back() {
    in_child("", || {
        for signum in FOUR {
            set_action(signum, handler(SKIP), libc::SA_SIGINFO, &[]);
        }
        install_all();
        for _ in 0..100 {
            detach();
            assert_eq!(installed(), Signals::empty());
            install_all();
            assert_traps_are_caught();
        }
    })
    .well();
}

#[test]
fn what_is_passed_on_has_the_effect_of_the_action_that_was_there_when_ours_was_put_back() {
    in_child("the default", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        detach();
        install_all();
        call_as_host(INVALID, ptr::null_mut());
    })
    .by_signal(libc::SIGILL);
    in_child("a handler", || {
        install_all();
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!(calls(), 1);
        assert_traps_are_caught();
    })
    .well();
}

/// The handler that each of the four signals had when [`reporter`] was installed, as that keeps it.
static BEFORE_REPORTER: AtomicUsize = AtomicUsize::new(0);
static REPORTS: AtomicUsize = AtomicUsize::new(0);
/// A ring that does not end is ended by this.
const TOO_MANY_REPORTS: i32 = 5;

/// Passes on to what was there before it.
unsafe extern "C" fn reporter(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if REPORTS.fetch_add(1, Ordering::Relaxed) >= 2 {
        // SAFETY: nothing to clean up.
        unsafe { libc::_exit(TOO_MANY_REPORTS) };
    }
    let before = BEFORE_REPORTER.load(Ordering::Relaxed);
    if before > libc::SIG_IGN {
        // SAFETY: `sigaction` returned it as a handler of three arguments.
        unsafe { mem::transmute::<usize, Handler>(before)(signum, info, context) };
    }
}

type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

fn attach(reporter: Handler, signum: c_int) {
    BEFORE_REPORTER.store(action_of(signum).sa_sigaction, Ordering::Relaxed);
    set_action(signum, reporter as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK, &[]);
}

#[test]
fn our_handler_in_front_of_one_that_passes_on_to_it_reaches_the_oldest() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        attach(reporter, libc::SIGILL);
        install_all();
        assert_traps_are_caught();
        assert_eq!((REPORTS.load(Ordering::Relaxed), calls()), (0, 0));
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!((REPORTS.load(Ordering::Relaxed), calls()), (1, 1));
        send(Sent::Raise, libc::SIGILL);
        assert_eq!((REPORTS.load(Ordering::Relaxed), calls()), (2, 2));
        assert_traps_are_caught();
    })
    .well();
}

#[test]
fn our_handler_goes_back_in_front_any_number_of_times() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        for _ in 0..1000 {
            install_all();
            attach(reporter, libc::SIGILL);
        }
        install_all();
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!((REPORTS.load(Ordering::Relaxed), calls()), (1, 1));
    })
    .well();
}

/// Passes on to what was there before it, twice.
unsafe extern "C" fn twice(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    for _ in 0..2 {
        REPORTS.store(0, Ordering::Relaxed);
        // SAFETY: the kernel's arguments.
        unsafe { reporter(signum, info, context) };
    }
}

#[test]
fn a_handler_in_front_of_ours_may_pass_a_signal_on_twice() {
    in_child("", || {
        set_action(libc::SIGFPE, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        attach(twice, libc::SIGFPE);
        send(Sent::Raise, libc::SIGFPE);
        assert_eq!(calls(), 2);
    })
    .well();
}

#[test]
fn a_one_shot_handler_that_a_signal_is_passed_on_to_twice_runs_once() {
    in_child("", || {
        set_action(libc::SIGFPE, handler(SKIP), libc::SA_SIGINFO | libc::SA_RESETHAND, &[]);
        install_all();
        attach(twice, libc::SIGFPE);
        install_all();
        send(Sent::Raise, libc::SIGFPE);
    })
    .by_signal(libc::SIGFPE);
}

/// A reporter, ours, the reporter again, which now takes ours for what was before it; perhaps ours again.
fn make_a_ring(signum: c_int, ours_in_front: bool) {
    set_action(signum, libc::SIG_DFL, 0, &[]);
    attach(reporter, signum);
    install_all();
    attach(reporter, signum);
    if ours_in_front {
        install_all();
    }
}

#[test]
fn a_ring_of_handlers_dies_of_the_signal_that_entered_it() {
    for ours_in_front in [false, true] {
        for (signum, text) in [(libc::SIGILL, INVALID), (libc::SIGSEGV, LOAD)] {
            in_child(&format!("fault {signum} {ours_in_front}"), || {
                make_a_ring(signum, ours_in_front);
                call_as_host(text, forbidden_page());
            })
            .by_signal(signum);
        }
        for signum in FOUR {
            in_child(&format!("sent {signum} {ours_in_front}"), || {
                make_a_ring(signum, ours_in_front);
                send(Sent::Raise, signum);
            })
            .by_signal(signum);
        }
    }
}

#[test]
fn a_ring_of_two_other_handlers_calls_each_once() {
    static CALLED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    unsafe fn pass_on_once(number: usize, signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        if CALLED[number].fetch_add(1, Ordering::Relaxed) != 0 {
            // SAFETY: nothing to clean up.
            unsafe { libc::_exit(TOO_MANY_REPORTS) };
        }
        // SAFETY: the kernel's arguments.
        unsafe { reporter(signum, info, context) };
    }
    unsafe extern "C" fn first(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's arguments.
        unsafe { pass_on_once(0, signum, info, context) };
    }
    unsafe extern "C" fn second(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's arguments.
        unsafe { pass_on_once(1, signum, info, context) };
    }
    in_child("", || {
        set_action(libc::SIGILL, libc::SIG_DFL, 0, &[]);
        attach(first, libc::SIGILL);
        install_all();
        // Both keep ours as what was before them.
        attach(second, libc::SIGILL);
        install_all();
        // The standard library's stack for handlers has hardly room for four that call each other, unoptimised.
        prepare_thread().unwrap();
        call_as_host(INVALID, ptr::null_mut());
    })
    .by_signal(libc::SIGILL);
}

#[test]
fn traps_are_caught_in_a_ring_of_handlers() {
    in_child("", || {
        make_a_ring(libc::SIGILL, false);
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        for times in 1..=2 {
            assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
            assert_eq!(REPORTS.load(Ordering::Relaxed), times);
        }
    })
    .well();
}

/// glibc's `setcontext` is the jump that Rust can make: it restores the mask, too.
#[cfg(target_env = "gnu")]
#[test]
fn a_handler_that_left_by_a_jump_is_called_again() {
    use std::cell::UnsafeCell;
    use std::mem::MaybeUninit;

    struct Saved(UnsafeCell<MaybeUninit<libc::ucontext_t>>);
    // SAFETY: used by one thread.
    unsafe impl Sync for Saved {}
    static BEFORE: Saved = Saved(UnsafeCell::new(MaybeUninit::uninit()));

    unsafe extern "C" fn leave(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `faults_until_called_often_enough` has not returned, and nothing was pending.
        unsafe { libc::setcontext(BEFORE.0.get().cast()) };
    }
    /// Comes back to the line after `getcontext` each time: what it needs then is in statics.
    #[inline(never)]
    fn faults_until_called_often_enough() {
        // SAFETY: room for a context.
        assert_eq!(unsafe { libc::getcontext(BEFORE.0.get().cast()) }, 0);
        if CALLS.load(Ordering::Relaxed) < 3 {
            call_as_host(INVALID, ptr::null_mut());
        }
    }
    in_child("", || {
        set_action(libc::SIGILL, leave as *const () as usize, libc::SA_SIGINFO, &[]);
        install_all();
        faults_until_called_often_enough();
        assert_eq!(calls(), 3);
    })
    .well();
}

#[test]
fn too_many_different_handlers_are_an_error() {
    in_child("", || {
        let mut answer = Ok(());
        for number in 0..100 {
            // The mask tells them apart.
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[1 + number % 60]);
            // SAFETY: the child process is about these signals.
            answer = unsafe { install(Signals::ILL) };
            if answer.is_err() {
                assert_eq!(action_of(libc::SIGILL).sa_sigaction, handler(SKIP));
                break;
            }
        }
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("6 different ones"), "{error}");
    })
    .well();
}
