#![doc = include_str!("../README.md")]
//!
//! # The map
//!
//! | room | what is in it |
//! |---|---|
//! | `handler` | everything a lookup executes inside a signal handler, and the rules for it |
//! | `registry` | [`CodeRegistry`]: publication, reclamation, guards, snapshots |
//! | `backtrace` | [`Backtrace`]: guest frames, by frame pointers |
//! | `code` | [`CodeMemory`]: images, mappings, trap and function tables, and the process-wide registry of them |
//! | `signal` | [`signal`]: traps caught as values, and backtraces of them |
//! | `store` | [`ModuleRegistry`]: engines, modules, components, and what one store executes |
//! | `sync` | the atomics, the lock and the epoch, shipped or modelled |

// RealtimeSanitizer watches what handlers call: `verification/realtime/run`.
#![cfg_attr(trapline_rtsan, feature(sanitize))]

mod backtrace;
mod code;
mod handler;
mod registry;
#[cfg(feature = "signal")]
pub mod signal;
mod store;
mod sync;

pub use backtrace::Backtrace;
pub use code::{
    AddressMap, CodeMemory, CodeMemoryStats, CodeRegistration, CompiledFunctionsTable, DefinedFunctionIndex, Function,
    FunctionKey, ImageBuilder, ImageError, ModuleDescription, ModuleInfo, ModuleTable, Patch, PatchTable,
    RegisteredCode, SignatureIndex, SignatureTable, StaticModuleIndex, Target, TrapCode, TrapTable, Unpublished,
    UserTrap, code_memory_stats, code_snapshot, code_stats, code_view, find_code, is_trap_pc, lookup_code,
    lookup_trap_code, reclaim_code, register_code,
};
pub use handler::walk::{BacktraceEnd, Frame, PcKind};
pub use registry::{
    CodeId, CodeRegistry, Found, Guard, Holder, RegisterError, Registration, Snapshot, SnapshotError, Stats,
    UnregisterError, Unregistered, View,
};
#[cfg(feature = "components")]
pub use store::Component;
#[cfg(feature = "breakpoints")]
pub use store::{Breakpoint, BreakpointError};
pub use store::{
    CompiledModuleId, Engine, EngineCode, EngineCodePc, EngineId, FrameInfo, LoadError, Module, ModuleRegistry,
    ModuleWithCode, PatchError, RegisteredModuleId, SignatureId, StoreCode, StoreCodeMut, StoreCodePc, StoreError,
};
