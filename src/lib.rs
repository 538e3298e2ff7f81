#![doc = include_str!("../README.md")]
// RealtimeSanitizer watches what handlers call: `verification/realtime/run`.
#![cfg_attr(trapline_rtsan, feature(sanitize))]

mod allocate;
mod backtrace;
mod counted;
mod handler;
pub mod image;
mod memory;
pub mod process;
mod registry;
#[cfg(feature = "signal")]
pub mod signal;
pub mod store;
mod sync;

pub use backtrace::Backtrace;
pub use handler::trap_code::{TrapCode, UserTrap};
pub use handler::walk::{BacktraceEnd, PcKind, Registers};
pub use registry::{
    CodeId, CodeRegistry, Found, Guard, Holder, RegisterError, Registration, Snapshot, SnapshotError, Stats,
    UnregisterError, Unregistered, View,
};
