//! Guest code on stacks whose bounds the embedder gives.
//!
//! Each body runs in a child process: signal actions belong to a whole process, and some bodies are meant to die.

#![cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::fiber::{Fiber, fibers};
use common::machine::{CALL_HOST, CALL_HOST_INVALID, INVALID, LOAD, RECURSE, switch, with_way_out};
use common::{Guest, Loaded, in_child, install_all, load, run};
use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;
use std::{mem, ptr, thread};
use trapline::signal::{Entry, Trap, catch_trap, catch_trap_with};
use trapline::{Backtrace, BacktraceEnd, TrapCode};

const STACK: usize = 1 << 18;

fn leaked(text: &[u8], traps: &[(usize, TrapCode)]) -> &'static Loaded {
    Box::leak(Box::new(load(text, traps)))
}

fn run_on(stack: (Range<usize>, usize), code: &Loaded, arg: *mut c_void) -> Result<(), Trap> {
    // SAFETY: the tests' functions skip only their own frames; the stack is the one this runs on.
    unsafe { catch_trap_with(code.guest(), arg, Entry::new().stack(stack.0, stack.1)) }
}

#[test]
fn an_overflow_of_a_stack_whose_bounds_were_given_is_a_trap() {
    in_child("", || {
        install_all();
        let code = leaked(RECURSE, &[]);
        let fiber = Fiber::new(STACK);
        fiber.start(|fiber| {
            for _ in 0..3 {
                let (stack, guard) = fiber.stack();
                let trap = run_on((stack.clone(), guard), code, ptr::null_mut()).unwrap_err();
                assert_eq!(trap.code, TrapCode::StackOverflow);
                let address = trap.fault_address.unwrap();
                assert!((stack.start - guard..stack.start).contains(&address), "{address:#x} below {stack:x?}");
            }
        });
        assert!(fiber.has_ended());
        // And the thread's own stack is what it was.
        assert_eq!(run(code, ptr::null_mut()).unwrap_err().code, TrapCode::StackOverflow);
    })
    .well();
}

#[repr(C)]
struct Nested {
    function: Guest,
    inner: &'static Loaded,
}
unsafe extern "C" fn nest(arg: *mut c_void) {
    // SAFETY: the test's own structure.
    let inner = unsafe { (*arg.cast::<Nested>()).inner };
    assert_eq!(run(inner, ptr::null_mut()).unwrap_err().code, TrapCode::StackOverflow);
}

#[test]
fn a_nested_call_on_a_stack_that_was_given_need_not_give_it_again() {
    in_child("", || {
        install_all();
        let code = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)]);
        let inner = leaked(RECURSE, &[]);
        let fiber = Fiber::new(STACK);
        fiber.start(move |fiber| {
            let mut call = Nested { function: nest, inner };
            let trap = run_on(fiber.stack(), code, (&raw mut call).cast()).unwrap_err();
            assert_eq!(trap.code, TrapCode::Unreachable);
        });
        assert!(fiber.has_ended());
    })
    .well();
}

#[test]
fn an_overflow_of_a_stack_of_unknown_bounds_is_passed_on() {
    in_child("", || {
        // SAFETY: the default action, instead of the standard library's.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        install_all();
        let code = leaked(RECURSE, &[]);
        Fiber::new(STACK).start(|_| _ = run(code, ptr::null_mut()));
    })
    .by_signal(libc::SIGSEGV);
}

#[test]
fn an_overflow_of_a_thread_on_a_stack_of_the_embedders_is_a_trap() {
    struct Argument {
        stack: (Range<usize>, usize),
        code: &'static Loaded,
    }
    extern "C" fn body(arg: *mut c_void) -> *mut c_void {
        // SAFETY: the test's own structure.
        let this = unsafe { &*arg.cast::<Argument>() };
        for _ in 0..3 {
            let trap = run_on(this.stack.clone(), this.code, ptr::null_mut()).unwrap_err();
            assert_eq!(trap.code, TrapCode::StackOverflow);
        }
        // And of a nested call, which need not say it again.
        let outer = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)]);
        let mut call = Nested { function: nest, inner: this.code };
        let trap = run_on(this.stack.clone(), outer, (&raw mut call).cast()).unwrap_err();
        assert_eq!(trap.code, TrapCode::Unreachable);
        ptr::without_provenance_mut(1)
    }
    in_child("", || {
        install_all();
        // Only its memory is used here.
        let memory = Fiber::new(1 << 20);
        let mut argument = Argument { stack: memory.stack(), code: leaked(RECURSE, &[]) };
        let (stack, _) = memory.stack();
        // SAFETY: valid attributes and memory; the thread is joined.
        unsafe {
            let mut attributes = mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            let base = ptr::with_exposed_provenance_mut(stack.start);
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, base, stack.len()), 0);
            let (mut thread, mut value) = (mem::zeroed(), ptr::null_mut());
            assert_eq!(libc::pthread_create(&mut thread, &attributes, body, (&raw mut argument).cast()), 0);
            assert_eq!(libc::pthread_join(thread, &mut value), 0);
            assert_eq!(value.addr(), 1);
        }
    })
    .well();
}

/// The lowest address of this thread's stack.
fn lowest_address() -> usize {
    // SAFETY: asks for this thread, which exists; the attributes are initialised by the answer.
    unsafe {
        let mut attributes: libc::pthread_attr_t = mem::zeroed();
        let (mut low, mut size) = (ptr::null_mut(), 0);
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        assert_eq!(libc::pthread_attr_getstack(&attributes, &mut low, &mut size), 0);
        libc::pthread_attr_destroy(&mut attributes);
        low.addr()
    }
}

#[test]
fn a_fault_in_the_guard_of_another_stack_is_not_an_overflow() {
    for variant in
        ["the thread's, on a fiber of unknown bounds", "the thread's, on a fiber", "a fiber's, on the thread's"]
    {
        in_child(variant, || {
            // SAFETY: the default action, instead of the standard library's.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            install_all();
            let code = leaked(LOAD, &[]);
            thread::spawn(move || {
                let fiber = Fiber::new(STACK);
                let threads_guard = ptr::without_provenance_mut(lowest_address() - 8);
                let fibers_guard = ptr::without_provenance_mut(fiber.stack().0.start - 8);
                match variant {
                    "a fiber's, on the thread's" => _ = run(code, fibers_guard),
                    "the thread's, on a fiber" => {
                        fiber.start(move |fiber| _ = run_on(fiber.stack(), code, threads_guard));
                    }
                    _ => fiber.start(move |_| _ = run(code, threads_guard)),
                }
            })
            .join()
            .unwrap();
        })
        .by_signal(libc::SIGSEGV);
    }
}

#[test]
fn a_stack_that_is_not_the_one_in_use_is_refused() {
    in_child("", || {
        let fiber = Fiber::new(STACK);
        let code = leaked(INVALID, &[]);
        let stack = fiber.stack();
        let refused = thread::spawn(move || _ = run_on(stack, code, ptr::null_mut())).join().unwrap_err();
        let message = refused.downcast_ref::<String>().unwrap();
        assert!(message.contains("not on the stack that was given"), "{message}");
    })
    .well();
}

/// What the host function of a fiber is given: it pauses, as often as its guest calls it.
#[repr(C)]
struct Pausing {
    function: Guest,
    fiber: *const Fiber,
}

unsafe extern "C" fn pause(arg: *mut c_void) {
    // SAFETY: the test's own structure, of the fiber that this is called on.
    unsafe { (*(*arg.cast::<Pausing>()).fiber).pause() };
}

unsafe extern "C" fn pause_and_return(fiber: *mut c_void) {
    // SAFETY: the fiber that this is called on.
    unsafe { (*fiber.cast::<Fiber>()).pause() };
}

#[test]
fn fibers_that_return_out_of_order_leave_traps_of_later_calls_right() {
    in_child("", || {
        install_all();
        let code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
        let outer = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::BadSignature)]);
        for first in [0, 1] {
            let fibers = fibers::<2>(STACK);
            let order = Rc::new(Cell::new(0));
            // The first one only returns, the other one traps afterwards.
            for number in [first, 1 - first] {
                let order = order.clone();
                fibers[number].start(move |fiber| {
                    let (stack, guard) = fiber.stack();
                    let this = ptr::from_ref(fiber).cast_mut().cast::<c_void>();
                    let entry = Entry::new().stack(stack, guard);
                    if number == first {
                        // SAFETY: nothing traps.
                        unsafe { catch_trap_with(pause_and_return, this, entry) }.unwrap();
                        order.set(order.get() * 10 + 1);
                    } else {
                        let mut host = Pausing { function: pause, fiber };
                        // SAFETY: the guest skips only its own frame.
                        let trap = unsafe { catch_trap_with(outer.guest(), (&raw mut host).cast(), entry) };
                        assert_eq!(trap.unwrap_err().code, TrapCode::BadSignature);
                        order.set(order.get() * 10 + 2);
                    }
                    assert_eq!(run_on(fiber.stack(), code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
                });
            }
            assert_eq!(run(code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
            fibers[first].resume();
            assert!(fibers[first].has_ended());
            assert_eq!(run(code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
            fibers[1 - first].resume();
            assert!(fibers[1 - first].has_ended());
            assert_eq!(order.get(), 12);
            fibers.iter().for_each(Fiber::unmap);
        }
    })
    .well();
}

/// They are left out of order, so that the first is the last one in the list of calls.
#[test]
fn what_a_call_left_on_its_stack_is_not_taken_for_a_call() {
    fn enter_and_pause(fiber: &Fiber) {
        let mut room = mem::MaybeUninit::<[u8; 4096]>::uninit();
        std::hint::black_box(&mut room);
        let (stack, guard) = fiber.stack();
        let this = ptr::from_ref(fiber).cast_mut().cast::<c_void>();
        // SAFETY: nothing traps.
        unsafe { catch_trap_with(pause_and_return, this, Entry::new().stack(stack, guard)) }.unwrap();
    }
    in_child("", || {
        install_all();
        let code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
        let fibers = fibers::<2>(STACK);
        fibers.iter().for_each(|fiber| fiber.start(enter_and_pause));
        fibers.iter().for_each(Fiber::resume);
        fibers[0].start(move |fiber| {
            // From deeper than the first call was, which nothing has written over.
            let mut room = mem::MaybeUninit::<[u8; 16384]>::uninit();
            std::hint::black_box(&mut room);
            let mut backtrace = Backtrace::<8>::new();
            let (stack, guard) = fiber.stack();
            let entry = Entry::new().backtrace(&mut backtrace).stack(stack, guard);
            // SAFETY: the guest skips only its own frame.
            unsafe { catch_trap_with(code.guest(), ptr::null_mut(), entry) }.unwrap_err();
            assert_eq!((backtrace.len(), backtrace.end()), (1, BacktraceEnd::Complete));
            std::hint::black_box(&mut room);
        });
        assert!(fibers[0].has_ended());
    })
    .well();
}

#[test]
fn a_guest_may_trap_while_a_fiber_that_it_started_is_inside() {
    #[repr(C)]
    struct Starting {
        function: Guest,
        fiber: *const Fiber,
        code: &'static Loaded,
    }
    unsafe extern "C" fn start_a_fiber(arg: *mut c_void) {
        // SAFETY: the test's own structure.
        let this = unsafe { &*arg.cast::<Starting>() };
        let code = this.code;
        // SAFETY: as above.
        unsafe { &*this.fiber }.start(move |fiber| {
            let mut host = Pausing { function: pause, fiber };
            assert_eq!(run(code, (&raw mut host).cast()).unwrap_err().code, TrapCode::Unreachable);
        });
    }
    in_child("", || {
        install_all();
        let code = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::Unreachable)]);
        let fiber = Fiber::new(STACK);
        let mut host = Starting { function: start_a_fiber, fiber: &fiber, code };
        assert_eq!(run(code, (&raw mut host).cast()).unwrap_err().code, TrapCode::Unreachable);
        assert!(!fiber.has_ended());
        fiber.resume();
        assert!(fiber.has_ended());
    })
    .well();
}

#[test]
fn a_stack_that_was_given_up_inside_a_call_can_be_used_again() {
    in_child("", || {
        install_all();
        let outer = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::BadSignature)]);
        let code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
        let fiber = Fiber::new(STACK);
        for round in 0..20 {
            fiber.start(move |fiber| {
                // Once deeper than the one before, once less deep.
                let room = vec![0_u8; 1];
                fn at_depth(depth: usize, f: &mut dyn FnMut()) {
                    let room = std::hint::black_box([0x41_u8; 512]);
                    if depth == 0 {
                        f()
                    } else {
                        at_depth(depth - 1, f)
                    }
                    std::hint::black_box(&room);
                }
                at_depth((round * 7) % 5, &mut || {
                    let trap = run_on(fiber.stack(), code, ptr::null_mut()).unwrap_err();
                    assert_eq!(trap.code, TrapCode::Unreachable);
                    let mut host = Pausing { function: pause, fiber };
                    let _ = run_on(fiber.stack(), outer, (&raw mut host).cast());
                    unreachable!();
                });
                drop(room);
            });
            assert_eq!(run(code, ptr::null_mut()).unwrap_err().code, TrapCode::Unreachable);
        }
    })
    .well();
}

#[test]
fn a_jump_out_of_a_call_on_a_fiber_leaves_nothing_behind() {
    /// What the host functions are given, the inner one as well.
    #[repr(C)]
    struct Jumping {
        function: Guest,
        fiber: *const Fiber,
        code: &'static Loaded,
        way_out: Cell<usize>,
    }
    unsafe extern "C" fn take_the_way_out(arg: *mut c_void) {
        // SAFETY: the test's own structure; the frames that are skipped own nothing.
        unsafe { switch(&mut 0, (*arg.cast::<Jumping>()).way_out.get()) };
    }
    unsafe extern "C" fn enter(arg: *mut c_void) {
        // SAFETY: the test's own structure.
        let this = unsafe { &*arg.cast::<Jumping>() };
        // SAFETY: as above.
        let stack = unsafe { (*this.fiber).stack() };
        let _ = run_on(stack, this.code, arg);
        unreachable!();
    }
    unsafe extern "C" fn jump_over_a_call(arg: *mut c_void) {
        // SAFETY: the test's own structure; what is skipped owns nothing.
        unsafe {
            let Jumping { fiber, code, .. } = *arg.cast::<Jumping>();
            let inner = Jumping { function: take_the_way_out, fiber, code, way_out: Cell::new(0) };
            with_way_out(inner.way_out.as_ptr(), enter, (&raw const inner).cast_mut().cast());
        }
    }
    in_child("", || {
        install_all();
        let code = leaked(CALL_HOST, &[(CALL_HOST_INVALID, TrapCode::BadSignature)]);
        let fiber = Fiber::new(STACK);
        fiber.start(move |fiber| {
            for _ in 0..3 {
                let mut host = Jumping { function: jump_over_a_call, fiber, code, way_out: Cell::new(0) };
                let trap = run_on(fiber.stack(), code, (&raw mut host).cast()).unwrap_err();
                assert_eq!(trap.code, TrapCode::BadSignature);
            }
        });
        assert!(fiber.has_ended());
        // No other call is known of.
        let code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
        let mut backtrace = Backtrace::<8>::new();
        let entry = Entry::new().backtrace(&mut backtrace);
        // SAFETY: the guest skips only its own frame.
        unsafe { catch_trap_with(code.guest(), ptr::null_mut(), entry) }.unwrap_err();
        assert_eq!((backtrace.len(), backtrace.end()), (1, BacktraceEnd::Complete));
    })
    .well();
}

#[test]
fn a_backtrace_on_a_fiber_is_complete() {
    for variant in ["given", "unknown"] {
        in_child(variant, || {
            install_all();
            let code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
            let fiber = Fiber::new(STACK);
            fiber.start(move |fiber| {
                let mut backtrace = Backtrace::<8>::new();
                let mut entry = Entry::new().backtrace(&mut backtrace);
                if variant == "given" {
                    let (stack, guard) = fiber.stack();
                    entry = entry.stack(stack, guard);
                }
                // SAFETY: the guest skips only its own frame.
                unsafe { catch_trap_with(code.guest(), ptr::null_mut(), entry) }.unwrap_err();
                assert_eq!((backtrace.len(), backtrace.end()), (1, BacktraceEnd::Complete));
            });
            assert!(fiber.has_ended());
        })
        .well();
    }
}

/// Nobody knows what the outer call's frames are from here on.
#[test]
fn a_backtrace_does_not_go_on_from_one_stack_to_another() {
    unsafe extern "C" fn on_a_fiber(arg: *mut c_void) {
        // SAFETY: the test's own.
        let code = unsafe { *arg.cast::<&'static Loaded>() };
        let fiber = Fiber::new(STACK);
        fiber.start(move |fiber| {
            let mut backtrace = Backtrace::<8>::new();
            let (stack, guard) = fiber.stack();
            let entry = Entry::new().backtrace(&mut backtrace).stack(stack, guard);
            // SAFETY: the guest skips only its own frame.
            unsafe { catch_trap_with(code.guest(), ptr::null_mut(), entry) }.unwrap_err();
            assert_eq!((backtrace.len(), backtrace.end()), (1, BacktraceEnd::HostFrame));
        });
        assert!(fiber.has_ended());
    }
    in_child("", || {
        install_all();
        let mut code = leaked(INVALID, &[(0, TrapCode::Unreachable)]);
        // SAFETY: nothing is skipped.
        unsafe { catch_trap(on_a_fiber, (&raw mut code).cast()) }.unwrap();
    })
    .well();
}
