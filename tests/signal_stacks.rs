//! Stack overflows, and the alternate stacks that handlers run on.
//!
//! Each body runs in a child process: signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{INVALID, RECURSE};
use common::{alternate_stack, in_child, install_all, load, run};
use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::{catch_trap, prepare_thread};

fn overflow_the_stack() {
    let code = load(RECURSE, &[]);
    for _ in 0..3 {
        let trap = run(&code, ptr::null_mut()).unwrap_err();
        assert_eq!(trap.code, TrapCode::StackOverflow);
        let here = (&raw const trap).addr();
        let address = trap.fault_address.unwrap();
        assert!(address < here && here - address < (64 << 20), "{address:#x}, here {here:#x}");
    }
}

/// The test harness keeps the main thread for itself, so this body runs before it starts.
extern "C" fn before_main() {
    let selected = std::env::var(common::SELECTED).unwrap_or_default();
    if selected.starts_with("a_stack_overflow_on_the_main_thread_is_a_trap") {
        // SAFETY: no preconditions.
        assert_eq!(unsafe { libc::gettid() }, unsafe { libc::getpid() });
        install_all();
        overflow_the_stack();
        // SAFETY: nothing to clean up.
        unsafe { libc::_exit(42) };
    }
}

// SAFETY: the section holds functions that the C library calls at start.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[test]
fn a_stack_overflow_on_the_main_thread_is_a_trap() {
    in_child("", || unreachable!("before_main exits")).with_status(42);
}

#[test]
fn a_stack_overflow_on_a_spawned_thread_is_a_trap() {
    in_child("", || {
        install_all();
        thread::spawn(overflow_the_stack).join().unwrap();
    })
    .well();
}

#[test]
fn a_stack_overflow_in_host_code_is_not_a_trap() {
    in_child("", || {
        // SAFETY: the default action, instead of the standard library's.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        install_all();
        let code = load(RECURSE, &[]);
        let (guest, _memory) = code.unregister();
        // SAFETY: overflows the stack into its guard, which kills.
        let _ = unsafe { catch_trap(guest, ptr::null_mut()) };
    })
    .by_signal(libc::SIGSEGV);
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn threads_that_exit_leave_no_alternate_stack_behind() {
    in_child("", || {
        install_all();
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        let a_thread = || {
            thread::scope(|scope| {
                let run = || run(&code, ptr::null_mut()).unwrap_err();
                scope.spawn(run).join().unwrap();
            })
        };
        for _ in 0..10 {
            a_thread();
        }
        let before = mappings();
        for _ in 0..1_000 {
            a_thread();
        }
        let after = mappings();
        assert!(after < before + 20, "{before} mappings, then {after}");
    })
    .well();
}

#[test]
fn a_large_alternate_stack_is_kept_and_a_small_one_replaced() {
    in_child("", || {
        install_all();
        let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
        thread::scope(|scope| {
            for size in [1 << 20, 16 << 10] {
                let code = &code;
                scope.spawn(move || {
                    let memory = vec![0_u8; size].leak();
                    let base = memory.as_mut_ptr().cast::<c_void>();
                    let stack = libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: size };
                    // SAFETY: the memory stays for ever.
                    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
                    run(code, ptr::null_mut()).unwrap_err();
                    let now = alternate_stack();
                    assert_eq!(now.ss_sp == base, size == 1 << 20);
                    assert!(now.ss_size >= 64 << 10);
                });
            }
        });
    })
    .well();
}

#[test]
fn preparing_again_replaces_an_alternate_stack_that_was_disabled() {
    in_child("", || {
        prepare_thread().unwrap();
        let disable = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: nothing is executing on it.
        assert_eq!(unsafe { libc::sigaltstack(&disable, ptr::null_mut()) }, 0);
        let before = mappings();
        prepare_thread().unwrap();
        assert_eq!(alternate_stack().ss_flags, 0);
        assert_eq!(mappings(), before);
    })
    .well();
}

#[test]
fn a_thread_without_memory_for_an_alternate_stack_is_told() {
    in_child("", || {
        let mut stack = [0_u8; 4096];
        // SAFETY: only queries and sets this process's limit; the alternate stack is disabled first.
        unsafe {
            let disable = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            assert_eq!(libc::sigaltstack(&disable, ptr::null_mut()), 0);
            let mut limit: libc::rlimit = mem::zeroed();
            libc::getrlimit(libc::RLIMIT_AS, &mut limit);
            let none = libc::rlimit { rlim_cur: 4096, rlim_max: limit.rlim_max };
            libc::setrlimit(libc::RLIMIT_AS, &none);
            let answer = prepare_thread();
            libc::setrlimit(libc::RLIMIT_AS, &limit);
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        }
        prepare_thread().unwrap();
    })
    .well();
}

/// How often the C library calls destructors of keys that are set again.
fn rounds() -> usize {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_THREAD_DESTRUCTOR_ITERATIONS) }).unwrap()
}

/// Runs `body` on a thread that the standard library knows nothing about, and returns the flags and address of the
/// alternate stack that it has at the very last, after all destructors that run again and again.
fn left_by_a_foreign_thread(body: extern "C" fn(*mut c_void) -> *mut c_void) -> (c_int, usize) {
    static LEFT: Mutex<Option<(c_int, usize)>> = Mutex::new(None);
    static KEY: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn look(round: *mut c_void) {
        if round.addr() < rounds() {
            let next = ptr::without_provenance(round.addr() + 1);
            // SAFETY: this destructor's key.
            assert_eq!(unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), next) }, 0);
            return;
        }
        let stack = alternate_stack();
        *LEFT.lock().unwrap() = Some((stack.ss_flags, stack.ss_sp.addr()));
    }
    extern "C" fn start(body: *mut c_void) -> *mut c_void {
        let key = KEY.load(Ordering::Relaxed);
        // SAFETY: the C library runs destructors of keys after those of thread-locals. The argument is `body` below.
        unsafe {
            assert_eq!(libc::pthread_setspecific(key, ptr::without_provenance(1)), 0);
            mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> *mut c_void>(body)(body)
        }
    }
    // Destructors of older keys run earlier, and this has the crate make its own.
    prepare_thread().unwrap();
    // SAFETY: a fresh key; a thread that is joined.
    unsafe {
        let (mut key, mut thread) = (0, mem::zeroed());
        assert_eq!(libc::pthread_key_create(&mut key, Some(look)), 0);
        KEY.store(key, Ordering::Relaxed);
        let body = body as *mut c_void;
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), start, body), 0);
        assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
    }
    LEFT.lock().unwrap().take().unwrap()
}

// A foreign thread's start function has no room for an error.
extern "C" fn prepare(_: *mut c_void) -> *mut c_void {
    assert!(alternate_stack().ss_flags & libc::SS_DISABLE != 0);
    prepare_thread().unwrap();
    assert_eq!(alternate_stack().ss_flags, 0);
    ptr::null_mut()
}

static SOMEBODY_ELSES: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];

extern "C" fn prepare_and_switch(arg: *mut c_void) -> *mut c_void {
    prepare(arg);
    let base = SOMEBODY_ELSES.as_ptr().cast_mut().cast();
    let stack = libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: size_of_val(&SOMEBODY_ELSES) };
    // SAFETY: the memory is static, and interior mutable.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
    ptr::null_mut()
}

#[test]
fn an_alternate_stack_is_disabled_before_it_is_unmapped() {
    in_child("", || {
        let (flags, _) = left_by_a_foreign_thread(prepare);
        assert!(flags & libc::SS_DISABLE != 0);
    })
    .well();
}

#[test]
fn an_alternate_stack_that_is_no_longer_ours_is_left_alone() {
    in_child("", || {
        let (flags, address) = left_by_a_foreign_thread(prepare_and_switch);
        assert_eq!(flags & libc::SS_DISABLE, 0);
        assert_eq!(address, SOMEBODY_ELSES.as_ptr().addr());
    })
    .well();
}
