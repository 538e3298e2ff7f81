//! The process-wide registry: all published images that the process has registered, and stores' private copies.
//!
//! It has the verbs of [`CodeRegistry`], as functions. [`register`] takes the range from the image itself, so that safe
//! code cannot make a handler believe that other addresses hold guest code. The handlers of `signal` ask this registry,
//! and so do [`Backtrace::walk`](crate::Backtrace::walk) and [`symbolize`].
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//! use trapline::image::{Image, ImageBuilder};
//! use trapline::{TrapCode, process};
//!
//! let file = ImageBuilder::new().text([0x0f, 0x0b]).trap(0, TrapCode::Unreachable).finish()?;
//! let image = Arc::new(Image::parse(&file)?.publish()?);
//! let pc = image.text_range().start;
//! let registration = process::register(image)?;
//! // In a handler, with the interrupted pc:
//! assert_eq!(process::trap_code(pc), Some(TrapCode::Unreachable));
//! assert_eq!(process::with(pc + 1, |found| found.offset()), Some(1));
//! registration.unregister()?;
//! assert_eq!(process::trap_code(pc), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod registered_text;
mod symbol;

use std::fmt;
use std::sync::Arc;

use crate::allocate::{self, OutOfMemory};
use crate::handler::trap_code::TrapCode;
use crate::image::Image;
#[cfg(unix)]
use crate::memory::leftover;
#[cfg(feature = "snapshot")]
use crate::registry::Snapshot;
use crate::registry::{self, CodeId, CodeRegistry, Found, RegisterError, Stats, UnregisterError, Unregistered, View};
pub use registered_text::RegisteredText;
pub use symbol::{Symbol, symbolize};

/// Constant-initialised: a handler may be the first caller ever.
static CODE: CodeRegistry<RegisteredText> = CodeRegistry::new();

/// Registers the text of `image` for the whole process, signal handlers included, until the registration is dropped.
///
/// The range is [`Image::text_range`]. An image without text is registered nowhere, successfully. The registry keeps
/// the image mapped while a lookup may still see it, even after the registration and every other `Arc` are gone.
///
/// O(log n).
///
/// # Errors
///
/// A [`RegisterError`], with nothing registered: for instance if this image is registered already.
///
/// # Signal safety
///
/// Not for handlers: allocates and takes the writers' lock.
pub fn register(image: Arc<Image>) -> Result<Registration, RegisterError> {
    register_text(text_of(image)?)
}

/// Registers the texts of many images at once: all or none, and lookups find all or none.
///
/// The registrations come in the order of the images; see [`CodeRegistry::register_all`].
///
/// # Errors
///
/// As [`register`], and if one image is given twice.
///
/// # Signal safety
///
/// Not for handlers: allocates and takes the writers' lock.
pub fn register_all(images: impl IntoIterator<Item = Arc<Image>>) -> Result<Vec<Registration>, RegisterError> {
    // All of them are made before any is published: whatever there is no memory for, no lookup has found a part.
    let mut texts = Vec::new();
    for image in images {
        let text = text_of(image)?;
        let range = text.text_range();
        allocate::push(&mut texts, (range.clone(), text))
            .map_err(|OutOfMemory { bytes }| RegisterError::OutOfMemory { range, bytes })?;
    }
    Ok(CODE.register_all(texts)?.into_iter().map(Registration).collect())
}

/// Registers a private copy.
pub(crate) fn register_text(text: Arc<RegisteredText>) -> Result<Registration, RegisterError> {
    CODE.register(text.text_range(), text).map(Registration)
}

fn text_of(image: Arc<Image>) -> Result<Arc<RegisteredText>, RegisterError> {
    let range = image.text_range();
    allocate::arc(RegisteredText::shared(image))
        .map_err(|OutOfMemory { bytes }| RegisterError::OutOfMemory { range, bytes })
}

/// Removes what was registered as `id`, and says whether a reader may still see it; see [`CodeRegistry::unregister`].
///
/// # Errors
///
/// If nothing is registered as `id`, or another thread of this process's parent was writing when it was forked.
///
/// # Signal safety
///
/// Not for handlers: takes the writers' lock, and may unmap.
pub fn unregister(id: CodeId) -> Result<Unregistered, UnregisterError> {
    CODE.unregister(id)
}

/// Removes what was registered as `id`, and waits until no reader sees it any more; see
/// [`CodeRegistry::unregister_and_wait`].
///
/// # Errors
///
/// As [`unregister`].
///
/// # Signal safety
///
/// Not for handlers: waits.
pub fn unregister_and_wait(id: CodeId) -> Result<Arc<RegisteredText>, UnregisterError> {
    CODE.unregister_and_wait(id)
}

/// Calls `f` with the registered text that `pc`, an absolute address, lies in; see [`CodeRegistry::with`].
///
/// `f` borrows the text for its own time only, and must return: copy the answer out, and jump elsewhere afterwards.
///
/// O(log n).
///
/// # Signal safety
///
/// Async-signal-safe, if `f` is.
pub fn with<R>(pc: usize, f: impl for<'a> FnOnce(Found<'a, RegisteredText>) -> R) -> Option<R> {
    CODE.with(pc, f)
}

/// Calls `f` with a view of all registered texts, for many lookups in a row; see [`CodeRegistry::view`].
///
/// # Signal safety
///
/// Async-signal-safe, if `f` is.
pub fn view<R>(f: impl for<'a> FnOnce(View<'a, RegisteredText>) -> R) -> R {
    CODE.view(f)
}

/// Why the instruction at `pc`, an absolute address, traps, if it is a trap site of registered code.
///
/// O(log n + log t) for n registered ranges and t trap sites in the range found.
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn trap_code(pc: usize) -> Option<TrapCode> {
    CODE.with(pc, |found| found.payload().trap_code(found.offset()))?
}

/// The registered text that `pc`, an absolute address, lies in, to keep, and the offset in it, in bytes.
///
/// Keeps the image mapped, not registered. O(log n).
///
/// # Signal safety
///
/// Not for handlers: dropping the `Arc` may unmap. They have [`with`].
#[must_use]
pub fn get_owned(pc: usize) -> Option<(Arc<RegisteredText>, usize)> {
    CODE.get_owned(pc)
}

/// All registered texts as they are now, to iterate or to keep; see [`CodeRegistry::snapshot`].
///
/// # Signal safety
///
/// Not for handlers: the first use of a thread allocates.
#[must_use]
#[cfg(feature = "snapshot")]
pub fn snapshot() -> Snapshot<RegisteredText> {
    CODE.snapshot()
}

/// Counts of what is registered, and of what was unregistered and is not freed yet.
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn stats() -> Stats {
    CODE.stats()
}

/// Frees what was unregistered and no lookup can see any more, and tries once more to unmap what the operating system
/// refused to; see [`mapping_stats`].
///
/// # Signal safety
///
/// Not for handlers: unmaps memory.
pub fn reclaim() {
    CODE.reclaim();
    #[cfg(unix)]
    leftover::retry(usize::MAX);
}

/// How much of the code that was dropped is still mapped; see [`mapping_stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MappingStats {
    /// Texts that the operating system refused to unmap.
    pub refused_ranges: usize,
    /// Their bytes, in whole pages.
    pub refused_bytes: usize,
}

/// Counts what the operating system refused to unmap when an image, or a store's private copy, was dropped.
///
/// Such pages are no longer accessible, and take addresses but no memory (on Linux before 6.13 they may read as zeros).
/// Unmapping is tried again whenever other code is unmapped, and by [`reclaim`]. Linux refuses where it would have to
/// split a mapping and the process is at its limit of mappings: between other executable pages.
///
/// # Signal safety
///
/// Async-signal-safe.
#[must_use]
pub fn mapping_stats() -> MappingStats {
    #[cfg(unix)]
    let (refused_ranges, refused_bytes) = leftover::refused();
    #[cfg(not(unix))]
    let (refused_ranges, refused_bytes) = (0, 0);
    MappingStats { refused_ranges, refused_bytes }
}

/// Keeps an image registered; see [`register`].
///
/// Dropping it hides the code from later lookups. It stops no thread that executes the code: keep the [`Image`] alive
/// until no thread does.
#[must_use = "dropping the registration unregisters the code"]
pub struct Registration(registry::Registration<'static, RegisteredText>);

impl Registration {
    /// The id that lookups report for this code, or `None` for an image without text.
    #[must_use]
    pub fn id(&self) -> Option<CodeId> {
        self.0.id()
    }

    /// Hides the code from later lookups, and says whether a reader may still see it. If none can, the registry has
    /// dropped its `Arc` of the image when this returns.
    ///
    /// # Errors
    ///
    /// If this process was forked while another thread of its parent was writing to the registry.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes the writers' lock, and may unmap.
    pub fn unregister(self) -> Result<Unregistered, UnregisterError> {
        self.0.unregister()
    }

    /// Hides the code from later lookups, and waits until no reader sees it any more; see
    /// [`CodeRegistry::unregister_and_wait`], also for what makes it wait for ever. `None` for an image without text.
    ///
    /// The text is unmapped when the result is dropped, unless there are other `Arc`s of the image.
    ///
    /// # Errors
    ///
    /// As [`unregister`](Self::unregister).
    ///
    /// # Signal safety
    ///
    /// Not for handlers: waits.
    pub fn unregister_and_wait(self) -> Result<Option<Arc<RegisteredText>>, UnregisterError> {
        self.0.leak().map(|id| CODE.unregister_and_wait(id)).transpose()
    }

    /// Leaves the code registered: until [`unregister`] is called with the id, or for good.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn leak(self) -> Option<CodeId> {
        self.0.leak()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.id()).finish()
    }
}
