//! Machine code: the file it comes in, the memory it runs from, the tables that describe it, and the process-wide
//! registry that finds it.

mod columns;
mod compiled_functions;
mod function_key;
mod function_keys;
mod global;
mod icache;
mod image;
mod index;
mod memory;
mod text;
mod trap_table;
mod unpublished;

pub use crate::handler::trap_code::{TrapCode, UserTrap};
pub use compiled_functions::{CompiledFunctionsTable, Function};
pub use function_key::FunctionKey;
pub use global::{
    CodeRegistration, code_snapshot, code_stats, find_code, is_trap_pc, lookup_code, lookup_trap_code, reclaim_code,
    register_code,
};
pub use image::{ImageBuilder, ImageError, Target};
pub use index::{DefinedFunctionIndex, SignatureIndex, StaticModuleIndex};
pub use memory::CodeMemory;
pub use trap_table::TrapTable;
pub use unpublished::Unpublished;
