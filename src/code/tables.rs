//! All that an image says about its text.

use super::address_map::AddressMap;
use super::compiled_functions::CompiledFunctionsTable;
use super::image::UserSections;
use super::module_table::ModuleTable;
use super::patch_table::PatchTable;
use super::signature_table::SignatureTable;
use super::trap_table::TrapTable;

/// The tables of an image, on the heap: checked one by one, and against each other by
/// [`references::check`](super::references::check).
pub(crate) struct Tables {
    pub(crate) traps: TrapTable,
    pub(crate) functions: CompiledFunctionsTable,
    pub(crate) modules: ModuleTable,
    pub(crate) signatures: SignatureTable,
    pub(crate) addresses: Option<AddressMap>,
    pub(crate) patches: PatchTable,
    pub(crate) configuration: Box<[u8]>,
    pub(crate) user: UserSections,
}
