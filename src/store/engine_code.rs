//! The canonical copy of compiled code, loaded into an engine.

use std::alloc::Layout;
use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::engine::{Engine, EngineId, SignatureId, unique_ids};
use super::error::LoadError;
use super::module::{Module, ModuleId};
use super::pc::{EnginePc, StorePc};
use super::striped::Striped;
use crate::allocate;
use crate::image::{FunctionKey, FunctionTable, Image, ModuleIndex, Patch, SignatureIndex};
use crate::process;

/// An image in an engine: the canonical copy of its text, what the engine knows of it, and the embedder's own data. A
/// handle, cheap to clone from many threads at once.
///
/// Cloning takes constant time; the first clone on a thread allocates a count of its own, and shares its neighbour's if
/// there is no memory. Dropping the last handle unmaps.
///
/// Signal handlers know the text from here on until the last handle is dropped: this one, a clone, or that of a store in
/// which the image or one of its modules is registered, or of an [`OwnedFrame`](crate::store::OwnedFrame).
///
/// # Examples
///
/// ```
/// use trapline::{TrapCode, process};
/// use trapline::image::{Image, ImageBuilder};
/// use trapline::store::{Engine, EngineCode};
///
/// let image = ImageBuilder::new().text([0x0f, 0x0b]).trap(0, TrapCode::Unreachable).finish()?;
/// let code = EngineCode::new(&Engine::new(), Image::parse(&image)?.publish()?)?;
/// let pc = code.text_range().start.as_usize();
/// assert_eq!(process::trap_code(pc), Some(TrapCode::Unreachable));
/// drop(code);
/// assert_eq!(process::trap_code(pc), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EngineCode(Striped<Handle>);

/// What a store needs at once when it registers or looks up, in one cache line of the lane; and the rest.
#[derive(Clone)]
struct Handle {
    engine: EngineId,
    /// Names the image; those that follow name its modules.
    id: ModuleId,
    modules: u32,
    text: Range<usize>,
    image: Arc<Image>,
    loaded: Arc<Loaded>,
}

struct Loaded {
    // The first field to be dropped: handlers miss the code before it goes.
    registration: process::Registration,
    engine: Engine,
    image: Arc<Image>,
    /// The engine's id of each signature of the image.
    signatures: Box<[SignatureId]>,
    trampolines: Box<[Trampoline]>,
    data: Option<Box<dyn Any + Send + Sync>>,
}

/// Which way a trampoline leads that all functions of one type share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Through which the host calls functions of the guest: [`FunctionKey::HostToGuestBySignature`].
    HostToGuest,
    /// Through which the guest calls functions of the host: [`FunctionKey::GuestToHost`].
    GuestToHost,
}

/// Sorted by what they lead to.
struct Trampoline {
    leads: (Direction, SignatureId),
    /// In the text.
    offset: usize,
}

impl EngineCode {
    /// Loads `image`, an [`Image`] or an [`Arc`] of one, into `engine`, and registers its text for the whole process.
    ///
    /// O(f log f) for f functions.
    ///
    /// # Errors
    ///
    /// If the image was compiled with another configuration, if the text at a patch point is not what the patch table
    /// says (relocations must leave it alone), if the text cannot be registered (it may be loaded once at a time), and
    /// if there is no memory. Nothing is loaded then, and `image` is dropped.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates and takes locks.
    pub fn new(engine: &Engine, image: impl Into<Arc<Image>>) -> Result<EngineCode, LoadError> {
        EngineCode::load(engine, image, None)
    }

    /// As [`new`](Self::new), with data of the embedder's own, which lives as long as the code: what a module's exports
    /// are called, its source, whatever a pc should lead to. Give an [`Arc`] to share it.
    ///
    /// `data` must not hold a handle of this code, which would then never be dropped.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). `data` is dropped, too.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates and takes locks.
    ///
    /// # Examples
    ///
    /// Data of each module:
    ///
    /// ```
    /// use trapline::PcKind;
    /// use trapline::image::{Image, ImageBuilder, ModuleIndex};
    /// use trapline::store::{Engine, EngineCode, Module, ModuleRegistry};
    ///
    /// struct Source(&'static str);
    ///
    /// fn source<'c>(module: Module<'c>) -> Option<&'c Source> {
    ///     module.engine_code().data::<Vec<Source>>()?.get(module.static_index().as_u32() as usize)
    /// }
    ///
    /// let image = ImageBuilder::new().text([0x90; 8]).function(0..8, None).finish()?;
    /// let engine = Engine::new();
    /// let mut store = ModuleRegistry::new(&engine);
    /// let code = EngineCode::with_data(&engine, Image::parse(&image)?.publish()?, vec![Source("a.wat")])?;
    /// store.register_module(code.module(ModuleIndex::new(0)).unwrap())?;
    ///
    /// let pc = code.text_range().start.as_usize() + 4;
    /// drop(code);
    /// let (frame, _) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
    /// assert_eq!(source(frame.module()).unwrap().0, "a.wat");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_data<T: Any + Send + Sync>(
        engine: &Engine,
        image: impl Into<Arc<Image>>,
        data: T,
    ) -> Result<EngineCode, LoadError> {
        EngineCode::load(engine, image, Some(allocate::boxed(data)?))
    }

    fn load(
        engine: &Engine,
        image: impl Into<Arc<Image>>,
        data: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<EngineCode, LoadError> {
        // An image that is not in an `Arc` yet is about to be put into one.
        allocate::room_for_arc(Layout::new::<Image>())?;
        let image = image.into();
        if image.configuration() != engine.configuration() {
            return Err(LoadError::ForeignConfiguration {
                image: allocate::copy(image.configuration())?,
                engine: allocate::copy(engine.configuration())?,
            });
        }
        check_patches(&image)?;
        let signatures = Interned { ids: engine.intern(image.signatures())?, engine, image: &image };
        let trampolines = trampolines(image.functions(), &signatures.ids)?;
        let registration = process::register(Arc::clone(&image)).map_err(LoadError::Register)?;
        let signatures = signatures.keep();
        // From here on dropping what there is undoes everything.
        let loaded = allocate::arc(Loaded {
            registration,
            engine: engine.clone(),
            image: Arc::clone(&image),
            signatures,
            trampolines,
            data,
        })?;
        // Modules are numbered with 32 bits.
        let modules = image.modules().len() as u32;
        let handle = Handle {
            engine: engine.id(),
            id: ModuleId::new(unique_ids(1 + u64::from(modules))),
            modules,
            text: image.text_range(),
            image,
            loaded,
        };
        Ok(EngineCode(Striped::new(handle)?))
    }

    /// The engine that the code is loaded into.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.loaded.engine
    }

    #[inline]
    pub(super) fn engine_id(&self) -> EngineId {
        self.0.engine
    }

    /// The image's text and tables.
    #[inline]
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.0.image
    }

    /// The data that the code was [loaded with](Self::with_data), if it was, and if it is a `T`.
    ///
    /// O(1).
    #[must_use]
    pub fn data<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.loaded.data.as_ref()?.downcast_ref()
    }

    /// Names the image as a whole, in the process.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ModuleId {
        self.0.id
    }

    /// The addresses of the text; the end is exclusive. Empty if there is none.
    #[inline]
    #[must_use]
    pub fn text_range(&self) -> Range<EnginePc> {
        EnginePc::range(self.0.text.clone())
    }

    /// The same, as every store has it that executes no copy.
    #[inline]
    pub(super) fn shared_range(&self) -> Range<StorePc> {
        StorePc::range(self.0.text.clone())
    }

    /// The modules compiled into this image, by static index.
    #[inline]
    #[must_use]
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module<'_>> + '_ {
        (0..self.module_count()).map(|index| Module::of(self, ModuleIndex::new(index)))
    }

    /// The module at `index`, if in range.
    #[inline]
    #[must_use]
    pub fn module(&self, index: ModuleIndex) -> Option<Module<'_>> {
        (index.as_u32() < self.module_count()).then(|| Module::of(self, index))
    }

    /// The engine's id of a signature of this image.
    #[must_use]
    pub fn signature_id(&self, signature: SignatureIndex) -> Option<SignatureId> {
        self.0.loaded.signatures.get(signature.as_u32() as usize).copied()
    }

    /// The trampoline that leads in `direction` for functions of type `signature`, if the image has one.
    ///
    /// O(log n).
    #[must_use]
    pub fn trampoline(&self, direction: Direction, signature: SignatureId) -> Option<EnginePc> {
        EnginePc::at(&self.text_range(), self.trampoline_offset(direction, signature)?)
    }

    pub(super) fn trampoline_offset(&self, direction: Direction, signature: SignatureId) -> Option<usize> {
        let trampolines = &self.0.loaded.trampolines;
        let at = trampolines.binary_search_by_key(&(direction, signature), |trampoline| trampoline.leads).ok()?;
        Some(trampolines.get(at)?.offset)
    }

    #[inline]
    pub(super) fn module_count(&self) -> u32 {
        self.0.modules
    }
}

/// Whether both are handles of the same loaded image. An image that is loaded twice is two.
impl PartialEq for EngineCode {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for EngineCode {}

impl Hash for EngineCode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.engine.release(self.image.signatures());
    }
}

/// Signatures that are forgotten again unless they are kept.
struct Interned<'l> {
    ids: Box<[SignatureId]>,
    engine: &'l Engine,
    image: &'l Image,
}

impl Interned<'_> {
    fn keep(mut self) -> Box<[SignatureId]> {
        std::mem::take(&mut self.ids)
    }
}

impl Drop for Interned<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.engine.release(self.image.signatures());
        }
    }
}

/// What is written when a breakpoint is cleared has to be what was there before one was set.
fn check_patches(image: &Image) -> Result<(), LoadError> {
    let is_there = |patch: &Patch<'_>| image.text().get(patch.range()) == Some(patch.disabled());
    match image.patches().iter().find(|patch| !is_there(patch)) {
        Some(patch) => Err(LoadError::PatchNotInText { range: patch.range() }),
        None => Ok(()),
    }
}

fn trampolines(functions: &FunctionTable, signatures: &[SignatureId]) -> Result<Box<[Trampoline]>, LoadError> {
    let all = || {
        functions.iter().filter_map(|function| {
            let (direction, signature) = match function.key() {
                FunctionKey::HostToGuestBySignature { signature } => (Direction::HostToGuest, signature),
                FunctionKey::GuestToHost { signature } => (Direction::GuestToHost, signature),
                _ => return None,
            };
            let signature = *signatures.get(signature.as_u32() as usize)?;
            Some(Trampoline { leads: (direction, signature), offset: function.range().start })
        })
    };
    let mut trampolines = allocate::room(all().count())?;
    trampolines.extend(all());
    trampolines.sort_unstable_by_key(|trampoline: &Trampoline| trampoline.leads);
    Ok(trampolines.into())
}

impl fmt::Debug for EngineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineCode")
            .field("id", &self.id())
            .field("engine", self.engine())
            .field("registration", &self.0.loaded.registration)
            .field("image", &self.0.image)
            .finish_non_exhaustive()
    }
}
