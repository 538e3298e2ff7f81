//! The store layer: what runtimes with modules and stores build on the process-wide registry.
//!
//! ```text
//!  Engine <----- EngineCode: the canonical text, registered for handlers, with its Image's tables
//!                  ^     ^
//!                  |     |  hold it, and with it the registration
//!             Module     Component
//!                  ^     ^
//!                  |     |  hold them until the store is dropped
//!             ModuleRegistry: one store's
//!                  |
//!                  +-- StoreCode: the engine's text, or a private copy with a registration of its own
//! ```
//!
//! Handles count on `Striped` counts, so that stores coming and going on many threads hardly
//! ever write a line in common.

mod breakpoints;
mod engine;
mod engine_code;
mod error;
mod frame;
mod id_map;
mod many;
mod module;
mod pc;
mod registry;
mod store_code;
mod striped;

pub use breakpoints::{Breakpoint, BreakpointError};
pub use engine::{Engine, EngineId, SignatureId};
pub use engine_code::EngineCode;
pub use error::{LoadError, PatchError, StoreError};
pub use frame::FrameInfo;
pub use module::Component;
pub use module::{Module, ModuleId};
pub use pc::{EnginePc, StorePc};
pub use registry::{ModuleRegistry, RegisteredModuleId};
pub use store_code::{ModuleWithCode, StoreCode, StoreCodeMut};
