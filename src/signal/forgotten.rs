//! In debug builds: a word to whoever forgot [`install`](super::install).
//!
//! Without a handler the first trap kills the process, and none of our code runs to say why. So when registered code
//! that has trap sites is entered, we look whether anybody can be there to catch them. Programs that only
//! [`raise`](super::raise) need no handler, and nor does code without trap sites.

use super::install::query;
use super::old_actions::{self, Action, Chain};
use crate::process;
use crate::sync::Ordering;
use crate::sync::unmodelled::AtomicBool;

/// Says so, once, if nobody seems to handle signals.
pub(super) fn look_for_handlers(f: usize) {
    static LOOKED: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is published with it.
    if LOOKED.load(Ordering::Relaxed)
        || process::with(f, |found| found.payload().image().traps().is_empty()) != Some(false)
    {
        return;
    }
    if !LOOKED.swap(true, Ordering::Relaxed) && !somebody_handles_signals() {
        eprintln!(
            "trapline: guest code with trap sites is entered, and nothing is installed to catch traps: the first one \
             kills the process. Call trapline::signal::install, or handle_signal from your own handlers. (If they do \
             call it, for SIGSEGV and SIGBUS only, all is well. Only debug builds look.)"
        );
    }
}

fn somebody_handles_signals() -> bool {
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
