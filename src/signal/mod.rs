//! Catching hardware traps of registered machine code (Linux on x86-64 and AArch64).
//!
//! Generated code lets the processor do its checks: a load outside the memory faults on a guard page, unreachable code
//! is `ud2` or `udf`, and on x86-64 a division by zero raises `#DE`. This module turns the signals these become into an
//! `Err` of the call that entered the code.
//!
//! ```
//! use std::{ffi::c_void, ptr, sync::Arc};
//! use trapline::signal::{Signals, catch_trap, install};
//! use trapline::{TrapCode, process};
//! use trapline::image::{Image, ImageBuilder};
//!
//! let mut image = ImageBuilder::new();
//! let udf_or_ud2: &[u8] = if cfg!(target_arch = "aarch64") { &[0, 0, 0, 0] } else { &[0x0f, 0x0b] };
//! image.text(udf_or_ud2);
//! image.trap(0, TrapCode::Unreachable);
//! let image = Arc::new(Image::parse(&image.finish()?)?.publish()?);
//! let _registration = process::register(image.clone())?;
//!
//! // SAFETY: the text is a function of the C calling convention that leaves nothing to clean up.
//! let function: unsafe extern "C" fn(*mut c_void) = unsafe { image.entry(0) }.unwrap();
//! // SAFETY: nothing else in this program relies on these signals.
//! unsafe { install(Signals::all())? };
//! // SAFETY: the function skips no frame but its own.
//! let trap = unsafe { catch_trap(function, ptr::null_mut()) }.unwrap_err();
//! assert_eq!(trap.code, TrapCode::Unreachable);
//! assert_eq!(trap.site.unwrap().text_offset, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Read this before using it
//!
//! - **Frames between the trap and [`catch_trap`] vanish without running destructors.** Only frames of generated code
//!   may be skipped. [`raise`] skips the host function it is called from as well: that function must
//!   have dropped everything it owns.
//! - The function passed to `catch_trap` must not unwind out of it; the C library may, to end the thread.
//! - Guest code runs on the stack that its `catch_trap` was called on. If that is a fiber's, or one that was made for the
//!   thread, say where it is with [`Entry::stack`]: otherwise its overflow is not caught, and fibers that switch inside of
//!   calls are told apart only as far as that is possible. A trap that may be another fiber's is passed on, and calls that return
//!   out of order abort the process.
//! - A thread gets an alternate signal stack at its first entry ([`prepare_thread`]): a stack overflow leaves no room
//!   for a handler. One that it already has is kept if it is large enough. The signals must not be blocked.
//! - After a trap the signal mask and the alternate stack are what they were *at the trap*: what a host function changed
//!   before stays changed.
//! - Unregistering code hides it from lookups: its traps are no longer caught. It stops no thread that executes it.
//! - Control-flow enforcement with shadow stacks (Intel CET, Arm GCS, Clang's; off unless the whole program opts in) is
//!   not supported: the skipped frames' return addresses would stay on the shadow stack. Branch target identification
//!   and signed return addresses on AArch64 are no obstacle.
//! - A trap site says why its instruction traps, with one [`TrapCode`](crate::TrapCode). On
//!   x86-64 `idiv` raises one and the same signal for `7 / 0` and for `i32::MIN / -1`: compile a check of one of them
//!   before it, with a trap site of its own (`cmp` with -1, or `test`, and a branch to a `ud2`). AArch64 has no trap for
//!   either. [`Trap::signal`] tells a page of a truncated file from memory out of bounds.
//! - On x86-64, a signal whose handler has no `SA_ONSTACK` must not interrupt guest code with little stack left. Where
//!   its frame has no room, the kernel raises a `SIGSEGV` in its place. Our handler leaves that to the previous one, except
//!   at a trap site of a thread whose last fault was an access to an address that is not canonical: there the kernel
//!   describes both alike, and our handler takes it for the trap.
//! - On AArch64, guest code does not trap in SME's streaming mode; and `brk` becomes a `SIGTRAP`, which is left to
//!   debuggers: `udf` is the instruction that traps.
//!
//! # If a trap kills the process
//!
//! It was passed on, because it does not look like a trap of registered code that `catch_trap` entered. Debug builds print
//! what was wrong, once. What it can be:
//!
//! - The trap site is not at the *first byte of the instruction*, counted from the start of the text; or there is none.
//! - The image is not registered, or its registration was dropped (`let _ = ...` drops it at once).
//! - The signal is not among those given to [`install`]: a division raises `SIGFPE`, `ud2` and `udf` raise `SIGILL`.
//! - The code was not called by `catch_trap`, or runs on a stack that its [`Entry`] does not know.
//! - The code is in a registry of your own: handlers of your own look there, and decide what becomes of the thread.
//!
//! # How a trap is caught
//!
//! `catch_trap` puts an *activation* on its stack, links it to the thread's previous one (guest calls host calls
//! guest) and calls an assembly entry that saves what the calling convention promises to preserve, and its stack
//! pointer in the activation. (`innermost.rs` says when an activation is believed.) The handler decides in this order:
//!
//! 1. A signal that was *sent* (`si_code <= 0`), or that the kernel made up, is no trap.
//! 2. **Registry first.** The interrupted pc is looked up: no lock, no allocation, no thread-local state. If it is not
//!    registered, the signal belongs to the previous handler. A thread that never ran guest code ends here, wherever
//!    it was interrupted: inside `malloc`, say, or half created.
//! 3. **Thread-local last.** The pc is a trap site, or the signal a `SIGSEGV` at registered code: the thread is
//!    executing guest code, so touching its activation interrupts nothing. No activation on the interrupted stack: the
//!    previous handler.
//! 4. A fault that is not at a trap site is still ours if it overflowed the activation's stack. Everything else at
//!    registered code is a bug in that code: the previous handler.
//!
//! For a trap the handler writes what it knows to the activation, points the interrupted context at the landing beside
//! the entry, and *returns*. The kernel then leaves the alternate stack and restores the signal mask, as after any
//! handler: nothing has to be undone, and no `longjmp` is involved. The landing restores the saved registers and
//! returns from the entry once more, with a different result.
//!
//! # Backtraces
//!
//! [`catch_trap_with`] takes a [`Backtrace`](crate::Backtrace), which the handler fills with the guest frames of a trap
//! before it redirects the context; [`sample`] does the same for a profiler. Both follow frame pointers, which the
//! code must keep, and read nothing but the stack between the interrupted stack pointer and the entry of the
//! activation. Host frames are not walked: guest code that calls out notes where in an [`Exit`], and the backtrace
//! goes on there with the activation around.
//!
//! - It does not go on from one stack to another. On stacks of unknown bounds, nested calls must be on one.
//! - Host code that calls guest code back enters it through `catch_trap`: frames are missing otherwise.
//!
//! # Rules for handler code (`handle.rs`, `innermost.rs`, `trace.rs`, `chain.rs`, `old_actions.rs`, `arch/`,
//! `put_in_front`)
//!
//! 1. No allocation, no lock, no lazily initialised state, nothing that can panic: no indexing, no overflowing
//!    arithmetic, no `unwrap`.
//! 2. No thread-local before the registry said yes. (`errno`, which the C library keeps in memory allocated with the
//!    thread, is touched when a signal is passed on.)
//! 3. System calls only to pass a signal on. (A debug build writes one line, once, before it does that; see `hints.rs`.)
//! 4. Nothing holds the registry's gate when the handler returns: answers are copied out of the closure.
//! 5. `handle_signal` first turns alignment checks off (`EFLAGS.AC` of x86-64), which the interrupted code may have
//!    turned on; the kernel restores its flags. Lookups, which any handler may call, make no unaligned access.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), target_pointer_width = "64",))]

mod activation;
mod alt_stack;
mod arch;
mod chain;
mod exit;
mod handle;
#[cfg(debug_assertions)]
mod hints;
mod innermost;
mod install;
mod library;
mod old_actions;
mod stack_guard;
mod trace;
mod trap;

pub use activation::{Entry, catch_trap, catch_trap_with, raise};
pub use alt_stack::prepare_thread;
pub use exit::Exit;
pub use handle::handle_signal;
pub use install::{Signals, install, installed};
pub use trace::sample;
pub use trap::{Trap, TrapSignal, TrapSite};
