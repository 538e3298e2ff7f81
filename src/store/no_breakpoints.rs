//! In place of `breakpoints` in a build without them: nothing, of no size.

use super::error::PatchError;
use super::module::Module;
use super::store_code::StoreCode;

pub(super) struct Breakpoints;

impl Breakpoints {
    pub(super) const fn new() -> Self {
        Breakpoints
    }

    pub(super) fn apply(&self, _: &mut StoreCode, _: &Module) -> Result<(), PatchError> {
        Ok(())
    }

    pub(super) fn apply_all(&self, _: &mut StoreCode, _: &Module) -> Result<(), PatchError> {
        Ok(())
    }
}
