//! In debug builds: hints to programs whose traps kill them.
//!
//! Without a handler the first trap kills the process, and none of our code runs to say why. So when registered code
//! that has trap sites is entered, we look whether a handler can be there to catch them. Programs that only
//! [`raise`](super::raise) need no handler, and nor does code without trap sites.
//!
//! With a handler, a fault of registered code that is no trap is passed on, and most often kills as well: the handler says
//! what was missing before it does that.

use super::install::query;
use super::old_actions::{self, Action, Chain};
#[cfg(not(trapline_rtsan))]
use super::trap::TrapSite;
use crate::process;
use crate::sync::Ordering;
use crate::sync::unmodelled::AtomicBool;
#[cfg(not(trapline_rtsan))]
use std::ffi::c_int;

/// Prints a hint, once, if no handler for the signals seems to be installed.
pub(super) fn look_for_handlers(f: usize) {
    static LOOKED: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is published with it.
    if LOOKED.load(Ordering::Relaxed)
        || process::with(f, |found| found.payload().image().traps().is_empty()) != Some(false)
    {
        return;
    }
    if !LOOKED.swap(true, Ordering::Relaxed) && !signals_are_handled() {
        eprintln!(
            "trapline: guest code with trap sites is entered, and nothing is installed to catch traps: the first one \
             kills the process. Call trapline::signal::install, or handle_signal from your own handlers. (Ignore this \
             if your handlers call it for the signals that your code raises. Debug builds only.)"
        );
    }
}

/// Prints, once, why a fault of registered code at `site` is passed on. In a handler: no lock, no allocation, no formatting.
#[cfg(not(trapline_rtsan))]
pub(super) fn say_why_passed_on(signum: c_int, site: &TrapSite, why: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is published with it.
    if SAID.swap(true, Ordering::Relaxed) {
        return;
    }
    let name = match signum {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        _ => "SIGFPE",
    };
    let mut digits = [0; 16];
    let offset = hexadecimal(site.text_offset, &mut digits);
    let parts = [
        "trapline: ",
        name,
        " of registered code at text offset 0x",
        offset,
        " is passed on: the code there ",
        why,
        ". See \"If a trap kills the process\" in the documentation of trapline::signal. (Debug builds only.)\n",
    ];
    let (mut line, mut len) = ([0; 320], 0_usize);
    for (to, from) in line.iter_mut().zip(parts.iter().flat_map(|part| part.bytes())) {
        *to = from;
        len = len.wrapping_add(1);
    }
    // SAFETY: this thread's errno, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: bytes of the line. If standard error cannot be written to, nothing is said.
    _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len) };
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

/// The digits of `number` in base 16, at the end of `digits`.
#[cfg(not(trapline_rtsan))]
fn hexadecimal(mut number: usize, digits: &mut [u8; 16]) -> &str {
    let mut unused = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = *b"0123456789abcdef".get(number & 15).unwrap_or(&b'?');
        number >>= 4;
        unused = unused.saturating_sub(1);
        if number == 0 {
            break;
        }
    }
    digits.get(unused..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or("?")
}

fn signals_are_handled() -> bool {
    let four = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    if four.iter().filter_map(|signum| old_actions::slot(*signum)).any(|slot| slot.load().chain() != Chain::EMPTY) {
        return true;
    }
    let [segv, bus, ill, fpe] = four.map(|signum| query(signum).ok());
    let is_handler = |action: Option<Action>| action.is_some_and(|action| action.is_handler());
    // Rust's standard library has one handler, for overflows, on the first two.
    let may_be_rusts = segv == bus && segv.is_some_and(|action| action.flags & libc::SA_ONSTACK != 0);
    is_handler(ill) || is_handler(fpe) || ((is_handler(segv) || is_handler(bus)) && !may_be_rusts)
}
