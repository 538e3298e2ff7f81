//! Images: compiled code in a file, the tables that describe it, and the text that runs.
//!
//! ```text
//!  ImageBuilder --finish--> bytes of a file --parse--> Unpublished --publish--> Image
//! ```
//!
//! [`format`](self#the-file) is how it travels; the tables are what an image says about its text.

mod error;
mod format;
mod names;
mod published;
mod tables;
mod unpublished;

pub use error::ImageError;
pub use format::{ImageBuilder, Target};
pub use published::Image;
pub use tables::address_map::AddressMap;
pub use tables::function_key::FunctionKey;
pub use tables::function_table::{Function, FunctionTable};
pub use tables::index::{DefinedFunctionIndex, ModuleIndex, SignatureIndex};
pub use tables::module_table::{ModuleDescription, ModuleInfo, ModuleTable};
pub use tables::patch_table::{Patch, PatchTable};
pub use tables::signature_table::SignatureTable;
pub use tables::trap_table::TrapTable;
pub use unpublished::Unpublished;
