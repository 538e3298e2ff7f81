//! The canonical copy of compiled code, loaded into an engine.

use std::alloc::Layout;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::engine::{Engine, EngineId, SignatureId, unique_ids};
use super::error::LoadError;
use super::module::{Module, ModuleId};
use super::pc::EnginePc;
use super::store_code::StoreCode;
use super::striped::Striped;
use crate::allocate;
use crate::image::{FunctionKey, FunctionTable, Image, ModuleIndex, Patch, SignatureIndex};
use crate::process::{self};

/// An image in an engine: the canonical copy of its text, and what the engine knows of it. A handle, cheap to clone
/// from many threads at once.
///
/// Cloning takes constant time; the first clone on a thread allocates a count of its own, and shares its neighbour's if
/// there is no memory. Dropping the last handle unmaps. None of it is for signal handlers.
///
/// The text is known to signal handlers from here on, until the last handle is dropped: this one, a clone, a
/// [`Module`] or [`Component`](crate::store::Component) of it, or a store in which one of these is registered.
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
struct Handle {
    engine: EngineId,
    /// Names the image; those that follow name its modules.
    id: ModuleId,
    /// The text, for all stores that have no copy.
    shared: StoreCode,
    memory: Arc<Image>,
    loaded: Arc<Loaded>,
}

/// For another lane.
impl Clone for Handle {
    fn clone(&self) -> Self {
        let Handle { engine, id, ref memory, ref loaded, .. } = *self;
        let shared = StoreCode::shared(memory.text_range());
        Handle { engine, id, shared, memory: Arc::clone(memory), loaded: Arc::clone(loaded) }
    }
}

struct Loaded {
    // The first field to be dropped: handlers miss the code before it goes.
    registration: process::Registration,
    engine: Engine,
    memory: Arc<Image>,
    /// The engine's id of each signature of the image.
    signatures: Box<[SignatureId]>,
    /// By ascending id: the trampoline's offset in the text.
    guest_to_host: Box<[(SignatureId, usize)]>,
}

impl EngineCode {
    /// Loads `memory`, a [`Image`] or an [`Arc`] of one, into `engine`, and registers its text for the whole
    /// process.
    ///
    /// O(f log f) for f functions.
    ///
    /// # Errors
    ///
    /// If the image was compiled with another configuration, if the text at a patch point is not what the patch table
    /// says (relocations must leave it alone), if the text cannot be registered (it may be loaded once at a time), and
    /// if there is no memory. Nothing is loaded then, and `memory` is dropped.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates and takes locks.
    pub fn new(engine: &Engine, memory: impl Into<Arc<Image>>) -> Result<EngineCode, LoadError> {
        // A memory that is not in an `Arc` yet is about to be put into one.
        allocate::room_for_arc(Layout::new::<Image>())?;
        let memory = memory.into();
        if memory.configuration() != engine.configuration() {
            return Err(LoadError::ForeignConfiguration {
                image: allocate::copy(memory.configuration())?,
                engine: allocate::copy(engine.configuration())?,
            });
        }
        check_patches(&memory)?;
        let signatures = Interned { ids: engine.intern(memory.signatures())?, engine, memory: &memory };
        let guest_to_host = guest_to_host(memory.functions(), &signatures.ids)?;
        let registration = process::register(Arc::clone(&memory)).map_err(LoadError::Register)?;
        let signatures = signatures.keep();
        // From here on dropping what there is undoes everything.
        let loaded = allocate::arc(Loaded {
            registration,
            engine: engine.clone(),
            memory: Arc::clone(&memory),
            signatures,
            guest_to_host,
        })?;
        let handle = Handle {
            engine: engine.id(),
            id: ModuleId::new(unique_ids(1 + memory.modules().len() as u64)),
            shared: StoreCode::shared(memory.text_range()),
            memory,
            loaded,
        };
        Ok(EngineCode(Striped::new(handle)?))
    }

    /// The engine it is loaded into.
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
        &self.0.memory
    }

    /// What each part of the text is.
    #[inline]
    #[must_use]
    pub fn functions(&self) -> &FunctionTable {
        self.0.memory.functions()
    }

    /// The addresses of the text; the end is exclusive. Empty if there is none.
    #[inline]
    #[must_use]
    pub fn text_range(&self) -> Range<EnginePc> {
        let text = self.0.shared.text_range();
        EnginePc::range(text.start.as_usize()..text.end.as_usize())
    }

    /// The text as every store executes it that has no copy.
    #[inline]
    pub(super) fn shared(&self) -> &StoreCode {
        &self.0.shared
    }

    /// The modules compiled into this image, by static index.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module> + '_ {
        (0..self.module_count()).map(|index| Module::of(self.clone(), ModuleIndex::new(index)))
    }

    /// The module at `index`, if the image has so many.
    #[must_use]
    pub fn module(&self, index: ModuleIndex) -> Option<Module> {
        (index.as_u32() < self.module_count()).then(|| Module::of(self.clone(), index))
    }

    /// The engine's id of a signature of this image.
    #[must_use]
    pub fn signature_id(&self, signature: SignatureIndex) -> Option<SignatureId> {
        self.0.loaded.signatures.get(signature.as_u32() as usize).copied()
    }

    /// Where guest code enters to call host functions of type `signature`, if the image has a trampoline for it.
    ///
    /// O(log n).
    #[must_use]
    pub fn guest_to_host_trampoline(&self, signature: SignatureId) -> Option<EnginePc> {
        EnginePc::at(&self.text_range(), self.guest_to_host_offset(signature)?)
    }

    pub(super) fn guest_to_host_offset(&self, signature: SignatureId) -> Option<usize> {
        let trampolines = &self.0.loaded.guest_to_host;
        let at = trampolines.binary_search_by_key(&signature, |(id, _)| *id).ok()?;
        Some(trampolines.get(at)?.1)
    }

    /// The types that the image has such trampolines for.
    pub(super) fn guest_to_host_signatures(&self) -> impl ExactSizeIterator<Item = SignatureId> + '_ {
        self.0.loaded.guest_to_host.iter().map(|(id, _)| *id)
    }

    /// Names the image as a whole.
    #[inline]
    pub(super) fn id(&self) -> ModuleId {
        self.0.id
    }

    pub(super) fn module_count(&self) -> u32 {
        self.0.memory.modules().len() as u32
    }
}

/// Whether both are handles of the same loaded image. An image that is loaded twice is two.
impl PartialEq for EngineCode {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for EngineCode {}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.engine.release(self.memory.signatures());
    }
}

/// Signatures that are forgotten again unless they are kept.
struct Interned<'l> {
    ids: Box<[SignatureId]>,
    engine: &'l Engine,
    memory: &'l Image,
}

impl Interned<'_> {
    fn keep(mut self) -> Box<[SignatureId]> {
        std::mem::take(&mut self.ids)
    }
}

impl Drop for Interned<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.engine.release(self.memory.signatures());
        }
    }
}

/// What is written when a breakpoint is cleared has to be what was there before one was set.
fn check_patches(memory: &Image) -> Result<(), LoadError> {
    let is_there = |patch: &Patch<'_>| {
        let range = patch.range();
        memory.text().get(range) == Some(patch.disabled())
    };
    match memory.patches().iter().find(|patch| !is_there(patch)) {
        Some(patch) => Err(LoadError::PatchNotInText { range: patch.range() }),
        None => Ok(()),
    }
}

fn guest_to_host(
    functions: &FunctionTable,
    signatures: &[SignatureId],
) -> Result<Box<[(SignatureId, usize)]>, LoadError> {
    let offsets = || {
        functions.iter().filter_map(|function| match function.key() {
            FunctionKey::GuestToHost { signature } => {
                Some((*signatures.get(signature.as_u32() as usize)?, function.range().start))
            }
            _ => None,
        })
    };
    let mut trampolines = allocate::room(offsets().count())?;
    trampolines.extend(offsets());
    trampolines.sort_unstable();
    Ok(trampolines.into())
}

impl fmt::Debug for EngineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineCode")
            .field("id", &self.id())
            .field("engine", self.engine())
            .field("registration", &self.0.loaded.registration)
            .field("memory", &self.0.memory)
            .finish()
    }
}
