//! What the tables of an image must say about each other, so that what one names the others have.

use super::function_key::FunctionKey;
use super::function_table::FunctionTable;
use super::module_table::ModuleTable;
use super::patch_table::PatchTable;
use super::signature_table::SignatureTable;
use crate::image::error::ImageError;

/// Keys name modules and signatures that exist, a function's number in its module fits 32 bits, and a patch lies inside
/// one function of the guest.
///
/// O(f + p log f) for f functions and p patches.
pub(crate) fn check(
    functions: &FunctionTable,
    modules: &ModuleTable,
    signatures: &SignatureTable,
    patches: &PatchTable,
) -> Result<(), ImageError> {
    for function in functions.iter() {
        check_key(function.key(), modules, signatures)?;
    }
    for patch in patches.iter() {
        let range = patch.range();
        let function = functions.by_offset(range.start).filter(|function| function.key().is_defined());
        if function.is_none_or(|function| function.range().end < range.end) {
            return Err(ImageError::PatchOutsideFunction { range });
        }
    }
    Ok(())
}

fn check_key(key: FunctionKey, modules: &ModuleTable, signatures: &SignatureTable) -> Result<(), ImageError> {
    match key {
        FunctionKey::Defined { module, function } | FunctionKey::HostToGuest { module, function } => {
            let module = modules.get(module).ok_or(ImageError::NoSuchModule { key, modules: modules.len() })?;
            let imported_functions = module.imported_functions();
            match imported_functions.checked_add(function.as_u32()) {
                Some(_) => Ok(()),
                None => Err(ImageError::FunctionIndexOverflow { key, imported_functions }),
            }
        }
        FunctionKey::GuestToHost { signature } => match signatures.get(signature) {
            Some(_) => Ok(()),
            None => Err(ImageError::NoSuchSignature { key, signatures: signatures.len() }),
        },
        FunctionKey::Builtin { .. } | FunctionKey::Adapter { .. } => Ok(()),
    }
}
