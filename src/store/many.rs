//! A store's images, if they are more than one module.

use std::ops::Range;

use super::breakpoints::Breakpoints;
use super::engine::SignatureId;
use super::engine_code::{Direction, EngineCode};
use super::error::StoreError;
use super::module::{Module, ModuleId, ModuleWithCode};
use super::pc::StorePc;
use super::registered::Registered;
use super::store_code::{PrivateCode, StoreCode, StoreCodeMut};
use crate::allocate::{self, OutOfMemory};
use crate::image::ModuleIndex;

/// As many images are looked through one by one: that takes no longer than a binary search, and nothing has to be kept
/// sorted. The first allocation has room for them.
const FEW: usize = 16;

/// What a registry holds as soon as it is more than one module.
pub(super) struct Many {
    /// In the order of their registration. Their places are for ever: what was registered stays.
    images: Vec<Image>,
    /// The places of all images by ascending id, if they are more than a few.
    by_id: Vec<u32>,
    /// The places of those that have text by ascending base, if all images are more than a few.
    by_base: Vec<u32>,
    pub(super) breakpoints: Breakpoints,
}

/// An image that the store executes code of. What searches compare is here, and not only where `code` points.
struct Image {
    id: ModuleId,
    /// Where the store executes it.
    text: Range<StorePc>,
    private: Option<Box<PrivateCode>>,
    code: EngineCode,
    registered: Registered,
}

/// An image of a store, with the store's code for it and the modules that are registered.
#[derive(Clone, Copy)]
pub(super) struct ImageRef<'s> {
    pub(super) code: StoreCode<'s>,
    registered: Modules<'s>,
}

#[derive(Clone, Copy)]
enum Modules<'s> {
    One(ModuleIndex),
    Some(&'s Registered),
}

impl<'s> ImageRef<'s> {
    /// The image of a store that holds one module, and executes it where the engine has it.
    #[inline]
    pub(super) fn solo(code: &'s EngineCode, module: ModuleIndex) -> Self {
        ImageRef { code: StoreCode::new(code, None), registered: Modules::One(module) }
    }

    /// The module at `index`, if it is registered.
    #[inline]
    pub(super) fn module(self, index: ModuleIndex) -> Option<ModuleWithCode<'s>> {
        let there = match self.registered {
            Modules::One(one) => one == index,
            Modules::Some(registered) => registered.has(index),
        };
        there.then(|| self.code.module(index))
    }

    /// The module `id`, if it is one of this image's and registered.
    pub(super) fn module_by_id(self, id: ModuleId) -> Option<ModuleWithCode<'s>> {
        self.module(id.index_in(self.code.engine_code().id())?)
    }

    pub(super) fn trampoline(self, direction: Direction, signature: SignatureId) -> Option<StorePc> {
        self.code.pc(self.code.engine_code().trampoline_offset(direction, signature)?)
    }

    /// All that are registered, by index.
    pub(super) fn modules(self) -> impl Iterator<Item = ModuleWithCode<'s>> {
        (0..self.code.engine_code().module_count()).filter_map(move |index| self.module(ModuleIndex::new(index)))
    }
}

impl Image {
    fn as_ref(&self) -> ImageRef<'_> {
        let code = StoreCode::new(&self.code, self.private.as_deref());
        ImageRef { code, registered: Modules::Some(&self.registered) }
    }

    /// Registers the module at `module`, and brings its breakpoints into force.
    fn register(&mut self, module: ModuleIndex, breakpoints: &Breakpoints) -> Result<(), StoreError> {
        if let Some(copy) = &mut self.private {
            let view = Module::of(&self.code, module);
            let applied = if self.registered.has(module) {
                breakpoints.apply(copy, view)
            } else {
                // An earlier attempt may have left something behind that was not taken back.
                breakpoints.apply_all(copy, view)
            };
            applied.map_err(StoreError::Patch)?;
        }
        self.registered.add(module);
        Ok(())
    }
}

impl Many {
    pub(super) fn new() -> Self {
        Many { images: Vec::new(), by_id: Vec::new(), by_base: Vec::new(), breakpoints: Breakpoints::new() }
    }

    /// As [`ModuleRegistry::register_module`](super::registry::ModuleRegistry::register_module), or as
    /// [`register_code`](super::registry::ModuleRegistry::register_code) if there is no module.
    #[inline]
    pub(super) fn register(
        &mut self,
        code: &EngineCode,
        module: Option<ModuleIndex>,
        private: bool,
    ) -> Result<(), StoreError> {
        if let Some(slot) = self.slot_of(code) {
            let Some(module) = module else { return Ok(()) };
            return self.images[slot].register(module, &self.breakpoints);
        }
        let no_memory = StoreError::no_memory_for(code);
        self.reserve().map_err(&no_memory)?;
        let registered = Registered::new(code.module_count(), module).map_err(no_memory)?;
        let mut copy = if private { PrivateCode::copy(code)? } else { None };
        if let (Some(module), Some(copy)) = (module, &mut copy) {
            self.breakpoints.apply(copy, Module::of(code, module)).map_err(StoreError::Patch)?;
        }
        self.insert(code.clone(), copy, registered);
        Ok(())
    }

    /// Registers the module at `module` of the image `id`, if that is the one that was registered last, as the image of
    /// a component's modules is.
    ///
    /// Not in a store that executes copies: it has breakpoints to show.
    #[inline]
    pub(super) fn add_to_last(&mut self, id: ModuleId, module: ModuleIndex) -> bool {
        let last = self.images.last_mut().filter(|last| last.id == id);
        last.map(|last| last.registered.add(module)).is_some()
    }

    /// Makes room for one more image.
    #[inline]
    pub(super) fn reserve(&mut self) -> Result<(), OutOfMemory> {
        let images = self.images.len() + 1;
        allocate::reserve(&mut self.images, if images == 1 { FEW } else { 1 })?;
        if images > FEW {
            let unsorted = images - self.by_id.len();
            allocate::reserve(&mut self.by_id, unsorted)?;
            allocate::reserve(&mut self.by_base, unsorted)?;
        }
        Ok(())
    }

    /// [There is room](Self::reserve), and the image is new.
    #[inline(always)]
    pub(super) fn insert(&mut self, code: EngineCode, private: Option<Box<PrivateCode>>, registered: Registered) {
        let text = StoreCode::new(&code, private.as_deref()).text_range();
        allocate::push_reserved(&mut self.images, Image { id: code.id(), text, code, private, registered });
        if self.images.len() > FEW {
            self.sort_new();
        }
    }

    /// Sorts the last image in: all of them, the first time.
    #[inline(never)]
    fn sort_new(&mut self) {
        for slot in self.by_id.len()..self.images.len() {
            let Image { id, text, .. } = &self.images[slot];
            // As many images as a `u32` cannot number take 256 GiB.
            let place = slot as u32;
            self.by_id.insert(self.up_to_id(*id), place);
            if !text.is_empty() {
                self.by_base.insert(self.up_to_base(text.start), place);
            }
        }
    }

    /// How many images have this id or a smaller one, if all are sorted.
    fn up_to_id(&self, id: ModuleId) -> usize {
        let is_up_to = |slot: &u32| self.images[*slot as usize].id <= id;
        // Mostly images are registered in the order in which they were loaded.
        if self.by_id.last().is_some_and(is_up_to) { self.by_id.len() } else { self.by_id.partition_point(is_up_to) }
    }

    /// How many images with text begin at `pc` or before, if all are sorted.
    fn up_to_base(&self, pc: StorePc) -> usize {
        self.by_base.partition_point(|slot| self.images[*slot as usize].text.start <= pc)
    }

    /// The place of the image with the largest id that is not larger than `id`: if `id` names an image that is here, or
    /// a module of one, then that image.
    #[inline]
    fn slot_by_id(&self, id: ModuleId) -> Option<usize> {
        if self.images.len() > FEW {
            return Some(self.by_id[self.up_to_id(id).checked_sub(1)?] as usize);
        }
        let ids = self.images.iter().map(|image| image.id).enumerate();
        Some(ids.filter(|(_, image)| *image <= id).max_by_key(|(_, image)| *image)?.0)
    }

    /// The place of the image `code`.
    #[inline]
    fn slot_of(&self, code: &EngineCode) -> Option<usize> {
        if self.images.len() > FEW {
            return self.slot_by_id(code.id()).filter(|slot| self.images[*slot].id == code.id());
        }
        self.images.iter().position(|image| image.id == code.id())
    }

    #[inline]
    fn slot_by_pc(&self, pc: StorePc) -> Option<usize> {
        if self.images.len() > FEW {
            let slot = self.by_base[self.up_to_base(pc).checked_sub(1)?] as usize;
            return self.images[slot].text.contains(&pc).then_some(slot);
        }
        self.images.iter().position(|image| image.text.contains(&pc))
    }

    pub(super) fn images(&self) -> impl Iterator<Item = ImageRef<'_>> {
        self.images.iter().map(Image::as_ref)
    }

    /// The image that `id` names or a module of which it names, or, if that is not here, perhaps another one.
    pub(super) fn image_by_id(&self, id: ModuleId) -> Option<ImageRef<'_>> {
        Some(self.images[self.slot_by_id(id)?].as_ref())
    }

    #[inline]
    pub(super) fn image_by_pc(&self, pc: StorePc) -> Option<ImageRef<'_>> {
        Some(self.images[self.slot_by_pc(pc)?].as_ref())
    }

    pub(super) fn code_mut(&mut self, pc: StorePc) -> Option<StoreCodeMut<'_>> {
        let slot = self.slot_by_pc(pc)?;
        let image = &mut self.images[slot];
        Some(StoreCodeMut::new(&image.code, image.private.as_deref_mut()))
    }

    /// The module `id`, if it is registered, and the copy that the store executes.
    pub(super) fn module_and_copy(&mut self, id: ModuleId) -> Option<(Module<'_>, &mut PrivateCode)> {
        let slot = self.slot_by_id(id)?;
        let image = &mut self.images[slot];
        let index = id.index_in(image.id).filter(|index| image.registered.has(*index))?;
        Some((Module::of(&image.code, index), image.private.as_deref_mut()?))
    }

    /// Calls `f` with every module that the store executes a copy of, and the copy, until it fails.
    pub(super) fn for_each_copied<E>(
        &mut self,
        mut f: impl FnMut(Module<'_>, &mut PrivateCode, &Breakpoints) -> Result<(), E>,
    ) -> Result<(), E> {
        for Image { code, private, registered, .. } in &mut self.images {
            let Some(private) = private else { continue };
            for module in code.modules().filter(|module| registered.has(module.static_index())) {
                f(module, private, &self.breakpoints)?;
            }
        }
        Ok(())
    }
}
