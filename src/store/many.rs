//! A store's images and modules, found by hashes of their names and bases.

use super::breakpoints::Breakpoints;
use super::engine::SignatureId;
use super::engine_code::EngineCode;
use super::error::StoreError;
use super::id_map::IdMap;
#[cfg(feature = "components")]
use super::module::Component;
use super::module::{CompiledModuleId, Module};
use super::pc::StoreCodePc;
use super::store_code::StoreCode;
use crate::code::start_of_code;

/// What a registry holds as soon as it is more than one module.
///
/// Places in `images` and `modules` are for ever: what was registered stays.
pub(super) struct Many {
    images: Vec<Image>,
    /// In the order of their registration.
    modules: Vec<Module>,
    by_base: IdMap<StoreCodePc, usize>,
    by_image: IdMap<CompiledModuleId, usize>,
    by_module: IdMap<CompiledModuleId, usize>,
    /// The first image that has a trampoline for the signature.
    by_signature: IdMap<SignatureId, usize>,
    pub(super) breakpoints: Breakpoints,
}

/// An image that the store executes code of.
struct Image {
    code: StoreCode,
    owner: Owner,
}

/// Through whom the image stays loaded.
enum Owner {
    /// The module at this place of the list, which was the image's first.
    Module(usize),
    #[cfg(feature = "components")]
    Component(Component),
}

/// An image, and the store's code for it.
#[derive(Clone, Copy)]
pub(super) struct ImageRef<'s> {
    pub(super) code: &'s StoreCode,
    pub(super) engine_code: &'s EngineCode,
}

/// There was no memory.
#[derive(Debug)]
pub(super) struct NoMemory;

impl From<std::collections::TryReserveError> for NoMemory {
    fn from(_: std::collections::TryReserveError) -> Self {
        NoMemory
    }
}

impl Many {
    pub(super) fn new() -> Self {
        Many {
            images: Vec::new(),
            modules: Vec::new(),
            by_base: IdMap::default(),
            by_image: IdMap::default(),
            by_module: IdMap::default(),
            by_signature: IdMap::default(),
            breakpoints: Breakpoints::new(),
        }
    }

    /// Registers `module` with the code that the store has for its image already; [reserved](Self::reserve) for.
    pub(super) fn adopt(&mut self, code: StoreCode, module: Module) {
        self.note_image(module.engine_code(), &code);
        self.images.push(Image { code, owner: Owner::Module(self.modules.len()) });
        self.push_module(module);
    }

    /// As [`ModuleRegistry::register_module`](super::registry::ModuleRegistry::register_module).
    pub(super) fn register_module(&mut self, module: Module, private: bool) -> Result<(), StoreError> {
        let known = self.module(module.id()).is_some();
        let code = module.engine_code();
        match self.by_image.get(&code.id()) {
            Some(&slot) => {
                if !known {
                    self.reserve_module().map_err(|NoMemory| no_memory(code))?;
                }
                let code = &mut self.images[slot].code;
                let applied = if known {
                    self.breakpoints.apply(code, &module)
                } else {
                    // An earlier attempt may have left something behind that was not taken back.
                    self.breakpoints.apply_all(code, &module)
                };
                applied.map_err(StoreError::Patch)?;
            }
            None => {
                self.reserve(code).map_err(|NoMemory| no_memory(code))?;
                let mut store_code = StoreCode::new(code, private)?;
                self.breakpoints.apply(&mut store_code, &module).map_err(StoreError::Patch)?;
                self.note_image(code, &store_code);
                self.images.push(Image { code: store_code, owner: Owner::Module(self.modules.len()) });
            }
        }
        if !known {
            self.push_module(module);
        }
        Ok(())
    }

    /// As [`ModuleRegistry::register_component`](super::registry::ModuleRegistry::register_component).
    #[cfg(feature = "components")]
    pub(super) fn register_component(&mut self, component: Component, private: bool) -> Result<(), StoreError> {
        let code = component.engine_code();
        if !self.by_image.contains_key(&code.id()) {
            self.reserve(code).map_err(|NoMemory| no_memory(code))?;
            let store_code = StoreCode::new(code, private)?;
            self.note_image(code, &store_code);
            self.images.push(Image { code: store_code, owner: Owner::Component(component) });
        }
        Ok(())
    }

    /// Makes room for an image and one module of it.
    pub(super) fn reserve(&mut self, code: &EngineCode) -> Result<(), NoMemory> {
        self.images.try_reserve(1)?;
        self.by_base.try_reserve(1)?;
        self.by_image.try_reserve(1)?;
        self.by_signature.try_reserve(code.wasm_to_array_signatures().len())?;
        self.reserve_module()
    }

    fn reserve_module(&mut self) -> Result<(), NoMemory> {
        self.by_module.try_reserve(1)?;
        Ok(self.modules.try_reserve(1)?)
    }

    /// Notes where the next image will be found. There is room.
    fn note_image(&mut self, engine_code: &EngineCode, code: &StoreCode) {
        let slot = self.images.len();
        self.by_image.insert(engine_code.id(), slot);
        if let Some(base) = code.base() {
            self.by_base.insert(base, slot);
        }
        for signature in engine_code.wasm_to_array_signatures() {
            self.by_signature.entry(signature).or_insert(slot);
        }
    }

    /// There is room.
    fn push_module(&mut self, module: Module) {
        self.by_module.insert(module.id(), self.modules.len());
        self.modules.push(module);
    }

    pub(super) fn modules(&self) -> &[Module] {
        &self.modules
    }

    pub(super) fn module(&self, id: CompiledModuleId) -> Option<&Module> {
        self.modules.get(*self.by_module.get(&id)?)
    }

    fn image_at(&self, slot: usize) -> Option<ImageRef<'_>> {
        let image = self.images.get(slot)?;
        let engine_code = match &image.owner {
            Owner::Module(at) => self.modules.get(*at)?.engine_code(),
            #[cfg(feature = "components")]
            Owner::Component(component) => component.engine_code(),
        };
        Some(ImageRef { code: &image.code, engine_code })
    }

    pub(super) fn image(&self, id: CompiledModuleId) -> Option<ImageRef<'_>> {
        self.image_at(*self.by_image.get(&id)?)
    }

    pub(super) fn image_by_pc(&self, pc: StoreCodePc) -> Option<ImageRef<'_>> {
        // All code is in the process-wide registry for as long as it is in this one.
        let base = StoreCodePc::new(start_of_code(pc.as_usize())?);
        self.image_at(*self.by_base.get(&base)?)
    }

    pub(super) fn image_by_signature(&self, signature: SignatureId) -> Option<ImageRef<'_>> {
        self.image_at(*self.by_signature.get(&signature)?)
    }

    pub(super) fn code_by_base(&mut self, base: StoreCodePc) -> Option<&mut StoreCode> {
        Some(&mut self.images.get_mut(*self.by_base.get(&base)?)?.code)
    }

    /// The code of every image.
    pub(super) fn codes(&self) -> impl Iterator<Item = &StoreCode> {
        self.images.iter().map(|image| &image.code)
    }

    /// The module `id` and the store's code for it, if it is registered.
    #[cfg(feature = "breakpoints")]
    pub(super) fn registered(&mut self, id: CompiledModuleId) -> Option<(&Module, &mut StoreCode)> {
        let module = self.modules.get(*self.by_module.get(&id)?)?;
        let slot = *self.by_image.get(&module.engine_code().id())?;
        Some((module, &mut self.images.get_mut(slot)?.code))
    }

    /// Calls `f` with every module, and the store's code for it, until it fails.
    #[cfg(feature = "breakpoints")]
    pub(super) fn for_each_registered<E>(
        &mut self,
        mut f: impl FnMut(&Module, &mut StoreCode, &Breakpoints) -> Result<(), E>,
    ) -> Result<(), E> {
        for module in &self.modules {
            let slot = self.by_image.get(&module.engine_code().id());
            if let Some(image) = slot.and_then(|slot| self.images.get_mut(*slot)) {
                f(module, &mut image.code, &self.breakpoints)?;
            }
        }
        Ok(())
    }
}

pub(super) fn no_memory(code: &EngineCode) -> StoreError {
    StoreError::OutOfMemory { text: code.text_range() }
}
