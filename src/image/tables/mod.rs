//! All that an image says about its text.

pub(super) mod address_map;
mod columns;
pub(super) mod function_key;
mod function_keys;
pub(super) mod function_table;
pub(super) mod index;
pub(super) mod module_table;
pub(super) mod patch_table;
mod rank;
pub(super) mod references;
pub(super) mod signature_table;
pub(super) mod trap_table;
mod user_sections;

use address_map::AddressMap;
use function_table::FunctionTable;
use module_table::ModuleTable;
use patch_table::PatchTable;
use signature_table::SignatureTable;
use trap_table::TrapTable;
pub(super) use user_sections::UserSections;

/// The tables of an image, on the heap: checked one by one, and against each other by
/// [`references::check`](super::references::check).
pub(crate) struct Tables {
    pub(crate) traps: TrapTable,
    pub(crate) functions: FunctionTable,
    pub(crate) modules: ModuleTable,
    pub(crate) signatures: SignatureTable,
    pub(crate) addresses: AddressMap,
    pub(crate) patches: PatchTable,
    pub(crate) configuration: Box<[u8]>,
    pub(crate) user: UserSections,
}
