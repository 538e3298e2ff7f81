//! Signals that land anywhere: in a writer, in `malloc`, in a lookup, in a handler's lookup.
#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use trapline::CodeRegistry;

/// Who the payload says it is, until it is dropped.
struct Payload(usize);

impl Drop for Payload {
    fn drop(&mut self) {
        // SAFETY: ours; volatile, so that a use after the drop would see it.
        unsafe { (&raw mut self.0).write_volatile(usize::MAX) };
    }
}

static STATIC_REGISTRY: CodeRegistry<Payload> = CodeRegistry::new();

const STABLE: usize = 300;
const THREADS: usize = 3;

fn stable(i: usize) -> usize {
    0x1000_0000 + i * 0x1000
}

/// A range that comes and goes, by thread.
fn passing(thread: usize, i: usize) -> usize {
    stable(i % STABLE) + 0x800 + thread * 0x100
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);
static NESTED: AtomicUsize = AtomicUsize::new(0);
static ON_ALTERNATE_STACK: AtomicUsize = AtomicUsize::new(0);
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// Signals that found the registry interrupted: the pc was in this program's own text, which is registered.
static OWN_TEXT: AtomicUsize = AtomicUsize::new(0);

fn expect(right: bool) {
    LOOKUPS.fetch_add(1, Ordering::Relaxed);
    if !right {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
}

fn look_at_stable(i: usize) {
    expect(STATIC_REGISTRY.with(stable(i) + 0x7ff, |found| found.payload().0) == Some(i));
}

/// Looks some hundred pcs up, whatever was interrupted.
extern "C" fn sample(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let n = HANDLED.fetch_add(1, Ordering::Relaxed);
    let here = (&raw const n).addr();
    // SAFETY: `stack` is a place for the answer; sigaltstack is async-signal-safe.
    unsafe {
        let mut stack = MaybeUninit::<libc::stack_t>::uninit();
        if libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) == 0 {
            let stack = stack.assume_init();
            if (stack.ss_sp.addr()..stack.ss_sp.addr() + stack.ss_size).contains(&here)
                && stack.ss_size == ALTERNATE_BYTES
            {
                ON_ALTERNATE_STACK.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let pc = interrupted_pc(context);
    let text = STATIC_REGISTRY.with(pc, |found| found.payload().0);
    expect(text.is_none() || text == Some(OWN));
    if text == Some(OWN) {
        OWN_TEXT.fetch_add(1, Ordering::Relaxed);
    }
    for k in 0..50 {
        let i = (n * 50 + k) % STABLE;
        look_at_stable(i);
        expect(STATIC_REGISTRY.with(stable(i) + 0xf00, |_| ()).is_none());
        for t in 0..THREADS {
            // What comes and goes is its own range, or nothing.
            let found = STATIC_REGISTRY.with(passing(t, i), |found| {
                // Time for its owner, on another thread, to remove and reclaim it.
                (0..300).for_each(|_| std::hint::spin_loop());
                // SAFETY: a reference; volatile, so that it is read now.
                unsafe { (&raw const found.payload().0).read_volatile() }
            });
            expect(found.is_none() || found == Some(STABLE + t));
        }
    }
    look_at_one_moment(n);
    // A second signal, inside the closure.
    let before = NESTED.load(Ordering::Relaxed);
    let inside = STATIC_REGISTRY.with(stable(n % STABLE), |found| {
        // SAFETY: `raise` is async-signal-safe, and the signal is handled below.
        unsafe { libc::raise(libc::SIGUSR2) };
        found.payload().0
    });
    expect(inside == Some(n % STABLE));
    expect(NESTED.load(Ordering::Relaxed) > before);
}

/// A view sees one moment: what it found once it finds again, and it stays alive.
fn look_at_one_moment(n: usize) {
    STATIC_REGISTRY.view(|view| {
        for k in 0..20 {
            let i = (n * 20 + k) % STABLE;
            expect(view.get(stable(i)).map(|found| found.payload().0) == Some(i));
            let both = [(); 2].map(|()| {
                (0..300).for_each(|_| std::hint::spin_loop());
                // SAFETY: a reference; volatile, so that it is read now.
                view.get(passing(1, i))
                    .map(|found| (found.id(), unsafe { (&raw const found.payload().0).read_volatile() }))
            });
            expect(both[0] == both[1] && both[0].is_none_or(|(_, payload)| payload == STABLE + 1));
        }
    });
}

extern "C" fn nested(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let n = NESTED.fetch_add(1, Ordering::Relaxed);
    for k in 0..10 {
        look_at_stable((n * 10 + k) % STABLE);
    }
}

fn interrupted_pc(context: *mut c_void) -> usize {
    // SAFETY: the kernel gives handlers with SA_SIGINFO a ucontext.
    #[allow(unused_unsafe, reason = "elsewhere there is nothing to read")]
    unsafe {
        #[cfg(target_arch = "x86_64")]
        return (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
        #[cfg(target_arch = "aarch64")]
        return (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc as usize;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return context.addr();
    }
}

/// The payload of this program's own text.
const OWN: usize = 1_000_000;

/// Where this program's text is mapped.
fn own_text() -> std::ops::Range<usize> {
    let here = own_text as fn() -> std::ops::Range<usize> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        })
        .find(|range| range.contains(&here))
        .expect("this function is mapped")
}

fn handle(signal: c_int, handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)) {
    // SAFETY: a zeroed sigaction is a valid one, and the handlers are async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

const ALTERNATE_BYTES: usize = 1 << 18;

/// From now on the thread's signals are handled on a stack of their own, or else where they find it. (The one that the
/// standard library makes for each thread is small, and is in use in neither case.)
fn choose_stack(thread: usize) {
    let stack = if thread.is_multiple_of(2) {
        let memory = Box::leak(vec![0_u8; ALTERNATE_BYTES].into_boxed_slice());
        libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALTERNATE_BYTES }
    } else {
        libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 }
    };
    // SAFETY: the memory, if any, is leaked.
    assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
}

fn work(thread: usize, over: &AtomicBool) {
    let mut i = thread;
    while !over.load(Ordering::Relaxed) {
        i += 1;
        let start = passing(thread, i);
        let code = Arc::new(Payload(STABLE + thread));
        let registration = STATIC_REGISTRY.register(start..start + 0x80, code).unwrap();
        let memory: Vec<Vec<u8>> = (0..8).map(|n| vec![1; 40 << n]).collect();
        look_at_stable(i % STABLE);
        expect(STATIC_REGISTRY.with(start, |found| found.payload().0) == Some(STABLE + thread));
        let guard = STATIC_REGISTRY.pin();
        expect(guard.get(stable(i % STABLE)).map(|found| found.payload().0) == Some(i % STABLE));
        drop(guard);
        if i.is_multiple_of(16) {
            expect(STATIC_REGISTRY.snapshot().get(start).map(|found| found.payload().0) == Some(STABLE + thread));
        }
        drop(registration);
        expect(STATIC_REGISTRY.with(start, |_| ()).is_none());
        if i.is_multiple_of(64) {
            STATIC_REGISTRY.reclaim();
        }
        drop(std::hint::black_box(memory));
    }
}

#[test]
fn signals_at_random_instructions_get_right_answers() {
    let all = (0..STABLE).map(|i| (stable(i)..stable(i) + 0x800, Arc::new(Payload(i))));
    for registration in STATIC_REGISTRY.register_all(all).unwrap() {
        registration.leak();
    }
    let text = STATIC_REGISTRY.register(own_text(), Arc::new(Payload(OWN))).unwrap();
    handle(libc::SIGUSR1, sample);
    handle(libc::SIGUSR2, nested);

    let over = AtomicBool::new(false);
    // Bounded by work, not by time: so many signals handled.
    const SIGNALS: usize = 4_000;
    thread::scope(|scope| {
        let over = &over;
        let (ready, targets) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                let ready = ready.clone();
                scope.spawn(move || {
                    choose_stack(t);
                    // SAFETY: no preconditions.
                    ready.send(unsafe { libc::pthread_self() } as usize).unwrap();
                    work(t, over);
                })
            })
            .collect();
        let targets: Vec<_> = targets.iter().take(THREADS).collect();
        let mut sent = 0;
        while HANDLED.load(Ordering::Relaxed) < SIGNALS && threads.iter().all(|thread| !thread.is_finished()) {
            // SAFETY: the threads are not joined yet.
            assert_eq!(unsafe { libc::pthread_kill(targets[sent % THREADS] as libc::pthread_t, libc::SIGUSR1) }, 0);
            sent += 1;
            if sent % THREADS == 0 {
                // Until somebody has been served: signals that are pending already are merged.
                let served = HANDLED.load(Ordering::Relaxed);
                for _ in 0..100 {
                    if HANDLED.load(Ordering::Relaxed) > served {
                        break;
                    }
                    thread::yield_now();
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let n = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    println!(
        "{} signals ({} on an alternate stack, {} in this program's text), {} nested; {} lookups, {} wrong",
        n(&HANDLED),
        n(&ON_ALTERNATE_STACK),
        n(&OWN_TEXT),
        n(&NESTED),
        n(&LOOKUPS),
        n(&WRONG)
    );
    assert_eq!(n(&WRONG), 0);
    assert!(n(&LOOKUPS) > 500_000, "too few lookups to show anything");
    assert!(n(&HANDLED) >= SIGNALS && n(&NESTED) >= SIGNALS);
    assert!(n(&ON_ALTERNATE_STACK) > 0 && n(&ON_ALTERNATE_STACK) < n(&HANDLED), "both kinds of stack");
    assert!(n(&OWN_TEXT) > 0 || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))));
    drop(text);
    STATIC_REGISTRY.reclaim();
    let stats = STATIC_REGISTRY.stats();
    assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (STABLE, 0, 0));
}
