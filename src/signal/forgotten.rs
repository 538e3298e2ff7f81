//! In debug builds: a hint to programs that forgot [`install`](super::install).
//!
//! Without a handler the first trap kills the process, and none of our code runs to say why. So when registered code
//! that has trap sites is entered, we look whether a handler can be there to catch them. Programs that only
//! [`raise`](super::raise) need no handler, and nor does code without trap sites.

use super::install::query;
use super::old_actions::{self, Action, Chain};
use crate::process;
use crate::sync::Ordering;
use crate::sync::unmodelled::AtomicBool;

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
             kills the process. Call trapline::signal::install, or handle_signal from your own handlers. (If they do \
             call it, for SIGSEGV and SIGBUS only, all is well. Only debug builds look.)"
        );
    }
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
