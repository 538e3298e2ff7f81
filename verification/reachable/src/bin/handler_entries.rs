//! Entry points of handlers, by name: those that must reach nothing forbidden, and those that do on purpose.
//!
//! `reachable` reads this program's machine code; running it only shows that the entries do something.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::sync::Mutex;
use trapline::image::{Image, TrapTable};
use trapline::process::RegisteredText;
use trapline::{Backtrace, CodeRegistry, Guard, Registers, process};

static REGISTRY: CodeRegistry<[usize; 4]> = CodeRegistry::new();

/// All the lookups that a handler may make.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_lookup(pc: usize) -> usize {
    let own = REGISTRY.with(pc, |found| found.payload()[1].wrapping_add(found.offset())).unwrap_or(0);
    let id = REGISTRY.with(pc, |found| found.id().as_u64() as usize).unwrap_or(0);
    let code = process::trap_code(pc).map_or(0, |code| usize::from(code.to_u8()));
    let place = process::with(pc, |found| found.range().start ^ found.offset()).unwrap_or(0);
    own ^ id ^ code ^ place ^ usize::from(process::trap_code(pc).is_some())
}

/// Many lookups at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_view(pc: usize) -> usize {
    let own = REGISTRY.view(|view| {
        let offset = |pc| view.get(pc).map_or(0, |found| found.offset());
        offset(pc) ^ offset(pc ^ 64)
    });
    let code = trapline::process::view(|view| view.get(pc).map_or(0, |found| found.range().start));
    own ^ code
}

/// What a handler asks of a text that it found.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_text(pc: usize) -> usize {
    let code = process::with(pc, |found| {
        let (text, offset) = (found.payload(), found.offset());
        let image = RegisteredText::image(text);
        let codes = [
            RegisteredText::trap_code(text, offset),
            Image::trap_code(image, offset),
            TrapTable::get(image.traps(), offset),
        ];
        codes.map(|code| code.map_or(0, |code| usize::from(code.to_u8()))).iter().sum::<usize>()
            ^ usize::from(text.is_private())
    });
    code.unwrap_or(0)
}

/// A lookup under a guard that the interrupted code made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_guard(guard: &Guard<'_, [usize; 4]>, pc: usize) -> usize {
    guard.get(pc).map_or(0, |found| found.offset())
}

/// Counts for a handler that reports.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_stats(_: usize) -> usize {
    let (own, code, mapped) = (REGISTRY.stats(), process::stats(), process::mapping_stats());
    own.live_ranges ^ code.live_ranges ^ mapped.refused_bytes
}

/// Which signals are ours, which takes a system call for each.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_installed(_: usize) -> usize {
    usize::from(trapline::signal::installed() == trapline::signal::Signals::all())
}

/// A backtrace by an embedder who enters guest code in its own way.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn entry_walk(backtrace: &mut Backtrace, frame: &Registers, entry: usize) {
    // SAFETY: the stack can be read, says our caller.
    unsafe { backtrace.walk(*frame, entry) };
    let (mut own, full) = (Backtrace::<8>::new(), backtrace.len() == 8);
    // SAFETY: the stack can be read, says our caller.
    REGISTRY.view(|view| unsafe { own.walk_in(view, *frame, entry) });
    if full || own.is_empty() || own.end() == backtrace.end() || own.pcs().eq(backtrace.pcs()) {
        backtrace.clear();
    }
}

/// What a profiler's handler calls.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn entry_sample(context: *const c_void, backtrace: &mut Backtrace) {
    // SAFETY: the context is the kernel's, says our caller.
    unsafe { trapline::signal::sample(context, backtrace) }
}

/// What an embedder's own handler calls.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn entry_signal(signum: c_int, info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the arguments are the kernel's, says our caller.
    unsafe { trapline::signal::handle_signal(signum, info.cast(), context) }
}

/// Wrong on purpose: an index that the compiler cannot prove.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_indexing(pc: usize) -> usize {
    REGISTRY.with(pc, |found| found.payload()[found.offset()]).unwrap_or(0)
}

/// Wrong on purpose: an allocation.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_allocation(pc: usize) -> usize {
    REGISTRY.with(pc, |found| *black_box(Box::new(found.offset()))).unwrap_or(0)
}

/// Wrong on purpose: a lock.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_lock(pc: usize) -> usize {
    static LOCKED: Mutex<usize> = Mutex::new(0);
    let Ok(mut last) = LOCKED.lock() else {
        return 0;
    };
    *last = REGISTRY.with(pc, |found| found.offset()).unwrap_or(*last);
    *last
}

/// Wrong on purpose: a thread-local with a destructor.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_thread_local(pc: usize) -> usize {
    thread_local!(static LAST: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) });
    LAST.try_with(|last| last.try_borrow().map_or(0, |last| last.len())).unwrap_or(0) ^ entry_lookup(pc)
}

/// Wrong on purpose, and harmless: a function that nobody can name beforehand.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_indirect_call(pc: usize, answer: extern "C" fn(usize) -> usize) -> usize {
    answer(entry_lookup(pc))
}

/// Wrong on purpose: what a thread-local is made of, without its destructor, where none is allowed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn control_plain_thread_local(pc: usize) -> usize {
    thread_local!(static LAST: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    LAST.replace(pc)
}

fn main() {
    // SAFETY: nothing else handles signals here. Makes the library's own handler part of this program.
    unsafe { trapline::signal::install(trapline::signal::Signals::all()) }.expect("the signals are there");
    black_box([entry_signal as *const (), entry_walk as *const (), entry_sample as *const ()]);
    let here = black_box(main as *const () as usize);
    let entries = [
        entry_lookup,
        entry_view,
        entry_text,
        entry_stats,
        entry_installed,
        control_indexing,
        control_allocation,
        control_lock,
        control_thread_local,
        control_plain_thread_local,
    ];
    let sum = entries.iter().fold(0, |sum: usize, entry| sum.wrapping_add(black_box(entry)(here)));
    let sum = sum ^ entry_guard(&REGISTRY.pin(), here);
    println!("{sum:#x} {:#x}", control_indirect_call(here, entry_lookup));
}
