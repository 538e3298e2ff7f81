//! Look up machine code by program counter from inside a signal handler: no lock, no allocation, no thread-local, no
//! waiting; on any thread, at any instruction.
//!
//! ```
//! use std::sync::Arc;
//! use trapline::CodeRegistry;
//!
//! static CODE: CodeRegistry<&str> = CodeRegistry::new();
//!
//! let registration = CODE.register(0x1000..0x1400, Arc::new("fib"))?;
//! // In a signal handler, with the interrupted pc:
//! let hit = CODE.with(0x1234, |found| (*found.payload(), found.offset()));
//! assert_eq!(hit, Some(("fib", 0x234)));
//! drop(registration);
//! assert_eq!(CODE.with(0x1234, |found| found.offset()), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | you want to | start at |
//! |---|---|
//! | find code of your own from your own handlers | [`CodeRegistry`] |
//! | load code with its tables, and find it from anywhere in the process | [`image`], [`process`] |
//! | turn hardware traps into an `Err` of the call | [`signal`] |
//! | know who called the code that trapped or was sampled | [`Backtrace`] |
//! | run modules in many stores, with frames, trampolines and breakpoints | [`store`] |
//! | learn what a handler may do, and what this crate promises | [`guide`] |
//!
//! Features, platforms, trade-offs and measurements are in the README; what each promise rests on is in
//! `docs/verification.md`.

// RealtimeSanitizer watches what handlers call: `verification/realtime/run`.
#![cfg_attr(trapline_rtsan, feature(sanitize))]
#![cfg_attr(not(any(feature = "std", test)), no_std)]
// Where features are off, links to what they bring lead nowhere.
#![cfg_attr(
    not(all(target_os = "linux", feature = "snapshot", feature = "guard", feature = "signal", feature = "store")),
    allow(rustdoc::broken_intra_doc_links)
)]
// What CONTRIBUTING asks of public functions.
#![warn(
    clippy::missing_errors_doc,
    clippy::missing_safety_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use
)]

extern crate alloc;

#[cfg(not(target_has_atomic = "64"))]
compile_error!("trapline counts its publications in 64-bit atomics, and this target has none");

#[cfg(feature = "image")]
mod allocate;
mod backtrace;
#[cfg(all(doc, target_os = "linux", feature = "snapshot", feature = "guard", feature = "signal", feature = "store"))]
pub mod guide;
mod handler;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "image")]
mod memory;
#[cfg(feature = "image")]
pub mod process;
mod registry;
#[cfg(feature = "signal")]
pub mod signal;
#[cfg(feature = "store")]
pub mod store;
mod sync;
#[cfg(feature = "image")]
mod words;

pub use backtrace::{Backtrace, Pcs};
pub use handler::trap_code::{TrapCode, UnknownTrapCode, UserTrap};
pub use handler::walk::{BacktraceEnd, PcKind, Registers};
#[cfg(feature = "guard")]
pub use registry::Guard;
pub use registry::{
    CodeId, CodeRegistry, Found, Holder, RegisterError, Registration, Stats, UnregisterError, Unregistered, View,
};
#[cfg(feature = "snapshot")]
pub use registry::{Snapshot, SnapshotIter};

/// The README's examples, compiled and run.
#[cfg(all(
    doctest,
    target_os = "linux",
    feature = "snapshot",
    feature = "guard",
    feature = "signal",
    feature = "store"
))]
#[doc = include_str!("../README.md")]
struct Readme;
