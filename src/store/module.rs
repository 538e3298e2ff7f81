//! Modules: parts of an image, as an engine and as a store have them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::ops::Deref;

use super::engine_code::EngineCode;
use super::pc::{EnginePc, StorePc};
use super::store_code::{PrivateCode, StoreCode};
use crate::image::{DefinedFunctionIndex, Function, FunctionKey, ModuleIndex, ModuleInfo};

/// Names a loaded module, or a loaded image as a whole, for the life of the process. What is loaded again gets another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(NonZeroU64);

impl ModuleId {
    pub(super) fn new(id: NonZeroU64) -> Self {
        ModuleId(id)
    }

    /// The number that the id stands for.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The module at `index` of the image that this names: the numbers after an image's are those of its modules.
    pub(super) fn module(self, index: ModuleIndex) -> ModuleId {
        ModuleId(self.0.saturating_add(1 + u64::from(index.as_u32())))
    }

    /// The reverse of [`module`](Self::module), if this can be a module of `image`, however many that has.
    pub(super) fn index_in(self, image: ModuleId) -> Option<ModuleIndex> {
        let index = self.as_u64().checked_sub(image.as_u64())?.checked_sub(1)?;
        Some(ModuleIndex::new(u32::try_from(index).ok()?))
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModuleId({})", self.0)
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module {}", self.0)
    }
}

/// A module of guest code in an engine: one of the modules of an [`EngineCode`], which it borrows.
///
/// Made by [`EngineCode::module`] and [`EngineCode::modules`]. To keep one, keep a clone of the code and
/// [`static_index`](Self::static_index).
#[derive(Clone, Copy)]
pub struct Module<'c> {
    code: &'c EngineCode,
    index: ModuleIndex,
}

impl<'c> Module<'c> {
    /// The image has a module at `index`.
    #[inline]
    pub(super) fn of(code: &'c EngineCode, index: ModuleIndex) -> Self {
        Module { code, index }
    }

    /// The module's name in this process.
    #[inline]
    #[must_use]
    pub fn id(self) -> ModuleId {
        self.code.id().module(self.index)
    }

    /// The module's place in its image.
    #[inline]
    #[must_use]
    pub fn static_index(self) -> ModuleIndex {
        self.index
    }

    /// The image that the module is part of.
    #[inline]
    #[must_use]
    pub fn engine_code(self) -> &'c EngineCode {
        self.code
    }

    /// What the image says about the module: its name, its imports.
    #[inline]
    #[must_use]
    pub fn info(self) -> ModuleInfo<'c> {
        self.code.image().modules().get(self.index).expect("made with an index that the image has")
    }

    /// The functions that the module defines, by index.
    ///
    /// O(log n), and O(1) for each function.
    pub fn functions(self) -> impl Iterator<Item = Function<'c>> + 'c {
        self.code.image().functions().defined(self.index)
    }

    /// The function that the module defines at `function`.
    ///
    /// O(log n).
    #[must_use]
    pub fn function(self, function: DefinedFunctionIndex) -> Option<Function<'c>> {
        self.compiled(FunctionKey::Defined { module: self.index, function })
    }

    /// Where the host enters to call the function that the module defines at `function`, if the image has a trampoline
    /// to this one function. [`EngineCode::trampoline`] finds those that functions of one type share.
    ///
    /// O(log n).
    #[must_use]
    pub fn host_to_guest_trampoline(self, function: DefinedFunctionIndex) -> Option<EnginePc> {
        let trampoline = self.compiled(FunctionKey::HostToGuest { module: self.index, function })?;
        EnginePc::at(&self.code.text_range(), trampoline.range().start)
    }

    fn compiled(self, key: FunctionKey) -> Option<Function<'c>> {
        self.code.image().functions().by_key(key)
    }
}

/// Whether both are the same module.
impl PartialEq for Module<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Module<'_> {}

impl Hash for Module<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for Module<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("id", &self.id()).field("info", &self.info()).finish_non_exhaustive()
    }
}

/// A module that is registered in a store, together with the code that the store executes for it. It is a [`Module`],
/// too.
#[derive(Clone, Copy, Debug)]
pub struct ModuleWithCode<'s> {
    module: Module<'s>,
    /// The store's copy, if it executes one.
    private: Option<&'s PrivateCode>,
}

impl<'s> ModuleWithCode<'s> {
    #[inline]
    pub(super) fn new(module: Module<'s>, private: Option<&'s PrivateCode>) -> Self {
        ModuleWithCode { module, private }
    }

    /// The module.
    #[must_use]
    pub fn module(self) -> Module<'s> {
        self.module
    }

    /// The store's code for the module's image.
    #[must_use]
    pub fn store_code(self) -> StoreCode<'s> {
        StoreCode::new(self.module.code, self.private)
    }

    /// Where the store executes the function that the module defines at `function`.
    ///
    /// O(log n).
    #[must_use]
    pub fn function_pc(self, function: DefinedFunctionIndex) -> Option<StorePc> {
        self.store_code().pc(self.module.function(function)?.range().start)
    }

    /// The function that the module defines at `function`, to be called: see [`StoreCode::entry`].
    ///
    /// O(log n).
    ///
    /// # Safety
    ///
    /// As for [`StoreCode::entry`].
    #[must_use]
    pub unsafe fn entry<F: Copy>(self, function: DefinedFunctionIndex) -> Option<F> {
        let pc = self.function_pc(function)?;
        // SAFETY: the caller keeps the contract of `StoreCode::entry`, and a function begins at `pc`.
        unsafe { self.store_code().entry(pc) }
    }
}

impl<'s> Deref for ModuleWithCode<'s> {
    type Target = Module<'s>;

    fn deref(&self) -> &Module<'s> {
        &self.module
    }
}
