//! Machine code: the file it comes in, the memory it runs from, the tables that describe it, and the process-wide
//! registry that finds it.

mod function_table;
mod global;
mod icache;
mod image;
mod memory;
mod text;
mod trap_table;
mod unpublished;

pub use crate::handler::trap_code::{TrapCode, UserTrap};
pub use function_table::{Function, FunctionTable};
pub use global::{
    CodeRegistration, code_snapshot, code_stats, find_code, is_trap_pc, lookup_code, lookup_trap_code, reclaim_code,
    register_code,
};
pub use image::{ImageBuilder, ImageError, Target};
pub use memory::CodeMemory;
pub use trap_table::TrapTable;
pub use unpublished::Unpublished;
