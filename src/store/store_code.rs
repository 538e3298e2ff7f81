//! The code that one store executes.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use super::engine_code::EngineCode;
use super::error::{PatchError, StoreError};
use super::module::{Module, ModuleWithCode};
use super::pc::{EnginePc, StorePc};
use crate::allocate;
use crate::image::{Image, ModuleIndex};
use crate::memory::{Overwrite, PrivateText, Slot, WriteError};
use crate::process::{self, RegisteredText, register_text};

/// The code of one image as one store executes it: the engine's copy, shared with all other stores, or a private copy
/// that the store may patch. Borrowed from the [`ModuleRegistry`](crate::store::ModuleRegistry), which keeps the image
/// loaded.
///
/// A private copy is at another address: code that refers to itself must do so relative to the pc, and to anything else
/// by absolute address or through memory. It is registered for signal handlers by itself, with the tables of the image,
/// and unregistered with its store.
///
/// # Executing it
///
/// Addresses are numbers; entering one is up to the caller, and unsafe ([`entry`](Self::entry)). Besides what any call
/// of machine code takes, the caller promises that
///
/// - the store outlives the execution, and
/// - no thread executes private code while another borrows its registry mutably: a store belongs to one thread at a
///   time. Host functions that guest code calls may well patch: the frames they return to stay where they are.
#[derive(Clone, Copy)]
pub struct StoreCode<'s> {
    code: &'s EngineCode,
    /// `None`: the engine's copy is executed.
    private: Option<&'s PrivateCode>,
}

impl<'s> StoreCode<'s> {
    #[inline]
    pub(super) fn new(code: &'s EngineCode, private: Option<&'s PrivateCode>) -> Self {
        StoreCode { code, private }
    }

    /// The module at `index` of the image.
    #[inline]
    pub(super) fn module(self, index: ModuleIndex) -> ModuleWithCode<'s> {
        ModuleWithCode::new(Module::of(self.code, index), self.private)
    }

    /// The image, as the engine has it: its tables, and the embedder's data.
    #[inline]
    #[must_use]
    pub fn engine_code(self) -> &'s EngineCode {
        self.code
    }

    /// The bytes that the store executes, patches included. Nobody patches them while they are borrowed:
    ///
    /// ```compile_fail,E0502
    /// # use trapline::store::{EngineCode, ModuleRegistry, StorePc};
    /// fn look(store: &mut ModuleRegistry, code: &EngineCode, base: StorePc) {
    ///     let text = store.store_code(code).unwrap().text();
    ///     store.store_code_mut(base).unwrap().patch(0, &[0xcc]).unwrap();
    ///     assert_eq!(text[0], 0xcc);
    /// }
    /// ```
    #[must_use]
    pub fn text(self) -> &'s [u8] {
        self.private.map_or(self.code.image().text(), PrivateCode::text)
    }

    /// The addresses of the text; the end is exclusive. Empty if there is none.
    #[inline]
    #[must_use]
    pub fn text_range(self) -> Range<StorePc> {
        match self.private {
            Some(private) => private.text.clone(),
            None => self.code.shared_range(),
        }
    }

    /// Where the text begins, or `None` if there is none.
    #[must_use]
    pub fn base(self) -> Option<StorePc> {
        self.pc(0)
    }

    /// The address `offset` bytes into the text, if that is inside the text.
    #[must_use]
    pub fn pc(self, offset: usize) -> Option<StorePc> {
        StorePc::at(&self.text_range(), offset)
    }

    /// Where the store executes what the engine has at `pc`, if that is in this image.
    #[must_use]
    pub fn store_pc(self, pc: EnginePc) -> Option<StorePc> {
        self.pc(pc.offset_in(&self.code.text_range())?)
    }

    /// Where the engine has what the store executes at `pc`, if that is in this image.
    #[must_use]
    pub fn engine_pc(self, pc: StorePc) -> Option<EnginePc> {
        EnginePc::at(&self.code.text_range(), pc.offset_in(&self.text_range())?)
    }

    /// Whether this is the store's own copy.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.private.is_some()
    }

    /// The code at `pc` as a function pointer of type `F`, such as `unsafe extern "C" fn(*mut c_void)`, or `None` if `pc`
    /// is not in this code. Does not compile if `F` is not as large as a pointer.
    ///
    /// # Safety
    ///
    /// As for [`Image::entry`], with the function at `pc`; the result may be called as long as the conditions of
    /// [executing a store's code](Self#executing-it) hold, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use trapline::image::{DefinedFunctionIndex, Image, ImageBuilder, ModuleIndex};
    /// use trapline::store::{Engine, EngineCode, ModuleRegistry};
    ///
    /// # if cfg!(not(target_arch = "x86_64")) { return Ok(()) }
    /// let answer = [0xb8, 42, 0, 0, 0, 0xc3]; // mov eax, 42; ret
    /// let image = ImageBuilder::new().text(answer).function(0..6, Some("answer")).finish()?;
    /// let engine = Engine::new();
    /// let code = EngineCode::new(&engine, Image::parse(&image)?.publish()?)?;
    /// let module = code.module(ModuleIndex::new(0)).unwrap();
    /// let mut store = ModuleRegistry::new(&engine);
    /// store.register_module(module)?;
    ///
    /// let module = store.module(module.id()).unwrap();
    /// // SAFETY: the function is of this type, and needs nothing; the store is dropped after the call.
    /// let answer = unsafe {
    ///     let answer = module.entry::<unsafe extern "C" fn() -> u32>(DefinedFunctionIndex::new(0)).unwrap();
    ///     answer()
    /// };
    /// assert_eq!(answer, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub unsafe fn entry<F: Copy>(self, pc: StorePc) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*const u8>(), "a function pointer is as large as a pointer") };
        pc.offset_in(&self.text_range())?;
        // Exposed when the range was made.
        let code = ptr::with_exposed_provenance::<u8>(pc.as_usize());
        // SAFETY: as large as a pointer, by the assertion. It is not null, and that it points at a function of this type
        // our caller vouches for.
        Some(unsafe { mem::transmute_copy::<*const u8, F>(&code) })
    }
}

impl fmt::Debug for StoreCode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCode")
            .field("text", &format_args!("{:#x?}", self.text_range()))
            .field("private", &self.is_private())
            .finish()
    }
}

/// The code of one image as one store executes it, to be patched.
///
/// Not a `&mut StoreCode`, which could be exchanged for another store's.
#[derive(Debug)]
pub struct StoreCodeMut<'s> {
    code: &'s EngineCode,
    private: Option<&'s mut PrivateCode>,
}

impl<'s> StoreCodeMut<'s> {
    pub(super) fn new(code: &'s EngineCode, private: Option<&'s mut PrivateCode>) -> Self {
        StoreCodeMut { code, private }
    }

    /// The code as it is now.
    #[must_use]
    pub fn store_code(&self) -> StoreCode<'_> {
        StoreCode::new(self.code, self.private.as_deref())
    }

    /// Overwrites the private text with `bytes` from `offset` on.
    ///
    /// The pages of the patch are not executable while they are written. The `&mut` is what makes this exclusive: a
    /// store's code runs on the thread that has the store. Code that another thread is executing all the same would
    /// fault.
    ///
    /// # Errors
    ///
    /// If the store has no copy of its own, if the patch reaches past the end of the text, or if the operating system
    /// refuses. See [`PatchError`] for what holds then.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: system calls.
    pub fn patch(&mut self, offset: usize, bytes: &[u8]) -> Result<(), PatchError> {
        let text = self.store_code().text_range();
        let len = text.end.as_usize() - text.start.as_usize();
        match offset.checked_add(bytes.len()).filter(|end| *end <= len) {
            None => Err(PatchError::OutsideText { offset, len: bytes.len(), text }),
            Some(end) => match &mut self.private {
                None => Err(PatchError::Shared { text }),
                Some(private) => private.write(offset..end, std::iter::once((offset, bytes))),
            },
        }
    }
}

/// A store's own copy of a text that is not empty.
pub(super) struct PrivateCode {
    // Dropped before our reference to the text: handlers miss the code, and the registry lets go of it, at once or when
    // the last of them has left.
    _registration: process::Registration,
    code: Arc<RegisteredText>,
    text: Range<StorePc>,
    /// Pages whose right to execute could not be given back.
    faulty: Option<Range<usize>>,
}

impl PrivateCode {
    /// A copy of `engine_code`. `None` if there is no text: nothing can be patched there.
    pub(super) fn copy(engine_code: &EngineCode) -> Result<Option<Box<Self>>, StoreError> {
        let image: &Arc<Image> = engine_code.image();
        if image.text().is_empty() {
            return Ok(None);
        }
        let no_memory = StoreError::no_memory_for(engine_code);
        let failed = |error| StoreError::PrivateCopy { text: engine_code.text_range(), error };
        let text = PrivateText::copy(image.text(), Slot::new().map_err(&no_memory)?).map_err(failed)?;
        let code = allocate::arc(RegisteredText::private(Arc::clone(image), text)).map_err(&no_memory)?;
        let registration = register_text(Arc::clone(&code)).map_err(StoreError::Register)?;
        let text = StorePc::range(code.text_range());
        let private = PrivateCode { _registration: registration, code, text, faulty: None };
        Ok(Some(allocate::boxed(private).map_err(&no_memory)?))
    }

    pub(super) fn range(&self) -> Range<StorePc> {
        self.text.clone()
    }

    fn text(&self) -> &[u8] {
        // SAFETY: only `write` writes to the text, under `&mut self`, which excludes the result of this `&self`. The
        // process-wide registry, which has the text too, hands out no bytes of it and no way to write it.
        self.code.private_text().map_or(&[], |copy| unsafe { copy.bytes() })
    }

    /// Writes `patches`, which lie inside `span`, which is empty or inside the text.
    pub(super) fn write<'p>(
        &mut self,
        span: Range<usize>,
        patches: impl Iterator<Item = Overwrite<'p>>,
    ) -> Result<(), PatchError> {
        let text = self.range();
        let Some(copy) = self.code.private_text() else { return Ok(()) };
        // Once more what an earlier call could not finish.
        let span = match &self.faulty {
            Some(faulty) if span.is_empty() => faulty.clone(),
            Some(faulty) => faulty.start.min(span.start)..faulty.end.max(span.end),
            None if span.is_empty() => return Ok(()),
            None => span,
        };
        // SAFETY: the text is read and written through this value only, which is borrowed mutably: no result of `text`
        // is alive. Nobody executes the text, by the contract of those who enter code (see `StoreCode`).
        match unsafe { copy.write(span.clone(), patches) } {
            Ok(()) => {
                self.faulty = None;
                Ok(())
            }
            Err(WriteError::Unchanged(error)) => {
                // What was faulty before is part of the span, and is executable again.
                self.faulty = None;
                Err(PatchError::Unchanged { text, error })
            }
            Err(WriteError::NotExecutable(error)) => {
                self.faulty = Some(span);
                Err(PatchError::NotExecutable { text, error })
            }
        }
    }

    /// Whether the text holds `patch`. `None` for a patch outside the text.
    pub(super) fn holds(&self, (offset, bytes): Overwrite<'_>) -> Option<bool> {
        Some(self.text().get(offset..)?.get(..bytes.len())? == bytes)
    }
}

impl fmt::Debug for PrivateCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateCode").field("text", &format_args!("{:#x?}", self.text)).finish_non_exhaustive()
    }
}
