//! What trapline does inside a handler, timed there: one real trap, handled many times over.

use super::bare::{Installed, pc};
use super::guests::Trapping;
use core::ffi::{c_int, c_void};
use core::hint::black_box;
use std::cell::Cell;
use std::time::Instant;
use trapline::process;
use trapline::signal::{catch_trap, handle_signal};

/// How often.
const TIMES: usize = 1_000;
/// Of which the fastest round counts: nothing that interrupts a round is trapline's.
const ROUNDS: usize = 5;

thread_local! {
    static HANDLING: Cell<f64> = const { Cell::new(0.0) };
    static LOOKUP: Cell<f64> = const { Cell::new(0.0) };
}

/// Nanoseconds that [`handle_signal`] takes, and those that a lookup of the trap code takes, in a handler, with all
/// they touch in the caches. The first counts what it takes to put the context back for the next time.
pub fn measure(trapping: &Trapping) -> (f64, f64) {
    // SAFETY: nobody traps but this thread, inside `catch_trap`.
    let installed = unsafe { Installed::new(many_times) };
    // SAFETY: the guests own nothing.
    let trap = unsafe { catch_trap(trapping.code.guest(), trapping.arg) };
    drop(installed);
    assert_eq!(trap.map_err(|trap| trap.code), Err(trapping.trap));
    (HANDLING.get(), LOOKUP.get())
}

unsafe extern "C" fn many_times(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's context; nobody else touches it.
    let registers = unsafe { &raw mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: as above.
    let interrupted = unsafe { registers.read() };
    // SAFETY: as above.
    let pc = unsafe { pc(context) };
    let mut handled = true;
    HANDLING.set(fastest(|| {
        // SAFETY: the kernel's arguments, and a context that says again what it said: none of the answers but the last
        // goes back to the kernel.
        unsafe {
            registers.write(interrupted);
            handled &= handle_signal(signum, info.cast(), context);
        }
    }));
    LOOKUP.set(fastest(|| handled &= process::trap_code(black_box(pc)).is_some()));
    // SAFETY: as above.
    unsafe {
        registers.write(interrupted);
        handled &= handle_signal(signum, info.cast(), context);
    }
    if !handled {
        // SAFETY: ends the process; there is nowhere to go on.
        unsafe { libc::abort() }
    }
}

fn fastest(mut f: impl FnMut()) -> f64 {
    let mut fastest = f64::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..TIMES {
            f();
        }
        fastest = fastest.min(begin.elapsed().as_nanos() as f64 / TIMES as f64);
    }
    fastest
}
