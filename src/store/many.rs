//! A store's images and modules: looked through while they are few, and then found by hashes of their names and bases.

use std::hash::Hash;
use std::ops::Range;

use super::breakpoints::Breakpoints;
use super::engine::SignatureId;
use super::engine_code::EngineCode;
use super::error::StoreError;
use super::frame::FrameInfo;
use super::id_map::IdMap;
use super::module::Component;
use super::module::{Module, ModuleId};
use super::pc::StorePc;
use super::store_code::{ModuleWithCode, StoreCode};
use crate::allocate::{self, OutOfMemory};
use crate::image::{Function, FunctionKey, ModuleIndex};
use crate::process;

/// As many images, and as many modules, are looked through one by one: that takes no longer than to find one by its
/// hash, and no maps have to be made.
const FEW: usize = 16;

/// Places that the first allocation of a list has.
const FIRST: usize = FEW;

/// What a registry holds as soon as it is more than one module.
///
/// Places in `images` and `modules` are for ever: what was registered stays.
pub(super) struct Many {
    images: Vec<Image>,
    /// In the order of their registration.
    modules: Vec<(ModuleId, Module)>,
    // All of `images` if they are more than a few, and nothing before.
    by_base: IdMap<StorePc, usize>,
    by_image: IdMap<ModuleId, usize>,
    /// The first image that has a trampoline for the signature.
    by_signature: IdMap<SignatureId, usize>,
    /// All of `modules` if they are more than a few, and nothing before.
    by_module: IdMap<ModuleId, usize>,
    pub(super) breakpoints: Breakpoints,
}

/// An image that the store executes code of.
struct Image {
    id: ModuleId,
    /// Where the store executes it.
    text: Range<StorePc>,
    /// The store's own copy, if it executes one.
    private: Option<StoreCode>,
    owner: Owner,
}

/// Through whom the image stays loaded.
enum Owner {
    /// The module at this place of the list, which was the image's first.
    Module(usize),
    Component(Component),
}

/// An image, and the store's code for it.
#[derive(Clone, Copy)]
pub(super) struct ImageRef<'s> {
    pub(super) code: &'s StoreCode,
    pub(super) engine_code: &'s EngineCode,
}

impl<'s> ImageRef<'s> {
    /// For a store that executes the engine's code.
    #[inline]
    pub(super) fn shared(engine_code: &'s EngineCode) -> Self {
        ImageRef { code: engine_code.shared(), engine_code }
    }

    /// The function that `pc` lies in, and the offset of `pc` in the text.
    #[inline]
    pub(super) fn function(self, pc: usize) -> Option<(Function<'s>, usize)> {
        let offset = StorePc::new(pc).offset_in(&self.code.text_range())?;
        Some((self.engine_code.functions().by_offset(offset)?, offset))
    }

    /// The frame of guest code that is at `pc`; `module` knows the modules of the image that are registered.
    #[inline]
    pub(super) fn frame(
        self,
        pc: usize,
        module: impl FnOnce(ModuleIndex) -> Option<&'s Module>,
    ) -> Option<(FrameInfo<'s>, ModuleWithCode<'s>)> {
        let (function, offset) = self.function(pc)?;
        let FunctionKey::Defined { module: owner, function: index } = function.key() else { return None };
        let module = module(owner)?;
        Some((FrameInfo::new(module, function, index, offset), ModuleWithCode::new(module, self.code)))
    }
}

impl Many {
    pub(super) fn new() -> Self {
        Many {
            images: Vec::new(),
            modules: Vec::new(),
            by_base: IdMap::default(),
            by_image: IdMap::default(),
            by_signature: IdMap::default(),
            by_module: IdMap::default(),
            breakpoints: Breakpoints::new(),
        }
    }

    /// Registers `module`, which is executed where the engine has it; [reserved](Self::reserve) for.
    pub(super) fn adopt(&mut self, module: Module) {
        let slot = self.push_module(module);
        self.push_image(None, Owner::Module(slot));
    }

    /// As [`ModuleRegistry::register_module`](super::registry::ModuleRegistry::register_module).
    pub(super) fn register_module(&mut self, module: Module, private: bool) -> Result<(), StoreError> {
        let code = module.engine_code();
        let Some(slot) = self.image_slot(code.id()) else {
            self.reserve(code).map_err(StoreError::no_memory_for(code))?;
            let mut copy = if private { StoreCode::copy(code)? } else { None };
            if let Some(copy) = &mut copy {
                self.breakpoints.apply(copy, &module).map_err(StoreError::Patch)?;
            }
            let slot = self.push_module(module);
            self.push_image(copy, Owner::Module(slot));
            return Ok(());
        };
        let known = self.module(module.id()).is_some();
        if !known {
            self.reserve_module().map_err(StoreError::no_memory_for(code))?;
        }
        if let Some(copy) = &mut self.images[slot].private {
            let applied = if known {
                self.breakpoints.apply(copy, &module)
            } else {
                // An earlier attempt may have left something behind that was not taken back.
                self.breakpoints.apply_all(copy, &module)
            };
            applied.map_err(StoreError::Patch)?;
        }
        if !known {
            self.push_module(module);
        }
        Ok(())
    }

    /// As [`ModuleRegistry::register_component`](super::registry::ModuleRegistry::register_component).
    pub(super) fn register_component(&mut self, component: Component, private: bool) -> Result<(), StoreError> {
        let code = component.engine_code();
        if self.image_slot(code.id()).is_none() {
            self.reserve(code).map_err(StoreError::no_memory_for(code))?;
            let copy = if private { StoreCode::copy(code)? } else { None };
            self.push_image(copy, Owner::Component(component));
        }
        Ok(())
    }

    /// Makes room for an image and one module of it.
    pub(super) fn reserve(&mut self, code: &EngineCode) -> Result<(), OutOfMemory> {
        let images = self.images.len() + 1;
        reserve_place(&mut self.images)?;
        if images > FEW {
            reserve_places(&mut self.by_base, images)?;
            reserve_places(&mut self.by_image, images)?;
            let earlier = self.images[unnoted(images).start..].iter();
            let codes = earlier.map(|image| image.owner.engine_code(&self.modules)).chain([code]);
            let signatures = codes.map(|code| code.guest_to_host_signatures().len()).sum();
            allocate::reserve_in_map(&mut self.by_signature, signatures)?;
        }
        self.reserve_module()
    }

    fn reserve_module(&mut self) -> Result<(), OutOfMemory> {
        let modules = self.modules.len() + 1;
        reserve_place(&mut self.modules)?;
        if modules > FEW {
            reserve_places(&mut self.by_module, modules)?;
        }
        Ok(())
    }

    /// There is room.
    fn push_image(&mut self, private: Option<StoreCode>, owner: Owner) {
        let code = owner.engine_code(&self.modules);
        let (id, text) = (code.id(), private.as_ref().unwrap_or(code.shared()).text_range());
        self.images.push(Image { id, text, private, owner });
        unnoted(self.images.len()).for_each(|slot| self.note_image(slot));
    }

    fn note_image(&mut self, slot: usize) {
        let image = &self.images[slot];
        self.by_image.insert(image.id, slot);
        if !image.text.is_empty() {
            self.by_base.insert(image.text.start, slot);
        }
        for signature in image.owner.engine_code(&self.modules).guest_to_host_signatures() {
            self.by_signature.entry(signature).or_insert(slot);
        }
    }

    /// There is room. Returns the module's place.
    fn push_module(&mut self, module: Module) -> usize {
        let slot = self.modules.len();
        self.modules.push((module.id(), module));
        for slot in unnoted(self.modules.len()) {
            self.by_module.insert(self.modules[slot].0, slot);
        }
        slot
    }

    pub(super) fn modules(&self) -> impl Iterator<Item = &Module> + '_ {
        self.modules.iter().map(|(_, module)| module)
    }

    pub(super) fn module(&self, id: ModuleId) -> Option<&Module> {
        Some(&self.modules.get(self.module_slot(id)?)?.1)
    }

    fn module_slot(&self, id: ModuleId) -> Option<usize> {
        if self.modules.len() > FEW {
            return self.by_module.get(&id).copied();
        }
        self.modules.iter().position(|(known, _)| *known == id)
    }

    fn image_slot(&self, id: ModuleId) -> Option<usize> {
        if self.images.len() > FEW {
            return self.by_image.get(&id).copied();
        }
        self.images.iter().position(|image| image.id == id)
    }

    fn image_ref<'s>(&'s self, image: &'s Image) -> ImageRef<'s> {
        let engine_code = image.owner.engine_code(&self.modules);
        ImageRef { code: image.private.as_ref().unwrap_or(engine_code.shared()), engine_code }
    }

    pub(super) fn image(&self, id: ModuleId) -> Option<ImageRef<'_>> {
        Some(self.image_ref(self.images.get(self.image_slot(id)?)?))
    }

    pub(super) fn image_by_pc(&self, pc: usize) -> Option<ImageRef<'_>> {
        let image = if self.images.len() > FEW {
            // All code is in the process-wide registry for as long as it is in this one.
            self.images.get(*self.by_base.get(&StorePc::new(process::with(pc, |found| found.range().start)?))?)
        } else {
            self.images.iter().find(|image| image.text.contains(&StorePc::new(pc)))
        };
        Some(self.image_ref(image?))
    }

    /// As [`ModuleRegistry::lookup_frame_info`](super::registry::ModuleRegistry::lookup_frame_info).
    pub(super) fn frame(&self, pc: usize) -> Option<(FrameInfo<'_>, ModuleWithCode<'_>)> {
        let image = self.image_by_pc(pc)?;
        image.frame(pc, |index| self.module(image.engine_code.id().module(index)))
    }

    pub(super) fn image_by_signature(&self, signature: SignatureId) -> Option<ImageRef<'_>> {
        if self.images.len() > FEW {
            return Some(self.image_ref(self.images.get(*self.by_signature.get(&signature)?)?));
        }
        let mut images = self.images.iter().map(|image| self.image_ref(image));
        images.find(|image| image.engine_code.guest_to_host_offset(signature).is_some())
    }

    /// The store's own copy of an image, if the code that begins at `base` is one.
    pub(super) fn copy_by_base(&mut self, base: StorePc) -> Option<&mut StoreCode> {
        let slot = if self.images.len() > FEW {
            *self.by_base.get(&base)?
        } else {
            self.images.iter().position(|image| !image.text.is_empty() && image.text.start == base)?
        };
        self.images.get_mut(slot)?.private.as_mut()
    }

    /// The code of every image.
    pub(super) fn codes(&self) -> impl Iterator<Item = &StoreCode> {
        self.images.iter().map(|image| self.image_ref(image).code)
    }

    /// The module `id`, if it is registered, and the copy that the store executes.
    pub(super) fn registered(&mut self, id: ModuleId) -> Option<(&Module, &mut StoreCode)> {
        let at = self.module_slot(id)?;
        let slot = self.image_slot(self.modules.get(at)?.1.engine_code().id())?;
        Some((&self.modules.get(at)?.1, self.images.get_mut(slot)?.private.as_mut()?))
    }

    /// Calls `f` with every module that the store executes a copy of, and the copy, until it fails.
    pub(super) fn for_each_registered<E>(
        &mut self,
        mut f: impl FnMut(&Module, &mut StoreCode, &Breakpoints) -> Result<(), E>,
    ) -> Result<(), E> {
        for at in 0..self.modules.len() {
            let slot = self.image_slot(self.modules[at].1.engine_code().id());
            let image = slot.and_then(|slot| self.images.get_mut(slot));
            if let Some(copy) = image.and_then(|image| image.private.as_mut()) {
                f(&self.modules[at].1, copy, &self.breakpoints)?;
            }
        }
        Ok(())
    }
}

impl Owner {
    /// `modules` are those of the store.
    fn engine_code<'s>(&'s self, modules: &'s [(ModuleId, Module)]) -> &'s EngineCode {
        match self {
            Owner::Module(slot) => modules[*slot].1.engine_code(),
            Owner::Component(component) => component.engine_code(),
        }
    }
}

/// The places that the maps do not have yet, of a list that has just grown to `len`.
fn unnoted(len: usize) -> Range<usize> {
    match len {
        ..=FEW => 0..0,
        // The first time.
        _ if len == FEW + 1 => 0..len,
        _ => len - 1..len,
    }
}

/// Makes room for one more.
fn reserve_place<T>(list: &mut Vec<T>) -> Result<(), OutOfMemory> {
    let more = if list.is_empty() { FIRST } else { 1 };
    allocate::reserve(list, more)
}

/// Makes room for the places of a list of `len`.
fn reserve_places<K: Eq + Hash>(map: &mut IdMap<K, usize>, len: usize) -> Result<(), OutOfMemory> {
    let more = len - map.len();
    allocate::reserve_in_map(map, more)
}
