//! What a thread needs to catch traps, and has, is given, or is told that it lacks; until its very end.
//!
//! Each body runs in a child process: signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::machine::{CALL_HOST, CALL_HOST_INVALID, INVALID, RECURSE, RETURN};
use common::old_handler::{FOUR, SKIP, bit, handler, mask, set_action};
use common::{Guest, Loaded, alternate_stack, in_child, install_all, load, run};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::{mem, ptr, thread};
use trapline::TrapCode;
use trapline::signal::{Signals, catch_trap, install, prepare_thread, raise};

fn change_mask(how: c_int, signums: &[c_int]) {
    // SAFETY: a valid set.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        signums.iter().for_each(|signum| _ = libc::sigaddset(&mut set, *signum));
        assert_eq!(libc::pthread_sigmask(how, &set, ptr::null_mut()), 0);
    }
}

#[test]
fn a_thread_that_blocks_a_signal_that_traps_arrive_as_is_told() {
    in_child("", || {
        install_all();
        for signum in FOUR {
            thread::spawn(move || {
                change_mask(libc::SIG_BLOCK, &[signum]);
                let message = prepare_thread().unwrap_err().to_string();
                assert!(message.contains("is blocked on this thread"), "{message}");
                change_mask(libc::SIG_UNBLOCK, &[signum]);
                let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
                assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
            })
            .join()
            .unwrap();
        }
        // Others may well be.
        change_mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGTRAP, libc::SIGABRT, libc::SIGPROF]);
        prepare_thread().unwrap();
    })
    .well();
}

unsafe extern "C" fn block_usr1(_: *mut c_void) {
    change_mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
}

unsafe extern "C" fn block_usr1_and_raise(_: *mut c_void) {
    change_mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    // SAFETY: called from a guest only; owns nothing.
    unsafe { raise(TrapCode::OutOfFuel) }
}

static ANOTHER_STACK: [AtomicUsize; 1 << 15] = [const { AtomicUsize::new(0) }; 1 << 15];

unsafe extern "C" fn switch_alternate_stacks(_: *mut c_void) {
    let base = ANOTHER_STACK.as_ptr().cast_mut().cast();
    let stack = libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: size_of_val(&ANOTHER_STACK) };
    // SAFETY: the memory is static, and interior mutable.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
}

fn trap_after(host: Guest) {
    let code = load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)]);
    let mut host = host;
    run(&code, (&raw mut host).cast()).unwrap_err();
}

#[test]
fn the_mask_after_a_trap_is_the_one_at_the_trap() {
    for (variant, host) in [("trap", block_usr1 as Guest), ("raise", block_usr1_and_raise)] {
        in_child(variant, || {
            install_all();
            let before = mask();
            assert_eq!(before & bit(libc::SIGUSR1), 0);
            trap_after(host);
            assert_eq!(mask(), before | bit(libc::SIGUSR1));
        })
        .well();
    }
}

#[test]
fn the_alternate_stack_after_a_trap_is_the_one_at_the_trap() {
    in_child("", || {
        install_all();
        trap_after(switch_alternate_stacks);
        assert_eq!(alternate_stack().ss_sp.addr(), ANOTHER_STACK.as_ptr().addr());
        // It serves as well.
        assert_eq!(run(&load(RECURSE, &[]), ptr::null_mut()).unwrap_err().code, TrapCode::StackOverflow);
    })
    .well();
}

#[test]
fn the_alternate_stack_has_an_inaccessible_page_below() {
    in_child("", || {
        prepare_thread().unwrap();
        let lowest = alternate_stack().ss_sp.addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let below = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).unwrap());
            (start < lowest && lowest <= end).then(|| (end, rest.starts_with("---p")))
        });
        assert_eq!(below, Some((lowest, true)), "{lowest:#x} in\n{maps}");
    })
    .well();
}

/// What runs when the thread ends.
struct Last(fn());

impl Drop for Last {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

static RAN: AtomicUsize = AtomicUsize::new(0);

fn trap_and_count() {
    let code = load(INVALID, &[(0, TrapCode::Unreachable)]);
    assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
    RAN.fetch_add(1, Ordering::Relaxed);
}

/// With an alternate stack again: the standard library disabled it.
fn overflow_and_count() {
    prepare_thread().unwrap();
    assert_eq!(run(&load(RECURSE, &[]), ptr::null_mut()).unwrap_err().code, TrapCode::StackOverflow);
    RAN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn guest_code_runs_in_destructors_of_thread_locals_made_before_and_after_preparing() {
    for (variant, what) in [("trap", trap_and_count as fn()), ("overflow", overflow_and_count)] {
        in_child(variant, || {
            install_all();
            let join = |body: fn(fn())| thread::spawn(move || body(what)).join().unwrap();
            join(|what| {
                prepare_thread().unwrap();
                LAST.set(Some(Last(what)));
            });
            join(|what| {
                LAST.set(Some(Last(what)));
                prepare_thread().unwrap();
            });
            join(|what| LAST.set(Some(Last(what))));
            assert_eq!(RAN.load(Ordering::Relaxed), 3);
        })
        .well();
    }
}

fn rounds() -> usize {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_THREAD_DESTRUCTOR_ITERATIONS) }).unwrap()
}

/// Also in the last, after the alternate stack has gone.
#[test]
fn guest_code_runs_in_every_round_of_destructors_of_keys() {
    static KEYS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
    fn again<const INDEX: usize>(round: *mut c_void) {
        trap_and_count();
        if round.addr() < rounds() {
            let next = ptr::without_provenance(round.addr() + 1);
            // SAFETY: the key of this destructor.
            assert_eq!(unsafe { libc::pthread_setspecific(KEYS[INDEX].load(Ordering::Relaxed), next) }, 0);
        } else if INDEX == 1 {
            // Nobody would unmap another one.
            assert_eq!(prepare_thread().unwrap_err().to_string(), "the thread is being torn down");
        }
    }
    unsafe extern "C" fn older(round: *mut c_void) {
        again::<0>(round);
    }
    unsafe extern "C" fn younger(round: *mut c_void) {
        again::<1>(round);
    }
    fn make(index: usize, destructor: unsafe extern "C" fn(*mut c_void)) {
        let mut key = 0;
        // SAFETY: a valid place; a destructor that takes any value.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(destructor)) }, 0);
        KEYS[index].store(key, Ordering::Relaxed);
    }
    in_child("", || {
        install_all();
        make(0, older);
        // Has the crate make its own in between.
        prepare_thread().unwrap();
        make(1, younger);
        thread::spawn(|| {
            trap_and_count();
            for key in &KEYS {
                // SAFETY: a key that was made.
                let set = unsafe { libc::pthread_setspecific(key.load(Ordering::Relaxed), ptr::without_provenance(1)) };
                assert_eq!(set, 0);
            }
        })
        .join()
        .unwrap();
        assert_eq!(RAN.load(Ordering::Relaxed), 1 + 2 * rounds());
    })
    .well();
}

static REFUSE: AtomicBool = AtomicBool::new(false);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// In place of the C library's: refuses to, where it is told.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, length: usize) -> c_int {
    if REFUSE.load(Ordering::Relaxed) {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: this thread's variable.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_munmap, address, length) as c_int }
}

/// Runs on a thread that the standard library knows nothing about, so that nobody else unmaps anything.
fn on_a_foreign_thread(body: extern "C" fn(*mut c_void) -> *mut c_void) -> *mut c_void {
    let mut value = ptr::null_mut();
    // SAFETY: the thread is joined.
    unsafe {
        let mut thread = mem::zeroed();
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), body, ptr::null_mut()), 0);
        assert_eq!(libc::pthread_join(thread, &mut value), 0);
    }
    value
}

#[test]
fn an_alternate_stack_that_cannot_be_unmapped_serves_another_thread() {
    extern "C" fn prepare_and_fill(_: *mut c_void) -> *mut c_void {
        prepare_thread().unwrap();
        let stack = alternate_stack();
        // SAFETY: nothing runs on it.
        unsafe { stack.ss_sp.cast::<u8>().write_bytes(0x41, stack.ss_size) };
        stack.ss_sp
    }
    extern "C" fn two_at_once(_: *mut c_void) -> *mut c_void {
        prepare_thread().unwrap();
        on_a_foreign_thread(prepare_and_fill)
    }
    in_child("", || {
        install_all();
        REFUSE.store(true, Ordering::Relaxed);
        let first = on_a_foreign_thread(prepare_and_fill);
        assert_eq!(REFUSED.load(Ordering::Relaxed), 1);
        // Its memory was given back: but for the first page, which is in a list.
        // SAFETY: mapped memory that nobody uses.
        let rest = unsafe { std::slice::from_raw_parts(first.cast::<u8>().add(4096), 60 << 10) };
        assert!(rest.iter().all(|byte| *byte == 0));
        let second = on_a_foreign_thread(two_at_once);
        for _ in 0..100 {
            let stack = on_a_foreign_thread(prepare_and_fill);
            assert!(stack == first || stack == second, "{stack:?} is neither {first:?} nor {second:?}");
        }
        REFUSE.store(false, Ordering::Relaxed);
        on_a_foreign_thread(two_at_once);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        for stack in [first, second] {
            assert!(!maps.contains(&format!("{:x}-", stack.addr())), "{stack:?} in\n{maps}");
        }
    })
    .well();
}

/// What the process prints to its standard error while `body` runs.
fn printed(body: impl FnOnce()) -> String {
    // SAFETY: valid names and descriptors.
    unsafe {
        let (file, kept) = (libc::memfd_create(c"stderr".as_ptr(), 0), libc::dup(2));
        assert_eq!(libc::dup2(file, 2), 2);
        body();
        libc::dup2(kept, 2);
        let mut text = vec![0_u8; 4096];
        let length = libc::pread(file, text.as_mut_ptr().cast(), text.len(), 0);
        text.truncate(usize::try_from(length).unwrap());
        String::from_utf8(text).unwrap()
    }
}

unsafe extern "C" fn does_nothing(_: c_int) {}

/// By debug builds only.
#[test]
fn a_hint_is_printed_once_to_whoever_forgot_install() {
    for (variant, expected) in [
        ("forgotten", 1),
        ("forgotten, without the standard library's handler", 1),
        ("installed", 0),
        ("installed in part", 0),
        ("a handler of the embedder's", 0),
        ("no trap sites", 0),
        ("only raised", 0),
    ] {
        in_child(variant, || {
            let with_sites = load(RETURN, &[(0, TrapCode::Unreachable)]);
            let without = load(RETURN, &[]);
            match variant {
                "forgotten, without the standard library's handler" => {
                    FOUR.iter().for_each(|signum| set_action(*signum, libc::SIG_DFL, 0, &[]));
                }
                "installed" => install_all(),
                // SAFETY: the body is about these signals.
                "installed in part" => unsafe { install(Signals::SEGV | Signals::BUS) }.unwrap(),
                "a handler of the embedder's" => {
                    set_action(libc::SIGILL, does_nothing as *const () as usize, libc::SA_ONSTACK, &[]);
                }
                _ => {}
            }
            let printed = printed(|| {
                for _ in 0..3 {
                    match variant {
                        "no trap sites" => run(&without, ptr::null_mut()).unwrap(),
                        // SAFETY: owns nothing.
                        "only raised" => _ = unsafe { catch_trap(block_usr1_and_raise, ptr::null_mut()) },
                        _ => run(&with_sites, ptr::null_mut()).unwrap(),
                    }
                }
            });
            let expected = if cfg!(debug_assertions) { expected } else { 0 };
            assert_eq!(printed.matches("nothing is installed to catch traps").count(), expected, "{printed}");
        })
        .well();
    }
}

/// By debug builds only.
#[test]
fn a_fault_of_registered_code_that_is_no_trap_is_explained_once_before_it_is_passed_on() {
    for (variant, sites, expected) in [
        (
            "no site",
            &[][..],
            "SIGILL of registered code at text offset 0x0 is passed on: the code there is no trap site",
        ),
        ("a site beside it", &[(1, TrapCode::Unreachable)][..], "the code there is no trap site"),
        ("not entered", &[(0, TrapCode::Unreachable)][..], "was not entered by catch_trap on this stack"),
        ("a trap", &[(0, TrapCode::Unreachable)][..], ""),
    ] {
        in_child(variant, || {
            set_action(libc::SIGILL, handler(SKIP), libc::SA_SIGINFO, &[]);
            install_all();
            let code = load(INVALID, sites);
            let printed = printed(|| {
                for _ in 0..3 {
                    match variant {
                        "not entered" => {
                            // SAFETY: a function of this type; the old handler skips its first instruction.
                            let function = unsafe { mem::transmute::<usize, extern "C" fn()>(code.start) };
                            function();
                        }
                        _ => assert_eq!(run(&code, ptr::null_mut()).is_err(), variant == "a trap"),
                    }
                }
            });
            let times = usize::from(cfg!(debug_assertions) && !expected.is_empty());
            assert_eq!(printed.matches("is passed on").count(), times, "{printed}");
            assert!(times == 0 || printed.contains(expected), "{printed}");
        })
        .well();
    }
}

#[test]
fn a_first_call_on_a_thread_with_blocked_signals_panics_with_the_reason() {
    in_child("", || {
        let code: &'static Loaded = Box::leak(Box::new(load(RETURN, &[])));
        let panic = thread::spawn(move || {
            change_mask(libc::SIG_BLOCK, &FOUR);
            _ = run(code, ptr::null_mut());
        })
        .join()
        .unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("SIGSEGV is blocked on this thread"), "{message}");
    })
    .well();
}
