//! Mode A, what is about the whole process: its registry of images, its traps, its C library.

use super::step;
use super::watch::Watch;
use super::world::{self, Payload};
use super::writer::{self, Operation, answers, range};
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use trapline::image::Image;
use trapline::signal::{Signals, catch_trap, install};
use trapline::{TrapCode, process};

pub const OPERATIONS: &[Operation] = &[
    ("publishing and registering an image", code_appears),
    ("unregistering and unmapping an image", code_vanishes),
    ("catching a trap", trap),
    ("passing on a signal that is no trap", passed_on),
    ("the C library: malloc, mmap, raise, fork", c_library),
    ("the first use of a thread-local with a destructor", thread_local),
];

/// An image that stays registered, to be asked for while other code comes and goes. Made once a process.
pub fn stable_code() -> Vec<(usize, Option<u64>)> {
    static STABLE: std::sync::OnceLock<Vec<Arc<Image>>> = std::sync::OnceLock::new();
    let all = STABLE.get_or_init(|| {
        let all: Vec<_> = (0..20).map(|i| world::image(500 + i)).collect();
        for code in &all {
            process::register(code.clone()).expect("fresh memory").leak();
        }
        all
    });
    let known = all.iter().zip(500..);
    known.flat_map(|(code, who)| [(code.text_range().start, Some(who)), (code.text_range().end, None)]).collect()
}

fn code_appears() {
    // The first registration of the process is interrupted: until then there is no stable code.
    static FIRST: Once = Once::new();
    let mut stable = Vec::new();
    FIRST.call_once(|| stable.push((usize::MAX, None)));
    if stable.is_empty() {
        stable = stable_code();
    }
    let file = world::file(43);
    let code = world::image(42);
    let text = code.text_range();
    let watch = Watch::new(world::global, stable).changing([
        (text.start, None, Some(42)),
        (text.end - 1, None, Some(42)),
        (text.end, None, None),
    ]);
    let registration = writer::step(&watch, || {
        // Memory that is published and unmapped without ever having been registered: nobody finds it.
        black_box(world::load(&file));
        watch.change(|| process::register(code))
    });
    drop(registration.expect("fresh memory"));
    trapline::process::reclaim();
}

fn code_vanishes() {
    let mut stable = stable_code();
    let code = world::image(42);
    let text = code.text_range();
    stable.push((text.end, None));
    let registration = process::register(code).expect("fresh memory");
    let watch = Watch::new(world::global, stable).changing([
        (text.start, Some(42), None),
        (text.end - 1, Some(42), None),
        (text.start - 1, None, None),
    ]);
    writer::step(&watch, || {
        black_box(&registration);
        watch.change(|| drop(registration));
        // The registry had the last reference: this unmaps.
        trapline::process::reclaim();
    });
    assert_eq!(trapline::process::stats().retired_ranges, 0);
}

/// The handlers of [`install`], called by ours, which has them interrupted too: the kernel clears the trap flag on
/// entry.
static INSTALLED: [AtomicPtr<()>; 3] = [const { AtomicPtr::new(ptr::null_mut()) }; 3];
const SIGNALS: [c_int; 3] = [libc::SIGILL, libc::SIGSEGV, libc::SIGFPE];

extern "C" fn stepping(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let which = SIGNALS.iter().position(|s| *s == signal).unwrap_or(0);
    let handler = INSTALLED[which].load(Ordering::Relaxed);
    step::arm();
    // SAFETY: what `install` installed with SA_SIGINFO, given the kernel's arguments. Stepping ends with the return,
    // which restores the interrupted flags.
    unsafe { std::mem::transmute::<*mut (), step::Handler>(handler)(signal, info, context) };
}

static PASSED_ON: AtomicUsize = AtomicUsize::new(0);

extern "C" fn old_handler(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
}

/// Once a process: our handler in front of the crate's, in front of an old one.
fn install_stepping() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        step::handle(libc::SIGFPE, old_handler);
        // SAFETY: this process is about these signals.
        unsafe { install(Signals::all()) }.expect("handlers");
        for (signal, place) in SIGNALS.into_iter().zip(&INSTALLED) {
            // SAFETY: valid structures; the handler that is replaced is called by the new one.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(signal, ptr::null(), &mut action), 0);
                place.store(ptr::with_exposed_provenance_mut(action.sa_sigaction), Ordering::Relaxed);
                action.sa_sigaction = stepping as *const () as usize;
                assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
            }
        }
    });
}

/// `mov eax, [rdi]; ret`.
const LOAD: [u8; 3] = [0x8b, 0x07, 0xc3];

fn trap() {
    install_stepping();
    let mut stable = stable_code();
    let mut image = trapline::image::ImageBuilder::new();
    image.text([&world::text(9)[..], &LOAD].concat());
    image.trap(0, TrapCode::Unreachable).trap(12, TrapCode::MemoryOutOfBounds);
    let file = image.finish().expect("a small image");
    let code = Arc::new(Image::parse(&file).expect("our own").publish().expect("memory for a page"));
    let _registration = process::register(code.clone()).expect("fresh memory");
    let start = code.text_range().start;
    stable.extend([(start, Some(9)), (start + 11, Some(9))]);
    // SAFETY: two functions of the C calling convention that own nothing.
    let [undefined, load] =
        [start, start + 12].map(|at| unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(*mut c_void)>(at) });
    let watch = Watch::new(world::global, stable);
    let codes = writer::step(&watch, || {
        // SAFETY: the functions skip only their own frames.
        let traps = unsafe { [catch_trap(undefined, ptr::null_mut()), catch_trap(load, ptr::null_mut())] };
        traps.map(|trap| trap.err().map(|trap| trap.code))
    });
    assert_eq!(codes, [Some(TrapCode::Unreachable), Some(TrapCode::MemoryOutOfBounds)]);
}

fn passed_on() {
    install_stepping();
    let watch = Watch::new(world::global, stable_code());
    let before = PASSED_ON.load(Ordering::Relaxed);
    // SAFETY: the signal is handled.
    writer::step(&watch, || unsafe { libc::raise(libc::SIGFPE) });
    assert_eq!(PASSED_ON.load(Ordering::Relaxed), before + 1);
}

fn watch_some() -> Watch {
    let registry = world::fresh_registry();
    writer::fill(registry, 100);
    Watch::new(world::local, answers(100))
}

fn c_library() {
    let watch = watch_some();
    let status = writer::step(&watch, || {
        // SAFETY: blocks and pages are ours alone, and the child only exits.
        unsafe {
            let block = libc::realloc(libc::malloc(100), 200_000);
            libc::free(black_box(block));
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let page = libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0);
            libc::mprotect(page, 4096, libc::PROT_NONE);
            libc::munmap(page, 4096);
            libc::raise(libc::SIGUSR1);
            let mut status = -1;
            match libc::fork() {
                0 => libc::_exit(0),
                child => drop(libc::waitpid(child, &mut status, 0)),
            }
            status
        }
    });
    assert_eq!(status, 0, "the child's handlers found what was wrong");
}

fn thread_local() {
    struct Local(Arc<Payload>);
    impl Drop for Local {
        fn drop(&mut self) {
            black_box(self.0.who());
        }
    }
    thread_local!(static LOCAL: Local = Local(Payload::new(1)));
    let watch = watch_some();
    let who = writer::step(&watch, || LOCAL.with(|local| local.0.who()));
    assert_eq!(who, 1);
    black_box(range(0));
}
