//! What happens between two calls of `sigaction` that `install` makes.
//!
//! This binary defines its own `sigaction`, which a statically linked C library does not allow.

#![cfg(all(
    feature = "signal",
    target_os = "linux",
    target_env = "gnu",
    not(target_feature = "crt-static"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod common;

use common::machine::INVALID;
use common::old_handler::*;
use common::{in_child, install_all, load, run};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, LazyLock};
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::{Signals, install, installed};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    /// The action was only asked for; the answer is on its way back.
    Queried,
    /// An action is about to be set.
    Sets,
}

/// What the interposed function does on this thread, once, for `SIGILL`. False: the call fails.
type Hook = (When, fn() -> bool);

thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(signum: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
    static REAL: AtomicUsize = AtomicUsize::new(0);
    if REAL.load(Ordering::Relaxed) == 0 {
        // SAFETY: a string of C's.
        REAL.store(unsafe { libc::dlsym(libc::RTLD_NEXT, c"sigaction".as_ptr()) }.addr(), Ordering::Relaxed);
    }
    let real = ptr::with_exposed_provenance::<()>(REAL.load(Ordering::Relaxed));
    // SAFETY: the C library's function of this name.
    let real = unsafe { mem::transmute::<*const (), Sigaction>(real) };
    let hook_if = |when| match HOOK.get() {
        Some((wanted, hook)) if signum == libc::SIGILL && wanted == when => {
            HOOK.set(None);
            hook()
        }
        _ => true,
    };
    if !new.is_null() && !hook_if(When::Sets) {
        // SAFETY: this thread's variable.
        unsafe { *libc::__errno_location() = libc::EPERM };
        return -1;
    }
    // SAFETY: the caller's.
    let result = unsafe { real(signum, new, old) };
    if new.is_null() {
        hook_if(When::Queried);
    }
    result
}

fn set_skip(flags: c_int) -> bool {
    set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO | flags, &[]);
    true
}

#[test]
fn an_action_that_is_set_while_ours_is_being_installed_is_passed_on_to() {
    for (variant, old) in [("after the default", libc::SIG_DFL), ("after another", handler(OPEN_PAGE))] {
        in_child(variant, || {
            set_action(libc::SIGILL, old, 0, &[]);
            HOOK.set(Some((When::Queried, || set_skip(0))));
            install_all();
            assert!(HOOK.get().is_none());
            assert_eq!(installed(), Signals::all());
            call_as_host(INVALID, ptr::null_mut());
            assert_eq!((calls(), CODE.load(Ordering::Relaxed) > 0), (1, true));
            send(Sent::Raise, libc::SIGILL);
            assert_eq!(calls(), 2);
        })
        .well();
    }
}

#[test]
fn an_action_that_is_set_while_ours_is_being_installed_says_whether_system_calls_are_restarted() {
    for flags in [0, libc::SA_RESTART] {
        in_child(&flags.to_string(), || {
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO | (flags ^ libc::SA_RESTART), &[]);
            let hook = if flags == 0 { || set_skip(0) } else { || set_skip(libc::SA_RESTART) };
            HOOK.set(Some((When::Queried, hook)));
            install_all();
            assert_eq!(installed(), Signals::all());
            assert_eq!(action_of(libc::SIGILL).sa_flags & libc::SA_RESTART, flags);
        })
        .well();
    }
}

#[test]
fn an_action_that_only_changes_its_mask_meanwhile_has_the_new_mask() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        HOOK.set(Some((When::Queried, || {
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[libc::SIGUSR2]);
            true
        })));
        install_all();
        send(Sent::Raise, libc::SIGILL);
        assert_eq!(MASK.load(Ordering::Relaxed), bit(libc::SIGILL) | bit(libc::SIGUSR2));
    })
    .well();
}

static REPORTS: AtomicUsize = AtomicUsize::new(0);
static BEFORE_REPORTER: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn reporter(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    REPORTS.fetch_add(1, Ordering::Relaxed);
    type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    let before = BEFORE_REPORTER.load(Ordering::Relaxed);
    // SAFETY: `sigaction` returned it as a handler of three arguments.
    unsafe { mem::transmute::<usize, Handler>(before)(signum, info, context) };
}

#[test]
fn an_installation_that_the_system_refuses_changes_nothing() {
    in_child("", || {
        set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
        install_all();
        BEFORE_REPORTER.store(action_of(libc::SIGILL).sa_sigaction, Ordering::Relaxed);
        set_action(libc::SIGILL, reporter as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK, &[]);
        HOOK.set(Some((When::Sets, || false)));
        // SAFETY: the child process is about these signals.
        let refused = unsafe { install(Signals::ILL) }.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(action_of(libc::SIGILL).sa_sigaction, reporter as *const () as usize);
        call_as_host(INVALID, ptr::null_mut());
        assert_eq!((REPORTS.load(Ordering::Relaxed), calls()), (1, 1));
    })
    .well();
}

#[test]
fn a_fork_in_the_middle_of_another_threads_installation_leaves_a_child_that_can_install() {
    static MIDDLE: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    static FORKED: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    fn wait() -> bool {
        MIDDLE.wait();
        FORKED.wait();
        true
    }
    for when in [When::Queried, When::Sets] {
        in_child(&format!("{when:?}"), || {
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
            let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
            let (host, _memory) = load(INVALID, &[]).unregister();
            thread::scope(|scope| {
                scope.spawn(move || {
                    HOOK.set(Some((when, wait)));
                    install_all();
                });
                MIDDLE.wait();
                // SAFETY: the child ends below.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: no preconditions.
                    unsafe { libc::alarm(10) };
                    install_all();
                    let caught = installed() == Signals::all() && run(&code, ptr::null_mut()).is_err();
                    // SAFETY: the fault is skipped.
                    unsafe { host(ptr::null_mut()) };
                    // SAFETY: nothing to clean up.
                    unsafe { libc::_exit(if caught && calls() == 1 { 0 } else { 1 }) };
                }
                let mut status = 0;
                // SAFETY: our child.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                FORKED.wait();
                assert_eq!(status, 0, "the child's wait status");
            });
            assert_eq!(installed(), Signals::all());
        })
        .well();
    }
}
