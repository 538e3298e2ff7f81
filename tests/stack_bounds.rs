//! Overflows of every kind of stack that a thread may run on, also when its limit changes, or cannot be asked for.
//!
//! Each body runs in a child process: limits and signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::fiber::Fiber;
use common::machine::{INVALID, LOAD, RECURSE};
use common::{Loaded, forbidden_page, in_child, install_all, load, run};
use std::ffi::c_void;
use std::hint::black_box;
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::prepare_thread;

fn overflow() -> usize {
    let trap = run(&load(RECURSE, &[]), ptr::null_mut()).unwrap_err();
    assert_eq!(trap.code, TrapCode::StackOverflow);
    trap.fault_address.unwrap()
}

fn overflow_three_times() {
    for _ in 0..3 {
        overflow();
    }
}

#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

/// Sets a soft limit, and returns the one before.
fn limit(what: Resource, value: u64) -> u64 {
    // SAFETY: a valid structure, of this process.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        assert_eq!(libc::getrlimit(what, &mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = value.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(what, &limit), 0);
        before
    }
}

fn prepare_then_set(bytes: u64) {
    prepare_thread().unwrap();
    limit(libc::RLIMIT_STACK, bytes);
    let here = (&raw const bytes).addr();
    let depth = here - overflow();
    assert!(depth.abs_diff(bytes as usize) < 1 << 20, "overflow at {depth:#x} bytes, of {bytes:#x}");
    overflow_three_times();
}

#[inline(never)]
fn deep(n: usize) -> usize {
    let room = black_box([n as u8; 1024]);
    if n == 0 { usize::from(room[0]) } else { deep(n - 1) + usize::from(room[1]) }
}

/// What runs on the main thread, which the test harness keeps for itself: before it starts.
const ON_THE_MAIN_THREAD: [(&str, fn()); 9] = [
    ("an_overflow_of_the_main_thread_is_a_trap_after_it_was_deep", || {
        black_box(deep(1000));
        prepare_thread().unwrap();
        overflow_three_times();
    }),
    ("an_overflow_of_the_main_thread_is_a_trap_if_no_file_can_be_opened", || {
        limit(libc::RLIMIT_NOFILE, 0);
        prepare_thread().unwrap();
        overflow_three_times();
    }),
    ("an_overflow_of_the_main_thread_is_a_trap_at_a_limit_raised_since", || prepare_then_set(64 << 20)),
    ("an_overflow_of_the_main_thread_is_a_trap_at_a_limit_raised_a_little_since", || {
        prepare_then_set((8 << 20) + (64 << 10));
    }),
    ("an_overflow_of_the_main_thread_is_a_trap_at_a_limit_lowered_since", || prepare_then_set(2 << 20)),
    ("an_overflow_of_the_main_thread_is_a_trap_where_there_is_no_limit", || {
        // Overflows where the next mapping is, if the machine has the memory; so only traps are tried.
        limit(libc::RLIMIT_STACK, libc::RLIM_INFINITY);
        prepare_thread().unwrap();
        black_box(deep(16_000));
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
        limit(libc::RLIMIT_STACK, 32 << 20);
        overflow_three_times();
    }),
    ("a_fault_elsewhere_on_the_main_thread_is_not_an_overflow no_memory", || {
        _ = run(&load(LOAD, &[]), ptr::without_provenance_mut(8));
    }),
    ("a_fault_elsewhere_on_the_main_thread_is_not_an_overflow forbidden_memory", || {
        _ = run(&load(LOAD, &[]), forbidden_page());
    }),
    ("a_failure_to_find_the_stack_is_not_remembered", || {
        // On another stack than the main thread's, only the C library can tell which it is.
        let files = limit(libc::RLIMIT_NOFILE, 0);
        Fiber::new(1 << 18).start(move |_| {
            assert!(prepare_thread().is_err());
            limit(libc::RLIMIT_NOFILE, files);
            prepare_thread().unwrap();
        });
        overflow_three_times();
    }),
];

extern "C" fn before_main() {
    let Ok(selected) = std::env::var(common::SELECTED) else { return };
    let Some((_, body)) = ON_THE_MAIN_THREAD.iter().find(|(name, _)| selected.trim_end() == *name) else { return };
    common::no_core_dump();
    install_all();
    body();
    // SAFETY: nothing to clean up.
    unsafe { libc::_exit(42) };
}

// SAFETY: the section holds functions that the C library calls at start.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_after_it_was_deep() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_if_no_file_can_be_opened() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_at_a_limit_raised_since() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_at_a_limit_raised_a_little_since() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_at_a_limit_lowered_since() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn an_overflow_of_the_main_thread_is_a_trap_where_there_is_no_limit() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn a_fault_elsewhere_on_the_main_thread_is_not_an_overflow() {
    in_child("no_memory", || unreachable!("before_main exits")).by_signal(libc::SIGSEGV);
    in_child("forbidden_memory", || unreachable!("before_main exits")).by_signal(libc::SIGSEGV);
}

#[test]
#[cfg(target_env = "gnu")]
fn a_failure_to_find_the_stack_is_not_remembered() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

/// Runs `body` in a fork's child of this thread, and returns how it ended.
fn in_fork(body: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child runs `body` alone, and exits.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            libc::_exit(if ended.is_ok() { 42 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    }
}

#[test]
fn an_overflow_in_a_forks_child_of_any_thread_is_a_trap() {
    in_child("", || {
        install_all();
        for prepared in [false, true] {
            thread::spawn(move || {
                if prepared {
                    prepare_thread().unwrap();
                }
                let status = in_fork(overflow_three_times);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status:#x}");
            })
            .join()
            .unwrap();
        }
    })
    .well();
}

/// The child's only thread has the number of the process, and runs on a stack with somebody else's memory around it.
#[test]
fn a_fault_near_the_stack_of_a_forks_child_is_not_an_overflow() {
    const SIZE: usize = 1 << 20;
    const BELOW: usize = 1 << 20;
    extern "C" fn body(arg: *mut c_void) -> *mut c_void {
        // SAFETY: the test's own.
        let code = unsafe { &*arg.cast::<Loaded>() };
        let mut attributes: libc::pthread_attr_t = no_attributes();
        let (mut low, mut size) = (ptr::null_mut(), 0);
        // SAFETY: asks for this thread; the attributes are initialised by the answer.
        unsafe {
            assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
            assert_eq!(libc::pthread_attr_getstack(&attributes, &mut low, &mut size), 0);
        }
        let status = in_fork(|| {
            // SAFETY: the default action, instead of the standard library's.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            install_all();
            _ = run(code, low.wrapping_byte_sub(BELOW / 2));
        });
        ptr::without_provenance_mut(status as usize)
    }
    in_child("", || {
        let code = load(LOAD, &[]);
        // SAFETY: a fresh mapping, of which the upper part becomes a stack; the thread is joined.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapping = libc::mmap(ptr::null_mut(), BELOW + SIZE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            let stack = mapping.byte_add(BELOW);
            assert_eq!(libc::mprotect(stack, SIZE, libc::PROT_READ | libc::PROT_WRITE), 0);
            let mut attributes = mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, stack, SIZE), 0);
            let (mut thread, mut status) = (mem::zeroed(), ptr::null_mut());
            let argument = (&raw const code).cast_mut().cast();
            assert_eq!(libc::pthread_create(&mut thread, &attributes, body, argument), 0);
            assert_eq!(libc::pthread_join(thread, &mut status), 0);
            let status = status.addr() as libc::c_int;
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:#x}");
        }
    })
    .well();
}

fn no_attributes() -> libc::pthread_attr_t {
    // SAFETY: all zeroes is a valid value to be overwritten.
    unsafe { mem::zeroed() }
}

#[test]
fn an_overflow_of_a_thread_is_a_trap_whatever_the_size_of_its_guard() {
    extern "C" fn body(_: *mut c_void) -> *mut c_void {
        overflow_three_times();
        ptr::without_provenance_mut(1)
    }
    in_child("", || {
        install_all();
        for guard in [1, 4096, 5000, 64 << 10, 1 << 20] {
            // SAFETY: valid attributes; the thread is joined.
            unsafe {
                let mut attributes = no_attributes();
                assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
                assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, 4 << 20), 0);
                assert_eq!(libc::pthread_attr_setguardsize(&mut attributes, guard), 0);
                let (mut thread, mut value) = (mem::zeroed(), ptr::null_mut());
                assert_eq!(libc::pthread_create(&mut thread, &attributes, body, ptr::null_mut()), 0);
                assert_eq!(libc::pthread_join(thread, &mut value), 0);
                assert_eq!(value.addr(), 1, "{guard}");
            }
        }
    })
    .well();
}
