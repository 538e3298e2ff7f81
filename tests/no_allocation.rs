//! Lookups neither allocate nor free, from the first one of a thread on (P2).
#![cfg(unix)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use trapline::{CodeRegistry, Snapshot};

/// Counts what the watched thread asks for. No thread-local: those of a fresh thread are what is in question.
struct Counting;

/// The `pthread_self` of the watched thread, 0 for none.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static FREES: AtomicUsize = AtomicUsize::new(0);

fn me() -> usize {
    // SAFETY: no preconditions.
    (unsafe { libc::pthread_self() }) as usize
}

// SAFETY: the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Ordering::SeqCst) == me() {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if WATCHED.load(Ordering::SeqCst) == me() {
            FREES.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Only one thread can be watched at a time.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// How many allocations and frees `f` makes on this thread.
fn watched(f: impl FnOnce()) -> (usize, usize) {
    let before = (ALLOCATIONS.load(Ordering::SeqCst), FREES.load(Ordering::SeqCst));
    WATCHED.store(me(), Ordering::SeqCst);
    f();
    WATCHED.store(0, Ordering::SeqCst);
    (ALLOCATIONS.load(Ordering::SeqCst) - before.0, FREES.load(Ordering::SeqCst) - before.1)
}

const RANGES: usize = 10_000;
static REGISTRY: CodeRegistry<usize> = CodeRegistry::new();

fn start(i: usize) -> usize {
    0x10_0000 + i * 0x1000
}

fn fill() -> std::sync::MutexGuard<'static, ()> {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if REGISTRY.stats().live_ranges == 0 {
        let all = (0..RANGES).map(|i| (start(i)..start(i) + 0x800, Arc::new(i)));
        REGISTRY.register_all(all).unwrap().into_iter().for_each(|registration| {
            registration.leak();
        });
    }
    alone
}

/// Asks for every range and every gap; how many ranges were found, and found right.
fn look_everywhere(find: impl Fn(usize) -> Option<usize>) -> usize {
    (0..RANGES).filter(|i| find(start(*i) + 0x7ff) == Some(*i) && find(start(*i) + 0x800).is_none()).count()
}

#[test]
fn an_allocation_and_a_free_are_counted() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert_eq!(watched(|| drop(std::hint::black_box(Box::new(1)))), (1, 1));
    let registry = CodeRegistry::new();
    let (allocations, _) = watched(|| {
        registry.register(1..2, Arc::new(())).unwrap().leak();
    });
    assert!(allocations > 0, "a registration allocates");
    drop(registry);
}

#[test]
fn lookups_in_the_gate_neither_allocate_nor_free() {
    let _alone = fill();
    let mut right = 0;
    let nothing = watched(|| right = look_everywhere(|pc| REGISTRY.with(pc, |found| *found.payload())));
    assert_eq!((nothing, right), ((0, 0), RANGES));
}

#[test]
fn lookups_in_a_view_neither_allocate_nor_free() {
    let _alone = fill();
    let mut right = 0;
    let nothing =
        watched(|| right = REGISTRY.view(|view| look_everywhere(|pc| view.get(pc).map(|found| *found.payload()))));
    assert_eq!((nothing, right), ((0, 0), RANGES));
}

#[test]
fn lookups_under_a_guard_neither_allocate_nor_free() {
    let _alone = fill();
    let guard = REGISTRY.pin();
    let mut right = 0;
    let nothing = watched(|| right = look_everywhere(|pc| guard.get(pc).map(|found| *found.payload())));
    assert_eq!((nothing, right), ((0, 0), RANGES));
}

#[test]
fn lookups_in_a_snapshot_neither_allocate_nor_free() {
    let _alone = fill();
    let snapshot: Snapshot<usize> = REGISTRY.snapshot();
    let mut right = 0;
    let nothing = watched(|| {
        right = look_everywhere(|pc| snapshot.get(pc).map(|found| *found.payload()));
        right += snapshot.iter().filter(|found| found.range().start == start(*found.payload())).count();
    });
    assert_eq!((nothing, right), ((0, 0), 2 * RANGES));
}

#[test]
fn lookups_in_an_empty_registry_neither_allocate_nor_free() {
    static EMPTY: CodeRegistry<usize> = CodeRegistry::new();
    let _alone = fill();
    assert_eq!(watched(|| assert!(EMPTY.with(0x1000, |_| ()).is_none() && EMPTY.stats().live_ranges == 0)), (0, 0));
}

#[test]
fn the_global_lookups_neither_allocate_nor_free() {
    let _alone = fill();
    let mut image = trapline::image::ImageBuilder::new();
    image.text([0x90; 256]);
    for offset in 0..64 {
        image.trap(offset * 4, trapline::TrapCode::Unreachable);
    }
    let image = trapline::image::Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap();
    let text = image.text_range();
    let _registration = trapline::process::register(Arc::new(image)).unwrap();
    let nothing = watched(|| {
        for pc in text.clone() {
            let traps = (pc - text.start).is_multiple_of(4);
            assert_eq!(trapline::process::trap_code(pc).is_some(), traps);
            assert_eq!(trapline::process::trap_code(pc), traps.then_some(trapline::TrapCode::Unreachable));
            assert_eq!(trapline::process::with(pc, |found| found.offset()), Some(pc - text.start));
        }
        assert!(trapline::process::trap_code(text.end).is_none());
        assert!(trapline::process::trap_code(text.start - 1).is_none());
    });
    assert_eq!(nothing, (0, 0));
}

#[test]
fn the_first_lookup_of_a_thread_that_rust_did_not_make_neither_allocates_nor_frees() {
    extern "C" fn first(_: *mut c_void) -> *mut c_void {
        let mut right = 0;
        let (allocations, frees) =
            watched(|| right = look_everywhere(|pc| REGISTRY.with(pc, |found| *found.payload())));
        ptr::without_provenance_mut(if (allocations, frees, right) == (0, 0, RANGES) { 42 } else { 1 })
    }
    let _alone = fill();
    for _ in 0..20 {
        let mut result = ptr::null_mut();
        // SAFETY: `first` is a thread's entry that does not unwind, and the pointers are valid.
        unsafe {
            let mut thread = std::mem::zeroed();
            assert_eq!(libc::pthread_create(&mut thread, ptr::null(), first, ptr::null_mut()), 0);
            assert_eq!(libc::pthread_join(thread, &mut result), 0);
        }
        assert_eq!(result.addr(), 42);
    }
}

#[test]
fn lookups_that_race_with_writers_neither_allocate_nor_free() {
    let _alone = fill();
    let (stop, writes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let theirs = (stop.clone(), writes.clone());
    let writer = std::thread::spawn(move || {
        while theirs.0.load(Ordering::SeqCst) == 0 {
            drop(REGISTRY.register(start(RANGES + 1)..start(RANGES + 2), Arc::new(0)).unwrap());
            drop(REGISTRY.register(0x1000..0x2000, Arc::new(0)).unwrap());
            theirs.1.fetch_add(4, Ordering::SeqCst);
        }
    });
    while writes.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let mut right = 0;
    let nothing = watched(|| {
        for _ in 0..10 {
            right += look_everywhere(|pc| if pc == start(RANGES) { None } else { REGISTRY.with(pc, |f| *f.payload()) });
        }
    });
    stop.store(1, Ordering::SeqCst);
    writer.join().unwrap();
    assert_eq!((nothing, right), ((0, 0), 10 * RANGES));
}

/// Code whose outer function calls an inner one that traps, and a handler that takes two backtraces of it.
#[cfg(all(feature = "signal", target_os = "linux", target_arch = "x86_64"))]
#[test]
fn backtraces_in_a_handler_neither_allocate_nor_free() {
    use std::sync::atomic::AtomicPtr;
    use trapline::signal::{Entry, catch_trap_with, handle_signal, prepare_thread, sample};
    use trapline::{Backtrace, BacktraceEnd, PcKind};

    static SAMPLED: AtomicPtr<Backtrace<8>> = AtomicPtr::new(ptr::null_mut());
    extern "C" fn on_trap(signum: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's own arguments; the test's own backtrace, which it does not touch meanwhile.
        unsafe {
            sample(context, &mut *SAMPLED.load(Ordering::SeqCst));
            if !handle_signal(signum, info.cast(), context) {
                libc::_exit(1);
            }
        }
    }

    let _alone = fill();
    let mut image = trapline::image::ImageBuilder::new();
    image.text([
        0x55, // push rbp
        0x48, 0x89, 0xe5, // mov rbp, rsp
        0xe8, 0x02, 0x00, 0x00, 0x00, // call the function at 11
        0x5d, // pop rbp
        0xc3, // ret
        0x55, // push rbp
        0x48, 0x89, 0xe5, // mov rbp, rsp
        0x0f, 0x0b, // ud2
    ]);
    image.trap(15, trapline::TrapCode::Unreachable);
    let image = Arc::new(trapline::image::Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap());
    let _registration = trapline::process::register(image.clone()).unwrap();
    let start = image.text_range().start;
    // SAFETY: the text is a function of the C calling convention; a zeroed action is a valid one.
    let function = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, ptr::null_mut()), 0);
        image.entry::<unsafe extern "C" fn(*mut c_void)>(0).unwrap()
    };
    prepare_thread().unwrap();
    let (mut sampled, mut trapped) = (Backtrace::<8>::new(), Backtrace::<8>::new());
    SAMPLED.store(&raw mut sampled, Ordering::SeqCst);
    let mut traps = 0;
    let nothing = watched(|| {
        for _ in 0..100 {
            let entry = Entry::new().backtrace(&mut trapped);
            // SAFETY: the functions skip no frames but their own, and stay on this stack.
            traps += usize::from(unsafe { catch_trap_with(function, ptr::null_mut(), entry) }.is_err());
        }
    });
    assert_eq!((nothing, traps), ((0, 0), 100));
    for backtrace in [&sampled, &trapped] {
        let expected = [(start + 15, PcKind::Interrupted), (start + 9, PcKind::ReturnAddress)];
        assert_eq!(backtrace.pcs().collect::<Vec<_>>(), expected);
        assert_eq!(backtrace.end(), BacktraceEnd::Complete);
    }
}
