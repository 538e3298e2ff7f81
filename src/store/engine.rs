//! What code is loaded into: an identity, a configuration, and ids for types.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::error::LoadError;
use crate::allocate;
use crate::image::SignatureTable;
use crate::sync::unmodelled::AtomicU64;
use crate::sync::{Lock, Ordering};

/// What code is loaded into, and stores run on. A handle, cheap to clone.
///
/// Code of one engine does not run in stores of another. [`SignatureId`]s are an engine's own, and so is the
/// configuration: bytes in which the embedder writes down what its compiler was told. Images compiled with another
/// configuration are refused.
///
/// # Examples
///
/// ```
/// use trapline::image::{Image, ImageBuilder};
/// use trapline::store::{Engine, EngineCode};
///
/// let image = ImageBuilder::new().configuration("fuel").finish()?;
/// let engine = Engine::with_configuration("no fuel");
/// let error = EngineCode::new(&engine, Image::parse(&image)?.publish()?).unwrap_err();
/// assert!(error.to_string().contains("configuration"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    id: EngineId,
    configuration: Box<[u8]>,
    signatures: Lock<Signatures>,
}

/// Names an engine, for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineId(NonZeroU64);

impl EngineId {
    /// The number that the id stands for.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }
}

/// A function type, the same in all code of one engine: equal ids are equal types.
///
/// An id is never reused for another type, in this or any other engine, even if all code that has the type is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignatureId(u32);

impl SignatureId {
    /// The number that the id stands for: small, from 0.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    fn unique() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: no partner, only that numbers differ matters. Sixty-four bits do not run out.
        u32::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).ok().map(SignatureId)
    }
}

impl fmt::Display for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}", self.0)
    }
}

/// The function types of an engine's code, by their encodings.
#[derive(Default)]
struct Signatures {
    known: HashMap<Box<[u8]>, Signature>,
}

struct Signature {
    id: SignatureId,
    /// How many images have it.
    uses: usize,
}

impl Engine {
    /// An engine for code without configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::with_configuration([])
    }

    /// An engine for code that was compiled with `configuration`, as
    /// [`ImageBuilder::configuration`](crate::image::ImageBuilder::configuration) stores it.
    #[must_use]
    pub fn with_configuration(configuration: impl Into<Vec<u8>>) -> Self {
        Engine(Arc::new(Inner {
            id: EngineId(unique_ids(1)),
            configuration: configuration.into().into(),
            signatures: Lock::new(Signatures::default()),
        }))
    }

    /// Names this engine.
    #[inline]
    #[must_use]
    pub fn id(&self) -> EngineId {
        self.0.id
    }

    /// What the code of this engine was compiled with.
    #[must_use]
    pub fn configuration(&self) -> &[u8] {
        &self.0.configuration
    }

    /// The id of the function type that is encoded as `signature`, if any code of this engine has it.
    ///
    /// O(1). `None`, too, in a process that was forked while another thread loaded code into this engine.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock.
    #[must_use]
    pub fn signature_id(&self, signature: &[u8]) -> Option<SignatureId> {
        self.0.signatures.lock().ok()?.known.get(signature).map(|known| known.id)
    }

    /// Ids for all of `signatures`, in their order: all or none.
    pub(super) fn intern(&self, signatures: &SignatureTable) -> Result<Box<[SignatureId]>, LoadError> {
        if signatures.is_empty() {
            return Ok(Box::default());
        }
        let mut ids = allocate::room(signatures.len())?;
        let mut table = self.0.signatures.lock().map_err(|_| LoadError::Forked)?;
        allocate::reserve_in_map(&mut table.known, signatures.len())?;
        for signature in signatures.iter() {
            match table.intern(signature) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    signatures.iter().take(ids.len()).for_each(|known| table.release(known));
                    return Err(error);
                }
            }
        }
        Ok(ids.into())
    }

    /// Forgets one use of each. In a forked child that cannot take the lock they stay.
    pub(super) fn release(&self, signatures: &SignatureTable) {
        if !signatures.is_empty()
            && let Ok(mut table) = self.0.signatures.lock()
        {
            signatures.iter().for_each(|signature| table.release(signature));
        }
    }
}

impl Signatures {
    /// The map has room for one more.
    fn intern(&mut self, signature: &[u8]) -> Result<SignatureId, LoadError> {
        if let Some(known) = self.known.get_mut(signature) {
            known.uses += 1;
            return Ok(known.id);
        }
        let bytes = allocate::copy(signature)?;
        let id = SignatureId::unique().ok_or(LoadError::TooManySignatures)?;
        self.known.insert(bytes, Signature { id, uses: 1 });
        Ok(id)
    }

    fn release(&mut self, signature: &[u8]) {
        if let Some(known) = self.known.get_mut(signature) {
            known.uses -= 1;
            if known.uses == 0 {
                self.known.remove(signature);
            }
        }
    }
}

/// The first of `count` consecutive numbers that were never given out before.
pub(super) fn unique_ids(count: u64) -> NonZeroU64 {
    // Relaxed: no partner, only that numbers differ matters. Sixty-four bits do not run out.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NonZeroU64::new(NEXT.fetch_add(count, Ordering::Relaxed)).expect("fewer than 2^64 ids")
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether both are handles of the same engine.
impl PartialEq for Engine {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Engine {}

impl Hash for Engine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl fmt::Debug for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineId({})", self.0)
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}", self.0)
    }
}
