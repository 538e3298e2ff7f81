//! Signals that look like faults, but that no instruction caused: the kernel made them up, or reports something else.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and many bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{LOAD, SEND_WITHOUT_A_STACK, SENT_AT};
use common::old_handler::*;
use common::{forbidden_page, in_child, install_all, load, page_past_the_end_of_a_file, run};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use trapline::TrapCode;
use trapline::signal::{Signals, handle_signal, installed, prepare_thread};

extern "C" fn never_reached(_: c_int) {
    std::process::abort();
}

/// What [`SEND_WITHOUT_A_STACK`] takes. It sends SIGUSR1 to this thread.
#[repr(C)]
struct Target {
    process: c_int,
    thread: c_int,
    signum: c_int,
}

impl Target {
    fn new() -> Self {
        set_action(libc::SIGUSR1, never_reached as *const () as usize, 0, &[]);
        // SAFETY: no preconditions. (The C library may remember the number of the thread that called `clone`.)
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as c_int;
        // SAFETY: no preconditions.
        Target { process: unsafe { libc::getpid() }, thread, signum: libc::SIGUSR1 }
    }

    fn arg(&mut self) -> *mut c_void {
        ptr::from_mut(self).cast()
    }
}

/// Runs host code that is interrupted where no signal frame has room: the kernel makes up a SIGSEGV.
fn a_signal_frame_without_room() {
    let (host, _memory) = load(SEND_WITHOUT_A_STACK, &[]).unregister();
    // SAFETY: returns, if anybody lets it.
    unsafe { host(Target::new().arg()) }
}

#[test]
fn a_fault_that_does_not_come_again_kills() {
    for action in [libc::SIG_DFL, libc::SIG_IGN] {
        in_child(&action.to_string(), || {
            set_action(libc::SIGSEGV, action, 0, &[]);
            install_all();
            prepare_thread().unwrap();
            a_signal_frame_without_room();
        })
        .by_signal(libc::SIGSEGV);
    }
}

#[test]
fn a_fault_that_does_not_come_again_is_left_to_the_old_handler() {
    in_child("", || {
        set_action(libc::SIGSEGV, handler(OPEN_PAGE), 0, &[]);
        install_all();
        prepare_thread().unwrap();
        a_signal_frame_without_room();
        assert_eq!(calls(), 1);
    })
    .well();
}

#[test]
fn a_fault_that_does_not_come_again_leaves_our_handler_in_place_if_the_process_lives() {
    // The standard library's handler sets the default and returns.
    in_child("", || {
        install_all();
        prepare_thread().unwrap();
        a_signal_frame_without_room();
        assert_eq!(installed(), Signals::all());
        let code = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        run(&code, forbidden_page()).unwrap_err();
    })
    .well();
}

#[test]
fn a_signal_without_room_at_a_trap_site_is_no_trap() {
    for after in ["nothing", "a page fault"] {
        in_child(after, || {
            set_action(libc::SIGSEGV, handler(OPEN_PAGE), 0, &[]);
            install_all();
            if after == "a page fault" {
                run(&load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]), forbidden_page()).unwrap_err();
            }
            let code = load(SEND_WITHOUT_A_STACK, &[(SENT_AT, TrapCode::MemoryOutOfBounds)]);
            assert_eq!(run(&code, Target::new().arg()), Ok(()));
            assert_eq!(calls(), 1);
        })
        .well();
    }
}

/// Says to [`made_up`] what the kernel would have.
static MADE_UP: AtomicI32 = AtomicI32::new(0);
static ANSWER: AtomicI32 = AtomicI32::new(-1);

/// Asks about the trap at hand as if it were a signal of another kind; then as what it is.
unsafe extern "C" fn made_up(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments, of which the copy differs in one field.
    unsafe {
        let mut other = *info;
        other.si_code = MADE_UP.load(Ordering::Relaxed);
        ANSWER.store(handle_signal(signum, (&raw mut other).cast(), context).into(), Ordering::Relaxed);
        if ANSWER.load(Ordering::Relaxed) == 0 {
            assert!(handle_signal(signum, info.cast(), context));
        }
    }
}

#[test]
fn what_the_kernel_reports_in_passing_is_no_trap_at_a_trap_site_either() {
    const SEGV_MAPERR: c_int = 1;
    const SEGV_ACCERR: c_int = 2;
    const SEGV_MTEAERR: c_int = 8;
    const SI_KERNEL: c_int = 0x80;
    for (signum, code, expected) in [
        (libc::SIGBUS, libc::BUS_ADRALN, 1),
        (libc::SIGBUS, libc::BUS_ADRERR, 1),
        (libc::SIGBUS, libc::BUS_OBJERR, 1),
        (libc::SIGBUS, libc::BUS_MCEERR_AR, 1),
        (libc::SIGBUS, libc::BUS_MCEERR_AO, 0),
        (libc::SIGBUS, SI_KERNEL, 1),
        (libc::SIGSEGV, SEGV_MAPERR, 1),
        (libc::SIGSEGV, SEGV_ACCERR, 1),
        (libc::SIGSEGV, SEGV_MTEAERR, 0),
        (libc::SIGSEGV, SEGV_MTEAERR + 1, 1),
        // As of a signal without room: the fault at hand is a page fault.
        (libc::SIGSEGV, SI_KERNEL, 0),
        (libc::SIGSEGV, libc::SI_USER, 0),
        (libc::SIGSEGV, libc::SI_TKILL, 0),
    ] {
        in_child(&format!("{signum} {code}"), || {
            MADE_UP.store(code, Ordering::Relaxed);
            for signum in FOUR {
                let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                set_action(signum, made_up as *const () as usize, flags, &[]);
            }
            let site = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
            let page = if signum == libc::SIGBUS { page_past_the_end_of_a_file() } else { forbidden_page() };
            assert_eq!(run(&site, page).unwrap_err().code, TrapCode::MemoryOutOfBounds);
            assert_eq!(ANSWER.load(Ordering::Relaxed), expected);
        })
        .well();
    }
}

/// Runs `body` as the first process of a container, and returns its wait status. `None` if the system gives none.
fn as_first_process(body: impl FnOnce()) -> Option<c_int> {
    let namespaces = if is_root() { libc::CLONE_NEWPID } else { libc::CLONE_NEWPID | libc::CLONE_NEWUSER };
    let mut pipe = [0; 2];
    // SAFETY: forks of a process of which no other thread runs.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        // Only children are in the new namespace, and the first of them is its first process.
        let outside = libc::fork();
        if outside == 0 {
            if libc::unshare(namespaces) != 0 {
                libc::_exit(0);
            }
            let inside = libc::fork();
            if inside == 0 {
                assert_eq!(libc::getpid(), 1);
                libc::alarm(20);
                let returned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
                libc::_exit(if returned { 0 } else { 1 });
            }
            let mut status: c_int = 0;
            assert_eq!(libc::waitpid(inside, &mut status, 0), inside);
            libc::write(pipe[1], ptr::from_ref(&status).cast(), size_of::<c_int>());
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        let mut status: c_int = 0;
        let told = libc::read(pipe[0], ptr::from_mut(&mut status).cast(), size_of::<c_int>());
        libc::waitpid(outside, ptr::null_mut(), 0);
        libc::close(pipe[0]);
        (told > 0).then_some(status)
    }
}

fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn the_first_process_of_a_container_does_not_die_of_what_is_sent_to_it() {
    in_child("", || {
        for signum in FOUR {
            set_action(signum, libc::SIG_DFL, 0, &[]);
        }
        let code = load(LOAD, &[(0, TrapCode::MemoryOutOfBounds)]);
        let page = forbidden_page();
        let status = as_first_process(|| {
            install_all();
            for signum in FOUR {
                // To its only thread, whose number `raise` may not know.
                send_to(1, signum);
                send(Sent::Queue, signum);
            }
            assert_eq!(installed(), Signals::all());
            run(&code, page).unwrap_err();
        });
        match status {
            Some(status) => assert_eq!(status, 0, "wait status"),
            None => eprintln!("SKIPPED: this system does not let us make a container"),
        }
    })
    .well();
}

#[test]
fn the_first_process_of_a_container_dies_of_its_own_faults() {
    in_child("", || {
        set_action(libc::SIGSEGV, libc::SIG_DFL, 0, &[]);
        let (host, _memory) = load(LOAD, &[]).unregister();
        let page = forbidden_page();
        let repeats = as_first_process(|| {
            install_all();
            // SAFETY: faults.
            unsafe { host(page) }
        });
        let does_not_repeat = as_first_process(|| {
            install_all();
            prepare_thread().unwrap();
            a_signal_frame_without_room();
        });
        if let (Some(repeats), Some(does_not_repeat)) = (repeats, does_not_repeat) {
            assert!(libc::WIFSIGNALED(repeats) && libc::WTERMSIG(repeats) == libc::SIGSEGV, "{repeats:#x}");
            assert_eq!(does_not_repeat, (128 + libc::SIGSEGV) << 8, "wait status");
        }
    })
    .well();
}
