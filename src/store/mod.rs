//! The store layer: what runtimes with modules and stores build on the process-wide registry.
//!
//! ```text
//!  Engine <--- EngineCode        the canonical text, registered for handlers,
//!                ^   ^           with its image's tables and the embedder's data
//!   borrowed for |   | kept until the store is dropped
//!             Module |
//!                    ModuleRegistry   one store's images and registered modules
//!                      |
//!                      +-- StoreCode  where the store executes an image:
//!                                     the engine's text, or a private copy
//! ```
//!
//! An [`EngineCode`] is the one owning handle: whatever else is handed out borrows from one, be it the caller's or a
//! store's. To keep a [`Module`], keep a clone of its code and the module's index; to keep a [`FrameInfo`], make an
//! [`OwnedFrame`] of it.
//!
//! # Addresses
//!
//! Code has an address in its engine and, in a store that debugs its guests, another one in the store. Functions that
//! look up *any* pc, as it comes from a handler or a backtrace, take a plain `usize`: the pc need not be code at all.
//! Everything that is handed out, and everything that is taken where the two could be confused (patching, translating,
//! entering), is an [`EnginePc`] or a [`StorePc`]. Offsets are in bytes, and `usize`.
//!
//! # Names in wasmtime
//!
//! | here | wasmtime |
//! |---|---|
//! | [`Image`](crate::image::Image) | `CodeMemory` |
//! | [`EngineCode`], all modules of one image | `EngineCode`, `Component` |
//! | [`ModuleId`] | `CompiledModuleId`, `RegisteredModuleId` |
//! | [`SignatureId`] | `VMSharedTypeIndex` |
//! | [`Direction::HostToGuest`] | array-to-wasm trampoline |
//! | [`Direction::GuestToHost`] | wasm-to-array trampoline |
//! | [`ModuleRegistry::with_guest_debugging`] | `Config::guest_debug` |
//!
//! # Signal safety
//!
//! Not for handlers: nothing here is. Handlers find traps in private and shared code through
//! [`process`](crate::process), where all of it is registered.

mod breakpoints;
mod engine;
mod engine_code;
mod error;
mod frame;
mod many;
mod module;
mod pc;
mod registered;
mod registry;
mod store_code;
mod striped;

pub use breakpoints::{Breakpoint, BreakpointError};
pub use engine::{Engine, EngineId, SignatureId};
pub use engine_code::{Direction, EngineCode};
pub use error::{LoadError, PatchError, StoreError};
pub use frame::{FrameInfo, OwnedFrame};
pub use module::{Module, ModuleId, ModuleWithCode};
pub use pc::{EnginePc, StorePc};
pub use registry::ModuleRegistry;
pub use store_code::{StoreCode, StoreCodeMut};
