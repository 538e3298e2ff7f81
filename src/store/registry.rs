//! One store's map from pc to its modules.

use std::fmt;
use std::mem;

use super::engine::{Engine, EngineId, SignatureId};
use super::engine_code::EngineCode;
use super::error::StoreError;
use super::frame::FrameInfo;
use super::many::{ImageRef, Many};
use super::module::Component;
use super::module::{Module, ModuleId};
use super::pc::StorePc;
use super::store_code::{ModuleWithCode, StoreCode, StoreCodeMut};
use crate::allocate::{self, OutOfMemory};
use crate::backtrace::Backtrace;
use crate::handler::trap_code::TrapCode;
use crate::handler::walk::PcKind;
use crate::image::{FunctionKey, ModuleIndex};

/// The modules of one store: keeps them loaded, and says what a program counter of its code stands for.
///
/// ```text
///  ModuleRegistry
///    |   |
///    |   +--- images: the StoreCode, where this store executes it, and through whom it stays loaded:
///    |                its first Module, or the Component
///    +------- Modules, by id
/// ```
///
/// An image is registered when its first module is, or its component; from then on the store's code for it has a place,
/// the engine's or, in a store with guest debugging, a private copy. Modules of the image are registered one by one: a
/// pc of a module that is not registered stands for nothing yet. What was registered stays until the registry is
/// dropped.
///
/// Made for stores with one module, where registering and looking up neither allocates nor writes a cache line that
/// other stores write, and for stores with thousands: code is then found through the process-wide registry, and all
/// else through hash maps.
///
/// Nothing here is for signal handlers. They find traps through the process-wide registry, in which all code is.
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
/// let module = code.module(ModuleIndex::new(0)).unwrap();
///
/// let mut store = ModuleRegistry::new(&engine);
/// let base = store.store_code_base_or_register(&module)?.unwrap();
/// let (frame, _) = store.lookup_frame_info(base.as_usize() + 1, PcKind::Interrupted).unwrap();
/// assert_eq!(frame.function_name(), Some("stop"));
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
    Solo(Module),
    Many(Box<Many>),
}

/// Names a module in a store that it was registered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisteredModuleId(ModuleId);

impl RegisteredModuleId {
    /// The module's name in the process.
    #[must_use]
    pub fn compiled_id(self) -> ModuleId {
        self.0
    }
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
    /// A module that is registered already is not registered again; `module` is dropped, and breakpoints are brought
    /// into force once more. Amortised O(1) for a module, O(s) more for s signatures if the image is new, and a copy of
    /// the text if the store debugs.
    ///
    /// # Errors
    ///
    /// If the module is another engine's, if there is no memory, and, in a store that debugs, if the text cannot be
    /// copied, registered, or patched. `module` is dropped then.
    #[inline]
    pub fn register_module(&mut self, module: Module) -> Result<RegisteredModuleId, StoreError> {
        let id = RegisteredModuleId(module.id());
        match self.held {
            Held::Nothing if !self.private_code && module.engine_code().engine_id() == self.engine => {
                // Nothing was held, and nothing is dropped.
                mem::forget(mem::replace(&mut self.held, Held::Solo(module)));
            }
            _ => self.register_another(module)?,
        }
        Ok(id)
    }

    #[inline(never)]
    fn register_another(&mut self, module: Module) -> Result<(), StoreError> {
        self.check_engine(module.engine_code())?;
        if let Held::Solo(solo) = &self.held
            && solo.id() == module.id()
        {
            return Ok(());
        }
        let private = self.private_code;
        self.many_mut().map_err(StoreError::no_memory_for(module.engine_code()))?.register_module(module, private)
    }

    /// Registers the image of `component`, so that the store has its code; its modules are registered one by one,
    /// before or after.
    ///
    /// # Errors
    ///
    /// As [`register_module`](Self::register_module).
    pub fn register_component(&mut self, component: Component) -> Result<(), StoreError> {
        let code = component.engine_code();
        self.check_engine(code)?;
        if self.image(code).is_some() {
            return Ok(());
        }
        let private = self.private_code;
        self.many_mut().map_err(StoreError::no_memory_for(code))?.register_component(component, private)
    }

    /// The module that was registered as `id`, if it is registered here.
    ///
    /// O(1).
    #[must_use]
    pub fn module_by_id(&self, id: RegisteredModuleId) -> Option<&Module> {
        self.module_by_compiled_id(id.0)
    }

    /// The module `id`, if it is registered here.
    ///
    /// O(1).
    #[must_use]
    pub fn module_by_compiled_id(&self, id: ModuleId) -> Option<&Module> {
        match &self.held {
            Held::Solo(solo) => (solo.id() == id).then_some(solo),
            _ => self.many()?.module(id),
        }
    }

    /// All registered modules, in the order of their registration.
    pub fn all_modules(&self) -> impl Iterator<Item = &Module> + '_ {
        self.solo().into_iter().chain(self.many().into_iter().flat_map(Many::modules))
    }

    /// The store's code that `pc` lies in, and the offset of `pc` in its text, in bytes.
    ///
    /// O(log n).
    #[must_use]
    pub fn store_code_by_pc(&self, pc: usize) -> Option<(&StoreCode, usize)> {
        self.image_by_pc(pc).map(|(image, offset)| (image.code, offset))
    }

    /// The store's code for the image `code`, if that is registered.
    ///
    /// O(1).
    #[must_use]
    pub fn store_code(&self, code: &EngineCode) -> Option<&StoreCode> {
        self.image(code).map(|image| image.code)
    }

    /// Where the store's code for the image `code` begins, if that is registered and has text.
    ///
    /// O(1).
    #[must_use]
    pub fn store_code_base(&self, code: &EngineCode) -> Option<StorePc> {
        self.store_code(code)?.base()
    }

    /// Where the store's code for the image of `module` begins; `None` if it has no text. Registers the module if
    /// nothing of its image is registered.
    ///
    /// # Errors
    ///
    /// As [`register_module`](Self::register_module).
    pub fn store_code_base_or_register(&mut self, module: &Module) -> Result<Option<StorePc>, StoreError> {
        let code = module.engine_code();
        if self.image(code).is_none() {
            self.register_module(module.clone())?;
        }
        Ok(self.store_code_base(code))
    }

    /// The store's code that begins at `base`, to be patched.
    ///
    /// O(log n).
    ///
    /// # Errors
    ///
    /// If no code of the store begins there.
    pub fn store_code_mut(&mut self, base: StorePc) -> Result<StoreCodeMut<'_>, StoreError> {
        let inside = self.store_code_by_pc(base.as_usize()).map(|(code, _)| code.text_range());
        let code = match &inside {
            Some(text) if text.start != base => None,
            // Copies, all of them.
            _ if self.private_code => {
                self.held_many().and_then(|many| many.copy_by_base(base)).map(StoreCodeMut::private)
            }
            _ => self.store_code_by_pc(base.as_usize()).map(|(code, _)| StoreCodeMut::shared(code)),
        };
        code.ok_or(StoreError::NotABase { pc: base, inside })
    }

    /// The module that the code at `pc` was compiled for: a function that it defines, or the trampoline to one. `None`
    /// for padding, for trampolines that several modules share, and if the module is not registered.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_module(&self, pc: usize) -> Option<&Module> {
        let (image, _) = self.image_by_pc(pc)?;
        let (function, _) = image.function(pc)?;
        match function.key() {
            FunctionKey::Defined { module, .. } | FunctionKey::HostToGuest { module, .. } => {
                self.module_of(image, module)
            }
            _ => None,
        }
    }

    /// Why the instruction at `pc` traps, if it is a trap site of this store's code.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_trap_code(&self, pc: usize) -> Option<TrapCode> {
        let (image, offset) = self.image_by_pc(pc)?;
        image.engine_code.image().trap_code(offset)
    }

    /// The frame of a backtrace that `pc` stands for, and its module with the store's code for it.
    ///
    /// `None` if `pc` is not in a function of a registered module: in a trampoline, in padding, in a module of a
    /// component that is not registered (yet), in other code; or more than 32 bits behind the start of its text.
    ///
    /// O(log n).
    #[inline]
    #[must_use]
    pub fn lookup_frame_info(&self, pc: usize, kind: PcKind) -> Option<(FrameInfo<'_>, ModuleWithCode<'_>)> {
        let pc = kind.instruction(pc);
        match &self.held {
            Held::Solo(solo) => {
                let image = ImageRef::shared(solo.engine_code());
                image.frame(pc, |index| (solo.static_index() == index).then_some(solo))
            }
            _ => self.many()?.frame(pc),
        }
    }

    /// What each of [`Backtrace::pcs`] stands for, in their order: see
    /// [`lookup_frame_info`](Self::lookup_frame_info).
    pub fn resolve<'s, const N: usize>(
        &'s self,
        backtrace: &'s Backtrace<N>,
    ) -> impl Iterator<Item = Option<(FrameInfo<'s>, ModuleWithCode<'s>)>> + 's {
        backtrace.pcs().map(|(pc, kind)| self.lookup_frame_info(pc, kind))
    }

    /// Where guest code of the image that `pc` lies in enters to call host functions of type `signature`.
    ///
    /// O(log n).
    #[must_use]
    pub fn lookup_trampoline(&self, pc: usize, signature: SignatureId) -> Option<StorePc> {
        trampoline(self.image_by_pc(pc)?.0, signature)
    }

    /// Where guest code enters to call host functions of type `signature`: a trampoline of any registered image, be it
    /// through a module or as a component.
    ///
    /// O(log n).
    #[must_use]
    pub fn guest_to_host_trampoline(&self, signature: SignatureId) -> Option<StorePc> {
        let image = match &self.held {
            Held::Solo(solo) => ImageRef::shared(solo.engine_code()),
            _ => self.many()?.image_by_signature(signature)?,
        };
        trampoline(image, signature)
    }

    /// `module`, if registered, with the store's code for it.
    ///
    /// O(1).
    #[must_use]
    pub fn module_with_code(&self, id: RegisteredModuleId) -> Option<ModuleWithCode<'_>> {
        let module = self.module_by_id(id)?;
        Some(ModuleWithCode::new(module, self.store_code(module.engine_code())?))
    }

    fn codes(&self) -> impl Iterator<Item = &StoreCode> {
        let solo = self.solo().map(|solo| solo.engine_code().shared());
        solo.into_iter().chain(self.many().into_iter().flat_map(Many::codes))
    }

    fn solo(&self) -> Option<&Module> {
        match &self.held {
            Held::Solo(solo) => Some(solo),
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
    pub(super) fn many_mut(&mut self) -> Result<&mut Many, OutOfMemory> {
        if !matches!(self.held, Held::Many(_)) {
            let mut many = allocate::boxed(Many::new())?;
            if let Held::Solo(solo) = &self.held {
                many.reserve(solo.engine_code())?;
            }
            if let Held::Solo(solo) = mem::replace(&mut self.held, Held::Nothing) {
                many.adopt(solo);
            }
            self.held = Held::Many(many);
        }
        match &mut self.held {
            Held::Many(many) => Ok(many),
            _ => unreachable!("made above"),
        }
    }

    fn image(&self, code: &EngineCode) -> Option<ImageRef<'_>> {
        match &self.held {
            Held::Solo(solo) => (solo.engine_code() == code).then(|| ImageRef::shared(solo.engine_code())),
            _ => self.many()?.image(code.id()),
        }
    }

    fn image_by_pc(&self, pc: usize) -> Option<(ImageRef<'_>, usize)> {
        let image = match &self.held {
            Held::Solo(solo) => ImageRef::shared(solo.engine_code()),
            _ => self.many()?.image_by_pc(pc)?,
        };
        Some((image, StorePc::new(pc).offset_in(&image.code.text_range())?))
    }

    /// The module at `index` of the image, if it is registered.
    fn module_of(&self, image: ImageRef<'_>, index: ModuleIndex) -> Option<&Module> {
        self.module_by_compiled_id(image.engine_code.id().module(index))
    }

    pub(super) fn check_engine(&self, code: &EngineCode) -> Result<(), StoreError> {
        let engine = code.engine_id();
        if engine == self.engine {
            return Ok(());
        }
        Err(StoreError::ForeignEngine { text: code.text_range(), code: engine, store: self.engine })
    }
}

fn trampoline(image: ImageRef<'_>, signature: SignatureId) -> Option<StorePc> {
    image.code.pc(image.engine_code.guest_to_host_offset(signature)?)
}

impl fmt::Debug for ModuleRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleRegistry")
            .field("engine", &self.engine)
            .field("code", &self.codes().collect::<Vec<_>>())
            .field("modules", &self.all_modules().map(Module::id).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
