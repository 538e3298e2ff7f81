//! Mode D: signals at any moment of a process's life, and of its threads' lives.
//!
//! The child has a handler that looks up, on no alternate stack. It creates threads, in C and in Rust; they register,
//! look up, unregister and reclaim, have thread-locals with destructors that look up, and end; it exits, through a
//! function of `atexit`. Its [tracer](super::tracer) interrupts all of that from outside.

use super::page::{Verdict, end, page};
use super::tracer::{self, Tracer};
use super::watch::{self, Watch};
use super::world::{self, Payload};
use super::writer::{self, answers, range};
use super::{memory, process, step};
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};
use trapline::Registration;

/// What the child's handler does, and what its first thread does besides.
static HANDLE: step::Hook = step::Hook::none();
static BESIDES: step::Hook = step::Hook::none();

/// Follows one life after another until `points` signals were injected. `handle` is what the handler does; the points
/// are counted by it, and by the tracer: they agree. `besides` is done by a thread of each life.
pub fn run(handle: fn(), besides: fn(), points: u64) {
    HANDLE.set(handle);
    BESIDES.set(besides);
    let mut stride = FIRST_STRIDE;
    let mut round = 0;
    while page().points() < points {
        prepare();
        let before = page().points();
        let mut tracer = Tracer::fork(on_signal as *const () as usize, life);
        let status = tracer.follow(stride, round);
        // A verdict of the child's stands.
        if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
            end(Verdict::Crashed, [status as u64, 0, 0]);
        }
        assert_eq!(page().points() - before, tracer.injected, "every signal was handled");
        assert_eq!(tracer.newborn, 2, "both threads were interrupted before their first instruction");
        assert!(tracer.blocked > 0, "signals came where the thread had them blocked");
        page().count_round();
        if round == 0 {
            stride = tracer.steps.div_ceil(points);
            page().note_stride(stride);
        }
        round += 1;
    }
}

/// The first life is also measured; the others are interrupted as often as there are points for.
const FIRST_STRIDE: u64 = 7;

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    step::keeping_errno(|| memory::forbid_while(|| HANDLE.call()));
}

fn prepare() {
    let registry = world::fresh_registry();
    writer::fill(registry, STABLE);
}

const STABLE: usize = 100;
/// The range that the first thread registers and the second one removes.
const COMES_AND_GOES: usize = 200;

fn life() -> ! {
    // SAFETY: a zeroed sigaction is a valid one. Without SA_ONSTACK: threads that nobody prepared have no other stack.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    for watch in [Watch::new(world::local, answers(STABLE)), Watch::new(world::global, process::stable_code())] {
        Box::leak(Box::new(watch)).for_ever();
    }
    tracer::begin();

    extern "C" fn at_exit() {
        watch::demand(world::local(range(5).start), Some(5), range(5).start);
    }
    let here = range(COMES_AND_GOES).start;
    // SAFETY: a function for as long as the process; a thread that is joined.
    unsafe {
        libc::atexit(at_exit);
        let appears = Watch::new(world::local, []).changing([(here, None, Some(7)), (here + 0x800, None, None)]);
        APPEARS.store(ptr::from_ref(&appears).cast_mut(), Ordering::Relaxed);
        appears.during(|| {
            let mut thread = 0;
            assert_eq!(libc::pthread_create(&mut thread, ptr::null(), c_thread, ptr::null_mut()), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        });
    }
    let vanishes = Watch::new(world::local, []).changing([(here, Some(7), None), (here + 0x800, None, None)]);
    vanishes.during(|| {
        std::thread::scope(|scope| {
            // Joined: the scope alone does not wait for the thread's own end.
            scope.spawn(|| rust_thread(&vanishes)).join().expect("no panics");
        });
    });
    // SAFETY: all threads are joined.
    unsafe { libc::exit(0) }
}

static APPEARS: AtomicPtr<Watch> = AtomicPtr::new(ptr::null_mut());
static REGISTERED: Mutex<Option<Registration<'static, Payload>>> = Mutex::new(None);

/// A thread that Rust's standard library did not make.
extern "C" fn c_thread(_: *mut c_void) -> *mut c_void {
    // SAFETY: set before this thread was created, and kept until it is joined.
    let watch = unsafe { &*APPEARS.load(Ordering::Relaxed) };
    let payload = Payload::new(7);
    let registration = watch.change(|| world::registry().register(range(COMES_AND_GOES), payload));
    *REGISTERED.lock().expect("no panics") = Some(registration.expect("a free range"));
    black_box(world::registry().snapshot().len());
    BESIDES.call();
    ptr::null_mut()
}

fn rust_thread(watch: &Watch) {
    struct LooksUp;
    impl Drop for LooksUp {
        fn drop(&mut self) {
            watch::demand(world::local(range(6).start), Some(6), range(6).start);
        }
    }
    thread_local!(static LOCAL: LooksUp = const { LooksUp });
    LOCAL.with(|local| _ = black_box(local));
    let registration = REGISTERED.lock().expect("no panics").take();
    watch.change(|| drop(registration));
    world::registry().reclaim();
    // Its record of this thread ends with the thread.
    drop(world::registry().pin());
}
