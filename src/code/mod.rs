//! Machine code: the file it comes in, the memory it runs from, the tables that describe it, and the process-wide
//! registry that finds it.

mod address_map;
pub(crate) mod allocate;
mod columns;
mod compiled_functions;
pub(crate) mod counted;
mod function_key;
mod function_keys;
mod global;
mod icache;
mod image;
mod index;
#[cfg(unix)]
pub(crate) mod leftover;
mod memory;
mod module_table;
#[cfg(unix)]
mod pages;
#[cfg(not(unix))]
#[path = "pages_elsewhere.rs"]
mod pages;
mod patch_table;
mod private_text;
mod rank;
mod references;
mod registered;
mod signature_table;
mod tables;
mod text;
mod trap_table;
mod unpublished;

pub use crate::handler::trap_code::{TrapCode, UserTrap};
pub use address_map::AddressMap;
pub use compiled_functions::{CompiledFunctionsTable, Function};
pub use function_key::FunctionKey;
pub use global::{
    CodeRegistration, code_snapshot, code_stats, code_view, find_code, is_trap_pc, lookup_code, lookup_trap_code,
    reclaim_code, register_code,
};
pub(crate) use global::{register_private_copy, start_of_code};
pub use image::{ImageBuilder, ImageError, Target};
pub use index::{DefinedFunctionIndex, SignatureIndex, StaticModuleIndex};
pub use memory::{CodeMemory, CodeMemoryStats, code_memory_stats};
pub use module_table::{ModuleDescription, ModuleInfo, ModuleTable};
pub(crate) use pages::Slot;
pub use patch_table::{Patch, PatchTable};
pub(crate) use private_text::{Overwrite, PrivateText, WriteError};
pub use registered::RegisteredCode;
pub use signature_table::SignatureTable;
pub use trap_table::TrapTable;
pub use unpublished::Unpublished;
