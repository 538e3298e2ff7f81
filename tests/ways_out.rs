//! Calls of `catch_trap` that are left in another way than by returning, or in another order than they were begun.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and some bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::fiber::{Fiber, fibers};
use common::machine::{CALL_HOST, CALL_HOST_INVALID, INVALID, RETURN, switch, with_way_out};
use common::{Guest, Loaded, in_child, install_all, load, run};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::hint::black_box;
use std::{mem, ptr};
use trapline::TrapCode;
use trapline::signal::{catch_trap, prepare_thread, raise};

/// Writes over what an earlier call left on the stack.
#[inline(never)]
fn scribble() {
    black_box(&mut [0x4141_4141_4141_4141_usize; 8192]);
}

/// What [`CALL_HOST`] calls.
#[repr(C)]
struct HostCall {
    function: Guest,
    way_out: Cell<usize>,
    inner: Guest,
}

fn invalid() -> Loaded {
    load(INVALID, &[(0, TrapCode::Unreachable)])
}

unsafe extern "C" fn harmless(_: *mut c_void) {}

mod thread_ends {
    use super::*;

    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut c_void) -> !;
        fn pthread_testcancel();
    }

    extern "C-unwind" fn exits(_: *mut c_void) {
        // SAFETY: no frame between this one and the thread's first owns anything.
        unsafe { pthread_exit(ptr::null_mut()) }
    }

    extern "C-unwind" fn is_cancelled(_: *mut c_void) {
        // SAFETY: as above.
        unsafe {
            libc::pthread_cancel(libc::pthread_self());
            pthread_testcancel();
        }
        unreachable!()
    }

    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }

    /// What the thread still does when it has been unwound.
    struct Last(fn());

    impl Drop for Last {
        fn drop(&mut self) {
            scribble();
            (self.0)();
        }
    }

    /// Has a thread end in a host function, with thread-local state that is destroyed later than this crate's.
    fn end_inside(ends: extern "C-unwind" fn(*mut c_void), last: fn()) {
        extern "C" fn body(arg: *mut c_void) -> *mut c_void {
            // SAFETY: the caller's pair. No frame that is skipped owns anything.
            unsafe {
                let (ends, last) = *arg.cast::<(extern "C-unwind" fn(*mut c_void), fn())>();
                prepare_thread().unwrap();
                LAST.set(Some(Last(last)));
                // The C library unwinds through the frame of the call, which has to put up with it.
                let ends = mem::transmute::<extern "C-unwind" fn(*mut c_void), Guest>(ends);
                let mut room = [0_u8; 8192];
                black_box(&mut room);
                let _ = catch_trap(ends, ptr::null_mut());
                black_box(&mut room);
            }
            unreachable!()
        }
        let mut argument = (ends, last);
        // SAFETY: a valid argument; the thread is joined.
        unsafe {
            let mut thread = mem::zeroed();
            let argument = (&raw mut argument).cast();
            assert_eq!(libc::pthread_create(&mut thread, ptr::null(), body, argument), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        }
    }

    const WAYS: [(&str, extern "C-unwind" fn(*mut c_void)); 2] = [("exits", exits), ("is cancelled", is_cancelled)];

    #[test]
    fn a_thread_that_ended_inside_a_call_can_make_others_in_its_destructors() {
        for (name, ends) in WAYS {
            in_child(name, || {
                install_all();
                end_inside(ends, || {
                    // SAFETY: the function does nothing.
                    assert_eq!(unsafe { catch_trap(harmless, ptr::null_mut()) }, Ok(()));
                    assert_eq!(run(&invalid(), ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
                });
            })
            .well();
        }
    }

    /// (The other C library does not unwind: its destructors run inside of the call.)
    #[test]
    #[cfg(target_env = "gnu")]
    fn a_trap_outside_of_any_call_in_a_destructor_is_passed_on() {
        for (name, ends) in WAYS {
            in_child(name, || {
                install_all();
                end_inside(ends, || {
                    // SAFETY: kills.
                    unsafe { (invalid().guest())(ptr::null_mut()) }
                });
            })
            .by_signal(libc::SIGILL);
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn raising_in_a_destructor_aborts() {
        for (name, ends) in WAYS {
            in_child(name, || {
                end_inside(ends, || {
                    // SAFETY: aborts.
                    unsafe { raise(TrapCode::Interrupt) }
                });
            })
            .by_signal(libc::SIGABRT);
        }
    }
}

/// Leaves all calls for where the way out was saved.
unsafe extern "C" fn take_the_way_out(call: *mut c_void) {
    // SAFETY: the test's own structure; the frames that are skipped own nothing.
    unsafe { switch(&mut 0, (*call.cast::<HostCall>()).way_out.get()) };
}

/// Enters guest code that calls a host function that takes the way out; from deeper than later calls.
unsafe extern "C" fn enter_deeper(arg: *mut c_void) {
    let room = [0_u8; 16384];
    black_box(&room);
    // SAFETY: the test's own structure.
    unsafe {
        let call = &*arg.cast::<HostCall>();
        let _ = catch_trap(call.inner, arg);
    }
    unreachable!();
}

/// Leaves a call by the way out.
#[inline(never)]
fn leave_a_call(code: &Loaded) {
    let call = HostCall { function: take_the_way_out, way_out: Cell::new(0), inner: code.guest() };
    // SAFETY: what is skipped owns nothing.
    unsafe { with_way_out(call.way_out.as_ptr(), enter_deeper, (&raw const call).cast_mut().cast()) };
}

#[test]
fn after_a_jump_out_of_a_call_the_next_one_catches_its_trap() {
    in_child("", || {
        install_all();
        let (outer, code) = (load(CALL_HOST, &[]), invalid());
        for _ in 0..100 {
            leave_a_call(&outer);
            scribble();
            assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
            leave_a_call(&outer);
            assert_eq!(run(&code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
        }
    })
    .well();
}

#[test]
fn after_a_jump_out_of_a_call_a_trap_outside_of_any_is_passed_on() {
    for variant in ["at once", "deeper", "after another call"] {
        in_child(variant, || {
            install_all();
            let (outer, code) = (load(CALL_HOST, &[]), invalid());
            leave_a_call(&outer);
            match variant {
                "at once" => {}
                "deeper" => scribble(),
                _ => run(&load(RETURN, &[]), ptr::null_mut()).unwrap(),
            }
            #[inline(never)]
            fn from_below(guest: Guest) {
                black_box(&mut [0x41_u8; 65536]);
                // SAFETY: kills.
                unsafe { guest(ptr::null_mut()) }
            }
            match variant {
                "deeper" => from_below(code.guest()),
                // SAFETY: kills.
                _ => unsafe { (code.guest())(ptr::null_mut()) },
            }
        })
        .by_signal(libc::SIGILL);
    }
}

#[test]
fn a_jump_over_an_inner_call_leaves_the_outer_one_as_it_was() {
    unsafe extern "C" fn jump_over(arg: *mut c_void) {
        // SAFETY: the test's own structure.
        let call = unsafe { &*arg.cast::<HostCall>() };
        let mut inner = HostCall { function: take_the_way_out, way_out: Cell::new(0), inner: call.inner };
        for _ in 0..3 {
            // SAFETY: what is skipped owns nothing.
            unsafe { with_way_out(inner.way_out.as_ptr(), enter_deeper, (&raw mut inner).cast()) };
        }
    }
    in_child("", || {
        install_all();
        let code = load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::BadSignature)]);
        for _ in 0..100 {
            let mut call = HostCall { function: jump_over, way_out: Cell::new(0), inner: code.guest() };
            assert_eq!(run(&code, (&raw mut call).cast()).unwrap_err().code, TrapCode::BadSignature);
        }
        // And nothing is left of any.
        let mut call = HostCall { function: interrupt, way_out: Cell::new(0), inner: code.guest() };
        assert_eq!(run(&code, (&raw mut call).cast()).unwrap_err().code, TrapCode::Interrupt);
    })
    .well();
}

unsafe extern "C" fn interrupt(_: *mut c_void) {
    // SAFETY: called from a guest only; owns nothing.
    unsafe { raise(TrapCode::Interrupt) }
}

/// What the host function of a fiber is given: it pauses, and the guest traps when it is resumed.
#[repr(C)]
struct Pausing {
    function: Guest,
    fiber: *const Fiber,
}

unsafe extern "C" fn pause(arg: *mut c_void) {
    // SAFETY: the test's own structure, of the fiber that this is called on.
    unsafe { (*(*arg.cast::<Pausing>()).fiber).pause() };
}

const STACK: usize = 1 << 18;
/// The exit status of a child in which something went on that should not.
const WENT_ON: i32 = 9;

fn exit(status: i32) -> ! {
    // SAFETY: nothing to clean up.
    unsafe { libc::_exit(status) }
}

/// Has fibers enter guest code one after the other, of which the first traps while the others are inside.
#[test]
fn a_trap_of_one_fiber_never_ends_the_call_of_another() {
    let orders: [&[usize]; 8] =
        [&[0, 1], &[1, 0], &[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]];
    for order in orders {
        in_child(&format!("{order:?}"), || {
            install_all();
            let code: &Loaded = Box::leak(Box::new(load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)])));
            let fibers = fibers::<3>(STACK);
            for number in order {
                fibers[*number].start(|fiber| {
                    let mut host = Pausing { function: pause, fiber };
                    let _ = run(code, (&raw mut host).cast());
                    exit(WENT_ON);
                });
            }
            fibers[order[0]].resume();
        })
        .by_signal(libc::SIGILL);
    }
}

#[test]
fn a_trap_outside_of_any_call_never_ends_the_call_of_a_fiber() {
    for variant in ["fiber below", "fiber above"] {
        in_child(variant, || {
            install_all();
            let code: &Loaded = Box::leak(Box::new(load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)])));
            let trap: &Loaded = Box::leak(Box::new(invalid()));
            // Mappings follow each other, upwards or downwards, once they have filled what holes there are.
            let fibers = || (0..32).map(|_| Fiber::new(STACK)).collect::<Vec<_>>();
            let earlier = ptr::from_ref::<Vec<Fiber>>(Box::leak(Box::new(fibers()))).expose_provenance();
            std::thread::spawn(move || {
                // SAFETY: leaked, and no longer used by the thread that made it.
                let earlier = unsafe { &*ptr::with_exposed_provenance::<Vec<Fiber>>(earlier) };
                let later = fibers();
                let here = (&raw const later).addr();
                let is_wanted = |fiber: &&Fiber| (fiber.stack().0.start > here) == (variant == "fiber above");
                let fiber = earlier.iter().chain(&later).find(is_wanted).unwrap();
                fiber.start(|fiber| {
                    let mut host = Pausing { function: pause, fiber };
                    let _ = run(code, (&raw mut host).cast());
                    exit(WENT_ON);
                });
                // SAFETY: kills.
                unsafe { (trap.guest())(ptr::null_mut()) }
            })
            .join()
            .unwrap();
        })
        .by_signal(libc::SIGILL);
    }
}

/// Not the order that they began in, and nobody knows that they are two stacks.
#[test]
fn a_fiber_of_unknown_bounds_that_returns_out_of_order_aborts() {
    for (variant, first) in [("first below", 0), ("first above", 1)] {
        in_child(variant, || {
            let fibers = fibers::<2>(STACK);
            for fiber in [&fibers[first], &fibers[1 - first]] {
                fiber.start(|fiber| {
                    unsafe extern "C" fn pause_and_return(arg: *mut c_void) {
                        // SAFETY: the fiber that this is called on.
                        unsafe { (*arg.cast::<Fiber>()).pause() };
                    }
                    // SAFETY: nothing traps.
                    let _ = unsafe { catch_trap(pause_and_return, ptr::from_ref(fiber).cast_mut().cast()) };
                    exit(WENT_ON);
                });
            }
            fibers[first].resume();
        })
        .by_signal(libc::SIGABRT);
    }
}

#[test]
fn fibers_that_enter_guest_code_one_inside_the_other_catch_their_traps() {
    in_child("", || {
        install_all();
        /// Enters guest code whose host function has the next fiber do the same, and which traps then.
        fn enter(fibers: &'static [Fiber]) {
            #[repr(C)]
            struct Next {
                function: Guest,
                fibers: &'static [Fiber],
            }
            unsafe extern "C" fn next(arg: *mut c_void) {
                // SAFETY: the test's own structure.
                let fibers = unsafe { (*arg.cast::<Next>()).fibers };
                if let Some((fiber, others)) = fibers.split_first() {
                    fiber.start(move |_| enter(others));
                    assert!(fiber.has_ended());
                }
            }
            let code = load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)]);
            for _ in 0..2 {
                let mut host = Next { function: next, fibers };
                assert_eq!(run(&code, (&raw mut host).cast()).unwrap_err().code, TrapCode::Unreachable);
            }
        }
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut fibers = fibers::<3>(STACK).map(Some);
            enter(order.map(|number| fibers[number].take().unwrap()).into_iter().collect::<Vec<_>>().leak());
        }
    })
    .well();
}

#[test]
fn a_fiber_that_is_given_up_inside_a_call_does_not_end_others() {
    in_child("", || {
        install_all();
        let code: &Loaded = Box::leak(Box::new(load(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)])));
        for _ in 0..10 {
            let fiber = Fiber::new(STACK);
            fiber.start(|fiber| {
                let mut host = Pausing { function: pause, fiber };
                let _ = run(code, (&raw mut host).cast());
                exit(WENT_ON);
            });
            fiber.unmap();
            assert_eq!(run(&invalid(), ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
        }
    })
    .well();
}
