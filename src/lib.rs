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

// Code memory needs a registry that is a `static`, which loom's atomics cannot make.
#[cfg(not(loom))]
mod backtrace;
#[cfg(not(loom))]
mod code;
mod handler;
mod registry;
#[cfg(all(feature = "signal", not(loom)))]
pub mod signal;
#[cfg(not(loom))]
mod store;
mod sync;

#[cfg(not(loom))]
pub use backtrace::Backtrace;
#[cfg(not(loom))]
pub use code::{
    AddressMap, CodeMemory, CodeRegistration, CompiledFunctionsTable, DefinedFunctionIndex, Function, FunctionKey,
    ImageBuilder, ImageError, ModuleDescription, ModuleInfo, ModuleTable, Patch, PatchTable, RegisteredCode,
    SignatureIndex, SignatureTable, StaticModuleIndex, Target, TrapCode, TrapTable, Unpublished, UserTrap,
    code_snapshot, code_stats, code_view, find_code, is_trap_pc, lookup_code, lookup_trap_code, reclaim_code,
    register_code,
};
pub use handler::walk::{BacktraceEnd, Frame, PcKind};
pub use registry::{
    CodeId, CodeRegistry, Found, Guard, RegisterError, Registration, Snapshot, Stats, UnregisterError, View,
};
#[cfg(all(feature = "components", not(loom)))]
pub use store::Component;
#[cfg(all(feature = "breakpoints", not(loom)))]
pub use store::{Breakpoint, BreakpointError};
#[cfg(not(loom))]
pub use store::{
    CompiledModuleId, Engine, EngineCode, EngineCodePc, EngineId, FrameInfo, LoadError, Module, ModuleRegistry,
    ModuleWithCode, PatchError, RegisteredModuleId, SignatureId, StoreCode, StoreCodeMut, StoreCodePc, StoreError,
};

/// What a model has to tell the crate.
#[cfg(loom)]
pub mod model {
    pub use crate::sync::model::{begin, collect_every, use_stripe};
}
