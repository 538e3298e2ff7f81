//! Modules, and components of several.

use std::fmt;
use std::num::NonZeroU64;

use super::engine::SignatureId;
use super::engine_code::EngineCode;
use super::pc::EnginePc;
use crate::image::{DefinedFunctionIndex, Function, FunctionKey, ModuleIndex, ModuleInfo};

/// Names a loaded module, or a loaded image as a whole, for the life of the process: loaded again, it is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(NonZeroU64);

impl ModuleId {
    pub(super) fn new(id: NonZeroU64) -> Self {
        ModuleId(id)
    }

    /// The number behind the id.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The module at `index` of the image that this names.
    pub(super) fn module(self, index: ModuleIndex) -> ModuleId {
        ModuleId(self.0.saturating_add(1 + u64::from(index.as_u32())))
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

/// A module of guest code in an engine: one of the modules of an [`EngineCode`]. A handle, cheap to clone from many
/// threads at once, that keeps the code loaded. As with [`EngineCode`], cloning and dropping are not for handlers.
///
/// Made by [`EngineCode::module`] and [`EngineCode::modules`].
#[derive(Clone)]
pub struct Module {
    code: EngineCode,
    index: ModuleIndex,
}

impl Module {
    /// The image has a module at `index`.
    pub(super) fn of(code: EngineCode, index: ModuleIndex) -> Self {
        Module { code, index }
    }

    /// The module's name in this process.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ModuleId {
        self.code.id().module(self.index)
    }

    /// The module's place in its image.
    #[inline]
    #[must_use]
    pub fn static_index(&self) -> ModuleIndex {
        self.index
    }

    /// The image it is part of.
    #[inline]
    #[must_use]
    pub fn engine_code(&self) -> &EngineCode {
        &self.code
    }

    /// What the image says about the module.
    #[inline]
    #[must_use]
    pub fn info(&self) -> ModuleInfo<'_> {
        self.code.image().modules().get(self.index).expect("made with an index that the image has")
    }

    /// The module's name in the source, if the image has it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.info().name()
    }

    /// The functions that the module defines, by index.
    ///
    /// O(log n), and O(1) for each function.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> + '_ {
        self.code.functions().defined(self.index)
    }

    /// The function that the module defines at `function`.
    ///
    /// O(log n).
    #[must_use]
    pub fn function(&self, function: DefinedFunctionIndex) -> Option<Function<'_>> {
        self.code.functions().by_key(FunctionKey::Defined { module: self.index, function })
    }

    /// Where the host enters to call the function that the module defines at `function`, if it has a trampoline.
    ///
    /// O(log n).
    #[must_use]
    pub fn host_to_guest_trampoline(&self, function: DefinedFunctionIndex) -> Option<EnginePc> {
        let key = FunctionKey::HostToGuest { module: self.index, function };
        let offset = self.code.functions().by_key(key)?.range().start;
        EnginePc::at(&self.code.text_range(), offset)
    }

    /// As [`EngineCode::guest_to_host_trampoline`]: trampolines belong to the image.
    #[must_use]
    pub fn guest_to_host_trampoline(&self, signature: SignatureId) -> Option<EnginePc> {
        self.code.guest_to_host_trampoline(signature)
    }
}

/// Whether both are handles of the same module.
impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Module {}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("id", &self.id()).field("info", &self.info()).finish_non_exhaustive()
    }
}

/// Several modules that were compiled into one image, an [`EngineCode`], to be instantiated together. A handle that
/// keeps the code loaded.
#[derive(Clone)]
pub struct Component {
    code: EngineCode,
}

impl Component {
    /// The image `code` as a whole.
    #[must_use]
    pub fn new(code: EngineCode) -> Self {
        Component { code }
    }

    /// The component's name in this process; its modules have others.
    #[must_use]
    pub fn id(&self) -> ModuleId {
        self.code.id()
    }

    /// The image.
    #[must_use]
    pub fn engine_code(&self) -> &EngineCode {
        &self.code
    }

    /// The component's modules, by static index.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module> + '_ {
        self.code.modules()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("id", &self.id()).field("code", &self.code).finish()
    }
}
