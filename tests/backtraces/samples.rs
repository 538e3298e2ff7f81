//! A profiler's samples, at any instruction.

use crate::common::in_child;
use crate::guest::{CALL_HOST, Context, Guest, MAIN, RETURN};
use crate::{assert_kinds, pcs};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{mem, ptr, thread};
use trapline::signal::{Entry, Exit, catch_trap_with, sample};
use trapline::{Backtrace, BacktraceEnd, PcKind};

const SAMPLES: usize = 2_000;

/// What the handler collected. One thread is sampled, one signal after the other.
struct Collected {
    backtraces: [UnsafeCell<Backtrace<64>>; SAMPLES],
    pcs: [AtomicUsize; SAMPLES],
    len: AtomicUsize,
    done: AtomicUsize,
}

// SAFETY: a slot is written by the one handler that took its number, and read after all of them.
unsafe impl Sync for Collected {}

static COLLECTED: Collected = Collected {
    backtraces: [const { UnsafeCell::new(Backtrace::new()) }; SAMPLES],
    pcs: [const { AtomicUsize::new(0) }; SAMPLES],
    len: AtomicUsize::new(0),
    done: AtomicUsize::new(0),
};

extern "C" fn on_sample(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let index = COLLECTED.len.fetch_add(1, Ordering::SeqCst);
    if index < SAMPLES {
        // SAFETY: the kernel's context, and a slot of this handler alone.
        unsafe {
            let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            COLLECTED.pcs[index].store(registers[libc::REG_RIP as usize] as usize, Ordering::SeqCst);
            sample(context, &mut *COLLECTED.backtraces[index].get());
        }
    }
    COLLECTED.done.fetch_add(1, Ordering::SeqCst);
}

/// Host work: a sample here has no frames. Then the guest again, up to three levels.
unsafe extern "C" fn enter_again(context: *mut c_void) {
    // SAFETY: the test's own context, whose data is a guest.
    unsafe {
        let context = &*context.cast::<Context>();
        let guest = &*context.data.cast::<Guest>();
        let depth = context.depth - 1;
        let bottom = if depth % 4 == 0 { RETURN } else { CALL_HOST };
        enter(guest, depth, bottom, &*context.exit);
    }
}

fn enter(guest: &Guest, depth: u64, bottom: u64, exit: &Exit) {
    let data = (&raw const *guest).cast_mut().cast();
    let mut context = Context { host: enter_again, data, ..Context::new(depth, bottom, exit) };
    // SAFETY: nothing traps; the guest changes no stacks.
    unsafe { catch_trap_with(guest.main(), context.as_argument(), Entry::new().exit(exit)) }.unwrap();
}

fn is_return_address(guest: &Guest, pc: usize) -> bool {
    guest.functions.iter().any(|function| pc == function.after_call || pc == function.after_trampoline)
}

/// The functions that may call `callee`; `None` stands for the host.
fn may_call(guest: &Guest, callee: usize) -> Vec<(Option<usize>, usize)> {
    let after = |function: usize| (Some(function), guest.functions[function].after_call);
    match callee {
        MAIN => vec![(None, 0)],
        1 => vec![after(MAIN), after(3)],
        2 | 3 => vec![after(callee - 1)],
        _ => (1..4).map(|function| (Some(function), guest.functions[function].after_trampoline)).collect(),
    }
}

/// Whether the function has its frame at `pc`: not before `push rbp; mov rbp, rsp`, nor at `ret`.
fn has_frame(guest: &Guest, function: usize, pc: usize) -> bool {
    let range = guest.functions[function].range.clone();
    // SAFETY: mapped text of the guest.
    let instruction = unsafe { ptr::with_exposed_provenance::<u8>(pc).read() };
    pc - range.start >= 4 && instruction != 0xc3
}

/// Whether each frame was called by the next one; where `main` was, by a host function that the guest had called.
fn check(guest: &Guest, backtrace: &Backtrace<64>) {
    let frames = pcs(backtrace);
    let Some(mut callee) = guest.function_of(frames[0]) else { panic!("not in a function: {backtrace:?}") };
    let mut hidden = !has_frame(guest, callee, frames[0]);
    for &pc in &frames[1..] {
        assert!(is_return_address(guest, pc), "{backtrace:?}");
        let caller = guest.function_of(pc - 1).unwrap();
        let from_host = pc == guest.functions[caller].after_trampoline && pc != guest.functions[caller].after_call;
        let calls = |callee: usize| {
            may_call(guest, callee).into_iter().any(|(function, after)| match function {
                Some(function) => (function, after) == (caller, pc),
                None => from_host,
            })
        };
        let skipped = || may_call(guest, callee).into_iter().filter_map(|by| by.0).any(calls);
        // Guest to host to guest: the trampoline that noted the exit is not a frame itself.
        assert!(calls(callee) || (mem::take(&mut hidden) && skipped()), "{pc:#x} in {frames:x?}: {backtrace:?}");
        hidden = false;
        callee = caller;
    }
    match backtrace.end() {
        BacktraceEnd::Complete => assert!(callee == MAIN || (hidden && callee == 1), "{backtrace:?}"),
        BacktraceEnd::Full => assert_eq!(frames.len(), 64),
        other => panic!("{other:?}: {backtrace:?}"),
    }
}

fn install() {
    // SAFETY: a zeroed action is a valid one; the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_sample as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()), 0);
    }
}

#[test]
fn samples_at_random_instructions_have_right_frames() {
    in_child("", || {
        install();
        let guest = Guest::load(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (guest, over) = (&guest, &over);
            let (ready, target) = std::sync::mpsc::channel();
            let sampled = scope.spawn(move || {
                // SAFETY: no preconditions.
                ready.send(unsafe { libc::pthread_self() } as usize).unwrap();
                let exit = Exit::new();
                let mut depth = 0;
                while !over.load(Ordering::SeqCst) {
                    depth = (depth + 1) % 24;
                    enter(guest, depth, if depth == 0 { RETURN } else { CALL_HOST }, &exit);
                }
            });
            let target = target.recv().unwrap();
            for sent in 0..SAMPLES {
                // It has to get on in between, a different way each time.
                (0..sent * 7 % 1_009).for_each(|_| std::hint::spin_loop());
                // SAFETY: the thread is not joined yet.
                assert_eq!(unsafe { libc::pthread_kill(target as libc::pthread_t, libc::SIGPROF) }, 0);
                while COLLECTED.done.load(Ordering::SeqCst) <= sent && !sampled.is_finished() {
                    thread::yield_now();
                }
            }
            over.store(true, Ordering::SeqCst);
            sampled.join().unwrap();
        });
        let (mut in_guest, mut in_host, mut hidden, mut nested) = (0, 0, 0, 0);
        let text = guest.image.text_range();
        for (backtrace, pc) in COLLECTED.backtraces.iter().zip(&COLLECTED.pcs) {
            // SAFETY: all handlers are done.
            let (backtrace, pc) = (unsafe { &*backtrace.get() }, pc.load(Ordering::SeqCst));
            if text.contains(&pc) {
                in_guest += 1;
                assert_eq!(backtrace.pcs().next(), Some((pc, PcKind::Interrupted)));
                assert_kinds(backtrace, PcKind::Interrupted);
                check(&guest, backtrace);
                let function = guest.function_of(pc).unwrap();
                hidden += usize::from(!has_frame(&guest, function, pc));
                let mains = pcs(backtrace).iter().filter(|pc| **pc == guest.functions[MAIN].after_call).count();
                nested += usize::from(mains > 1);
            } else {
                in_host += 1;
                assert_eq!((backtrace.len(), backtrace.end()), (0, BacktraceEnd::HostFrame));
            }
        }
        eprintln!("{in_guest} samples in the guest ({hidden} without a frame, {nested} nested), {in_host} in the host");
        assert!(in_guest > 30 && in_host > 30 && hidden > 0 && nested > 10);
    })
    .well();
}
