//! Lookups where threads end, and the process: between cancellation points, in destructors of thread-locals, at exit.
#![cfg(target_os = "linux")]

mod common;

use common::in_child;
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{mem, ptr, thread};
use trapline::CodeRegistry;

unsafe extern "C-unwind" {
    fn pthread_testcancel();
    fn pthread_exit(value: *mut c_void) -> !;
}

/// What a cancelled thread returns.
const CANCELED: usize = usize::MAX;

static REGISTRY: CodeRegistry<usize> = CodeRegistry::new();
const STANDING: usize = 100;

fn page(i: usize) -> std::ops::Range<usize> {
    0x10_0000 + i * 0x1000..0x10_0800 + i * 0x1000
}

/// These tests share the registry, and look at what waits in it.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if REGISTRY.stats().live_ranges == 0 {
        for i in 0..STANDING {
            REGISTRY.register(page(i), Arc::new(i)).unwrap().leak();
        }
    }
    alone
}

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);

/// A lookup that must find, and one that must not.
fn look() {
    let n = LOOKUPS.fetch_add(1, Ordering::Relaxed);
    let i = n % STANDING;
    let right = REGISTRY.with(page(i).start + 8, |found| *found.payload()) == Some(i);
    let nothing = REGISTRY.with(page(i).end, |_| ()).is_none();
    WRONG.fetch_add(usize::from(!right) + usize::from(!nothing), Ordering::Relaxed);
}

extern "C" fn on_signal(_: i32) {
    look();
}

/// Who is inside the gate holds up at least what it sees.
#[track_caller]
fn assert_nobody_is_inside(registry: &CodeRegistry<usize>) {
    drop(registry.register(page(STANDING + 1), Arc::new(0)).unwrap());
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0, "somebody is still inside");
}

/// Starts a thread that the standard library knows nothing about.
fn start(body: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> libc::pthread_t {
    // SAFETY: the two types differ only in that a cancelled thread unwinds, up to the C library's own frame.
    let body = unsafe {
        mem::transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, extern "C" fn(*mut c_void) -> *mut c_void>(
            body,
        )
    };
    // SAFETY: all zeroes is a value to be overwritten; valid pointers; the caller joins the thread.
    unsafe {
        let mut thread = mem::zeroed();
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), body, ptr::null_mut()), 0);
        thread
    }
}

/// Waits for the end of a thread that [`start`] returned, and says what it returned.
fn join(thread: libc::pthread_t) -> usize {
    let mut value = ptr::null_mut();
    // SAFETY: each thread is joined once.
    assert_eq!(unsafe { libc::pthread_join(thread, &mut value) }, 0);
    value.addr()
}

#[test]
fn threads_cancelled_between_lookups_under_signals_leave_nobody_inside() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    extern "C-unwind" fn until_cancelled(_: *mut c_void) -> *mut c_void {
        STARTED.fetch_add(1, Ordering::Relaxed);
        loop {
            look();
            // SAFETY: this frame owns nothing.
            unsafe { pthread_testcancel() };
        }
    }
    let _alone = alone();
    // SAFETY: the handler is async-signal-safe.
    assert_ne!(unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as usize) }, libc::SIG_ERR);
    const ROUNDS: usize = 40;
    for round in 0..ROUNDS {
        let threads = [(); 4].map(|()| start(until_cancelled));
        // The later rounds cancel threads that are running; the first ones may cancel them before they look.
        while round % 2 == 1 && STARTED.load(Ordering::Relaxed) < 4 * (round + 1) {
            thread::yield_now();
        }
        for (i, thread) in threads.into_iter().enumerate() {
            for _ in 0..i {
                // SAFETY: joined below.
                assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
            }
            // SAFETY: as above.
            assert_eq!(unsafe { libc::pthread_cancel(thread) }, 0);
            // SAFETY: as above. The thread is on its way out, or gone but not joined.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        }
        for thread in threads {
            assert_eq!(join(thread), CANCELED);
        }
        STARTED.store(4 * (round + 1), Ordering::Relaxed);
    }
    assert_nobody_is_inside(&REGISTRY);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "of {} lookups", 2 * LOOKUPS.load(Ordering::Relaxed));
}

/// The last things that run on a thread: destructors of Rust's thread-locals, then of the C library's keys.
#[test]
fn lookups_work_in_the_destructors_of_thread_locals() {
    static IN_RUST: AtomicUsize = AtomicUsize::new(0);
    static IN_C: AtomicUsize = AtomicUsize::new(0);
    static KEY: AtomicI32 = AtomicI32::new(-1);
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            look();
            IN_RUST.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local!(static LAST: RefCell<Option<Looks>> = const { RefCell::new(None) });
    extern "C" fn destructor(_: *mut c_void) {
        look();
        IN_C.fetch_add(1, Ordering::Relaxed);
    }
    fn prepare() {
        LAST.set(Some(Looks));
        let key = KEY.load(Ordering::Relaxed).cast_unsigned();
        // SAFETY: a key that was created; any value but null has the destructor called.
        assert_eq!(unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) }, 0);
    }
    extern "C-unwind" fn returns(_: *mut c_void) -> *mut c_void {
        prepare();
        ptr::without_provenance_mut(1)
    }
    extern "C-unwind" fn exits(_: *mut c_void) -> *mut c_void {
        prepare();
        // SAFETY: this frame owns nothing.
        unsafe { pthread_exit(ptr::without_provenance_mut(2)) }
    }

    let _alone = alone();
    let mut key = 0;
    // SAFETY: a valid place for the key, and a destructor that takes any value.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(destructor)) }, 0);
    KEY.store(key.cast_signed(), Ordering::Relaxed);
    const ROUNDS: usize = 50;
    for _ in 0..ROUNDS {
        thread::spawn(prepare).join().unwrap();
        let (first, second) = (start(returns), start(exits));
        assert_eq!((join(first), join(second)), (1, 2));
    }
    assert_eq!((IN_RUST.load(Ordering::Relaxed), IN_C.load(Ordering::Relaxed)), (3 * ROUNDS, 3 * ROUNDS));
    assert_eq!(WRONG.load(Ordering::Relaxed), 0);
    assert_nobody_is_inside(&REGISTRY);
}

#[test]
fn lookups_and_writes_work_in_an_exit_handler() {
    extern "C" fn last() {
        look();
        assert_nobody_is_inside(&REGISTRY);
        let status = if WRONG.load(Ordering::Relaxed) == 0 { 42 } else { 1 };
        // SAFETY: nothing is left to clean up.
        unsafe { libc::_exit(status) }
    }
    in_child("", || {
        drop(alone());
        // SAFETY: the handler does not unwind.
        assert_eq!(unsafe { libc::atexit(last) }, 0);
        std::process::exit(2);
    })
    .with_status(42);
}

/// What the others rely on: a thread that ends inside is noticed. (It ends behind everybody's back: no cancellation
/// and no unwinding leaves a closure so.)
#[test]
fn a_thread_that_vanishes_inside_a_lookup_holds_up_what_it_saw_and_no_more() {
    static ITS_OWN: CodeRegistry<usize> = CodeRegistry::new();
    static INSIDE: AtomicI32 = AtomicI32::new(0);
    extern "C-unwind" fn vanish(_: *mut c_void) -> *mut c_void {
        ITS_OWN.with(page(0).start, |_| {
            // SAFETY: no preconditions.
            INSIDE.store(unsafe { libc::gettid() }, Ordering::Relaxed);
            // SAFETY: ends this thread on the spot, which is what is wanted.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        unreachable!()
    }
    ITS_OWN.register(page(0), Arc::new(0)).unwrap().leak();
    assert_nobody_is_inside(&ITS_OWN);
    start(vanish);
    // The C library may not notice, so that it cannot be asked to wait.
    let is_there = |thread: i32| {
        // SAFETY: sends nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
    };
    while INSIDE.load(Ordering::Relaxed) == 0 || is_there(INSIDE.load(Ordering::Relaxed)) {
        thread::yield_now();
    }
    for _ in 0..10 {
        drop(ITS_OWN.register(page(1), Arc::new(0)).unwrap());
        ITS_OWN.reclaim();
        // The leaf that the thread saw.
        assert_eq!(ITS_OWN.stats().retired_nodes, 1);
        assert_eq!(ITS_OWN.with(page(0).start, |found| *found.payload()), Some(0));
    }
}
