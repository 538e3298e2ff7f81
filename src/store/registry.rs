//! One store's map from pc to its modules.

use std::collections::TryReserveError;
use std::fmt;
use std::mem;

use super::engine::{Engine, EngineId, SignatureId};
use super::engine_code::{Direction, EngineCode};
use super::error::StoreError;
use super::frame::{FrameInfo, OwnedFrame};
use super::many::{ImageRef, Many};
use super::module::{Module, ModuleId, ModuleWithCode};
use super::pc::StorePc;
use super::registered::Registered;
use super::store_code::{StoreCode, StoreCodeMut};
use crate::allocate::{self, OutOfMemory};
use crate::backtrace::Backtrace;
use crate::handler::trap_code::TrapCode;
use crate::handler::walk::PcKind;
use crate::image::ModuleIndex;

/// The modules of one store: keeps them loaded, and says what a program counter of its code stands for.
///
/// An image is registered when its first module is, or as a whole; from then on the store's code for it has a place: the
/// engine's or, in a store with guest debugging, a private copy. Modules of the image are registered one by one: a pc of
/// a module that is not registered stands for nothing yet. What was registered stays until the registry is dropped.
///
/// Made for stores with one module, where registering and looking up neither allocates nor writes a cache line that
/// other stores write, and for stores with thousands: images are sorted by address and by id, and the modules of an image
/// have a bit each. From a store's third module on, registering one of an image that is there counts and allocates nothing.
///
/// # Signal safety
///
/// Not for handlers: nothing here is. They find traps through the process-wide registry, in which all code is.
///
/// # Examples
///
/// ```
/// use trapline::PcKind;
/// use trapline::image::{Image, ImageBuilder, ModuleIndex};
/// use trapline::store::{Engine, EngineCode, ModuleRegistry};
///
/// let image = ImageBuilder::new().text([0x90, 0x0f, 0x0b]).function(0..3, Some("stop")).finish()?;
/// let engine = Engine::new();
/// let code = EngineCode::new(&engine, Image::parse(&image)?.publish()?)?;
///
/// let mut store = ModuleRegistry::new(&engine);
/// let base = store.store_code_base_or_register(code.module(ModuleIndex::new(0)).unwrap())?.unwrap();
/// let (frame, _) = store.lookup_frame_info(base.as_usize() + 1, PcKind::Interrupted).unwrap();
/// assert_eq!(frame.function().name(), Some("stop"));
/// assert_eq!(frame.function_offset(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ModuleRegistry {
    engine: EngineId,
    private_code: bool,
    held: Held,
}

/// All that is registered. The tag has a byte of its own, which is looked at more quickly than what the fields leave free.
#[repr(u8)]
enum Held {
    Nothing,
    /// One module, executed where the engine has it, and nothing else: what most stores hold.
    Solo(EngineCode, ModuleIndex),
    Many(Box<Many>),
}

impl ModuleRegistry {
    /// An empty registry for a store of `engine`, which executes the engine's copy of all code. Allocates nothing.
    #[inline]
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        Self::with_code(engine, false)
    }

    /// An empty registry for a store of `engine` that debugs its guests: it executes copies of its own, which it may
    /// patch.
    #[must_use]
    pub fn with_guest_debugging(engine: &Engine) -> Self {
        Self::with_code(engine, true)
    }

    #[inline]
    fn with_code(engine: &Engine, private_code: bool) -> Self {
        ModuleRegistry { engine: engine.id(), private_code, held: Held::Nothing }
    }

    /// The engine whose code this store executes.
    #[must_use]
    pub fn engine(&self) -> EngineId {
        self.engine
    }

    /// Whether the store executes copies of its own.
    #[must_use]
    pub fn debugs_guests(&self) -> bool {
        self.private_code
    }

    /// Registers `module`, and its image if that is new here.
    ///
    /// If the module is registered already, its breakpoints are brought into force once more.
    ///
    /// O(log i) for i images if the image is there. Otherwise O(i), a move of 8 bytes for each image, a count of the
    /// image's handles, and a copy of the text if the store debugs.
    ///
    /// # Errors
    ///
    /// If the module is another engine's, if there is no memory, and, in a store that debugs, if the text cannot be
    /// copied, registered, or patched. The registry is then as it was before.
    #[inline]
    pub fn register_module(&mut self, module: Module<'_>) -> Result<(), StoreError> {
        let (code, index) = (module.engine_code(), module.static_index());
        // The ways of a store that shares its code, and that are short enough to be inlined.
        if !self.private_code && code.engine_id() == self.engine {
            match &mut self.held {
                Held::Nothing => {
                    // Nothing was held, and nothing is dropped.
                    mem::forget(mem::replace(&mut self.held, Held::Solo(code.clone(), index)));
                    return Ok(());
                }
                Held::Many(many) => {
                    if many.add_to_last(code.id(), index) {
                        return Ok(());
                    }
                }
                Held::Solo(..) => {}
            }
        }
        self.register(code, Some(index))
    }

    /// Registers the image `code` as a whole, so that the store has its code; its modules are registered one by one,
    /// before or after.
    ///
    /// # Errors
    ///
    /// As for [`register_module`](Self::register_module).
    pub fn register_code(&mut self, code: &EngineCode) -> Result<(), StoreError> {
        self.register(code, None)
    }

    #[inline(never)]
    fn register(&mut self, code: &EngineCode, module: Option<ModuleIndex>) -> Result<(), StoreError> {
        self.check_engine(code)?;
        if let Held::Solo(solo, only) = &self.held
            && solo == code
            && module.is_none_or(|module| module == *only)
        {
            return Ok(());
        }
        let private = self.private_code;
        self.many_mut().map_err(StoreError::no_memory_for(code))?.register(code, module, private)
    }

    /// The module `id`, if it is registered here.
    ///
    /// O(log i) for i images.
    #[must_use]
    pub fn module(&self, id: ModuleId) -> Option<ModuleWithCode<'_>> {
        self.image_by_id(id)?.module_by_id(id)
    }

    /// All registered modules: image by image in the order in which those were registered, and by their index in the
    /// image.
    pub fn all_modules(&self) -> impl Iterator<Item = ModuleWithCode<'_>> + '_ {
        self.images().flat_map(ImageRef::modules)
    }

    /// The store's code that `pc` lies in, and the offset of `pc` in its text, in bytes.
    ///
    /// O(log i) for i images.
    #[must_use]
    pub fn store_code_by_pc(&self, pc: usize) -> Option<(StoreCode<'_>, usize)> {
        self.image_by_pc(pc).map(|(image, offset)| (image.code, offset))
    }

    /// The store's code for the image `code`, if that is registered.
    ///
    /// O(log i) for i images.
    #[must_use]
    pub fn store_code(&self, code: &EngineCode) -> Option<StoreCode<'_>> {
        let image = self.image_by_id(code.id())?;
        (image.code.engine_code() == code).then_some(image.code)
    }

    /// Where the store's code for the image of `module` begins; `None` if it has no text. Registers the module if
    /// nothing of its image is registered.
    ///
    /// # Errors
    ///
    /// As for [`register_module`](Self::register_module).
    pub fn store_code_base_or_register(&mut self, module: Module<'_>) -> Result<Option<StorePc>, StoreError> {
        let code = module.engine_code();
        if self.store_code(code).is_none() {
            self.register_module(module)?;
        }
        Ok(self.store_code(code).and_then(StoreCode::base))
    }

    /// The store's code that begins at `base`, to be patched.
    ///
    /// O(log i) for i images.
    ///
    /// # Errors
    ///
    /// If no code of the store begins there.
    pub fn store_code_mut(&mut self, base: StorePc) -> Result<StoreCodeMut<'_>, StoreError> {
        let inside = self.store_code_by_pc(base.as_usize()).map(|(code, _)| code.text_range());
        let starts = inside.as_ref().is_some_and(|text| text.start == base);
        let code = match &mut self.held {
            Held::Solo(solo, _) if starts => Some(StoreCodeMut::new(solo, None)),
            Held::Many(many) if starts => many.code_mut(base),
            _ => None,
        };
        code.ok_or(StoreError::NotABase { pc: base, inside })
    }

    /// The module that the code at `pc` was compiled for: a function that it defines, or the trampoline to one. `None`
    /// for padding, for trampolines that functions share, and if the module is not registered.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_module(&self, pc: usize) -> Option<ModuleWithCode<'_>> {
        let (image, offset) = self.image_by_pc(pc)?;
        image.module(image.code.engine_code().image().functions().by_offset(offset)?.key().module()?)
    }

    /// Why the instruction at `pc` traps, if it is a trap site of this store's code.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_trap_code(&self, pc: usize) -> Option<TrapCode> {
        let (image, offset) = self.image_by_pc(pc)?;
        image.code.engine_code().image().trap_code(offset)
    }

    /// The frame of a backtrace that `pc` stands for, and its module with the store's code for it.
    ///
    /// `None` if `pc` is not in a function of a registered module: in a trampoline, in padding, in a module that is not
    /// registered (yet), in other code.
    ///
    /// O(log n).
    #[inline]
    #[must_use]
    pub fn lookup_frame_info(&self, pc: usize, kind: PcKind) -> Option<(FrameInfo<'_>, ModuleWithCode<'_>)> {
        let (image, offset) = self.image_by_pc(kind.instruction(pc))?;
        let frame = FrameInfo::at(image.code.engine_code(), offset)?;
        let module = image.module(frame.module().static_index())?;
        Some((frame, module))
    }

    /// What each of [`Backtrace::pcs`] stands for, in their order: see
    /// [`lookup_frame_info`](Self::lookup_frame_info).
    #[must_use]
    pub fn resolve<'s, const N: usize>(
        &'s self,
        backtrace: &'s Backtrace<N>,
    ) -> impl ExactSizeIterator<Item = Option<(FrameInfo<'s>, ModuleWithCode<'s>)>> + 's {
        backtrace.pcs().map(|(pc, kind)| self.lookup_frame_info(pc, kind))
    }

    /// The same, to be kept after the store is gone: in an error, for instance.
    ///
    /// # Errors
    ///
    /// If there is no memory for the list.
    pub fn resolve_owned<const N: usize>(
        &self,
        backtrace: &Backtrace<N>,
    ) -> Result<Vec<Option<OwnedFrame>>, TryReserveError> {
        let mut frames = Vec::new();
        frames.try_reserve_exact(backtrace.len())?;
        frames.extend(self.resolve(backtrace).map(|frame| Some(frame?.0.into_owned())));
        Ok(frames)
    }

    /// The trampoline of the image that `pc` lies in that leads in `direction` for functions of type `signature`.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_trampoline(&self, pc: usize, direction: Direction, signature: SignatureId) -> Option<StorePc> {
        self.image_by_pc(pc)?.0.trampoline(direction, signature)
    }

    /// A trampoline that leads in `direction` for functions of type `signature`: that of the image with one that was
    /// registered first.
    ///
    /// O(i log s) for i images with s such trampolines each.
    #[must_use]
    pub fn trampoline(&self, direction: Direction, signature: SignatureId) -> Option<StorePc> {
        self.images().find_map(|image| image.trampoline(direction, signature))
    }

    fn solo(&self) -> Option<ImageRef<'_>> {
        match &self.held {
            Held::Solo(code, module) => Some(ImageRef::solo(code, *module)),
            _ => None,
        }
    }

    pub(super) fn many(&self) -> Option<&Many> {
        match &self.held {
            Held::Many(many) => Some(many),
            _ => None,
        }
    }

    /// What is registered, if it is ready for more.
    pub(super) fn held_many(&mut self) -> Option<&mut Many> {
        match &mut self.held {
            Held::Many(many) => Some(many),
            _ => None,
        }
    }

    /// What is registered, ready for more.
    #[inline]
    pub(super) fn many_mut(&mut self) -> Result<&mut Many, OutOfMemory> {
        if !matches!(self.held, Held::Many(_)) {
            self.make_many()?;
        }
        match &mut self.held {
            Held::Many(many) => Ok(many),
            _ => unreachable!("made above"),
        }
    }

    #[inline(never)]
    fn make_many(&mut self) -> Result<(), OutOfMemory> {
        let mut many = allocate::boxed(Many::new())?;
        let registered = match &self.held {
            Held::Solo(code, module) => Some(Registered::new(code.module_count(), Some(*module))?),
            _ => None,
        };
        many.reserve()?;
        if let (Held::Solo(code, _), Some(registered)) = (mem::replace(&mut self.held, Held::Nothing), registered) {
            many.insert(code, None, registered);
        }
        self.held = Held::Many(many);
        Ok(())
    }

    fn images(&self) -> impl Iterator<Item = ImageRef<'_>> {
        self.solo().into_iter().chain(self.many().into_iter().flat_map(Many::images))
    }

    /// The image that `id` names or a module of which it names, or, if that is not here, perhaps another one.
    fn image_by_id(&self, id: ModuleId) -> Option<ImageRef<'_>> {
        self.solo().or_else(|| self.many()?.image_by_id(id))
    }

    /// The image that `pc` lies in, and the offset in its text.
    #[inline]
    fn image_by_pc(&self, pc: usize) -> Option<(ImageRef<'_>, usize)> {
        let pc = StorePc::new(pc);
        let image = match &self.held {
            Held::Solo(code, module) => ImageRef::solo(code, *module),
            _ => self.many()?.image_by_pc(pc)?,
        };
        Some((image, pc.offset_in(&image.code.text_range())?))
    }

    pub(super) fn check_engine(&self, code: &EngineCode) -> Result<(), StoreError> {
        let engine = code.engine_id();
        if engine == self.engine {
            return Ok(());
        }
        Err(StoreError::ForeignEngine { text: code.text_range(), code: engine, store: self.engine })
    }
}

impl fmt::Debug for ModuleRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleRegistry")
            .field("engine", &self.engine)
            .field("code", &self.images().map(|image| image.code).collect::<Vec<_>>())
            .field("modules", &self.all_modules().map(|module| module.id()).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
