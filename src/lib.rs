#![doc = include_str!("../README.md")]
//!
//! # The map
//!
//! | room | what is in it |
//! |---|---|
//! | `handler` | everything a lookup executes inside a signal handler, and the rules for it |
//! | `registry` | [`CodeRegistry`]: publication, reclamation, guards, snapshots |
//! | `code` | [`CodeMemory`]: images, mappings, trap and function tables, and the process-wide registry of them |
//! | `signal` | [`signal`]: traps caught as values |
//! | `sync` | the atomics, the lock and the epoch, shipped or modelled |

// Code memory needs a registry that is a `static`, which loom's atomics cannot make.
#[cfg(not(loom))]
mod code;
mod handler;
mod registry;
#[cfg(all(feature = "signal", not(loom)))]
pub mod signal;
mod sync;

#[cfg(not(loom))]
pub use code::{
    AddressMap, CodeMemory, CodeRegistration, CompiledFunctionsTable, DefinedFunctionIndex, Function, FunctionKey,
    ImageBuilder, ImageError, ModuleDescription, ModuleInfo, ModuleTable, Patch, PatchTable, SignatureIndex,
    SignatureTable, StaticModuleIndex, Target, TrapCode, TrapTable, Unpublished, UserTrap, code_snapshot, code_stats,
    find_code, is_trap_pc, lookup_code, lookup_trap_code, reclaim_code, register_code,
};
pub use registry::{CodeId, CodeRegistry, Found, Guard, RegisterError, Registration, Snapshot, Stats, UnregisterError};

/// What a model has to tell the crate.
#[cfg(loom)]
pub mod model {
    pub use crate::sync::model::{begin, use_stripe};
}
