//! The code that one store executes.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::engine_code::EngineCode;
use super::error::{PatchError, StoreError};
use super::module::Module;
use super::pc::{EnginePc, StorePc};
use crate::allocate;
use crate::image::DefinedFunctionIndex;
use crate::memory::{Overwrite, PrivateText, Slot, WriteError};
use crate::process::{self, RegisteredText, register_text};

/// The code of one image as one store executes it: the engine's copy, shared with all other stores, or a private copy
/// that the store may patch.
///
/// A private copy is at another address: code that refers to itself must do so relative to the pc, and to anything else
/// by absolute address or through memory. It is registered for signal handlers by itself, with the tables of the image,
/// and unregistered with its store.
///
/// Lives in a [`ModuleRegistry`](crate::store::ModuleRegistry), which keeps the image loaded.
///
/// # Executing it
///
/// Addresses are numbers; entering one is up to the caller, and unsafe. Whoever does it promises, besides what any call
/// of machine code takes, that the store outlives the execution, and that no thread executes private code while another
/// borrows its registry mutably: a store belongs to one thread at a time. Host functions that guest code calls may well
/// patch: the frames they return to stay where they are.
pub struct StoreCode {
    text: Range<StorePc>,
    /// Apart: there are many stores that have none.
    private: Option<Box<Private>>,
}

struct Private {
    // Dropped before our reference to the text: handlers miss the code, and the registry lets go of it, at once or when the
    // last of them has left.
    _registration: process::Registration,
    code: Arc<RegisteredText>,
    /// Pages whose right to execute could not be given back.
    faulty: Option<Range<usize>>,
}

impl StoreCode {
    /// The engine's own code at `text`, as every store executes it that has no copy.
    pub(super) fn shared(text: Range<usize>) -> StoreCode {
        StoreCode { text: StorePc::range(text), private: None }
    }

    /// A copy of `engine_code` for a store that patches. `None` if there is no text: nothing can be patched there.
    pub(super) fn copy(engine_code: &EngineCode) -> Result<Option<StoreCode>, StoreError> {
        let memory = engine_code.image();
        if memory.text().is_empty() {
            return Ok(None);
        }
        let no_memory = StoreError::no_memory_for(engine_code);
        let failed = |error| StoreError::PrivateCopy { text: engine_code.text_range(), error };
        let text = PrivateText::copy(memory.text(), Slot::new().map_err(&no_memory)?).map_err(failed)?;
        let code = allocate::arc(RegisteredText::private(Arc::clone(memory), text)).map_err(&no_memory)?;
        let registration = register_text(Arc::clone(&code)).map_err(StoreError::Register)?;
        let text = StorePc::range(code.text_range());
        let private = Private { _registration: registration, code, faulty: None };
        Ok(Some(StoreCode { text, private: Some(allocate::boxed(private).map_err(&no_memory)?) }))
    }

    /// The addresses of the text; the end is exclusive. Empty if there is none.
    #[inline]
    #[must_use]
    pub fn text_range(&self) -> Range<StorePc> {
        self.text.clone()
    }

    /// Where the text begins, or `None` if there is none.
    #[must_use]
    pub fn base(&self) -> Option<StorePc> {
        (!self.text.is_empty()).then_some(self.text.start)
    }

    /// The address `offset` bytes into the text, if it has so many.
    #[must_use]
    pub fn pc(&self, offset: usize) -> Option<StorePc> {
        StorePc::at(&self.text, offset)
    }

    /// Whether this is the store's own copy.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Writes `patches`, which lie inside `span`, an empty one or one inside the text.
    pub(super) fn write<'p>(
        &mut self,
        span: Range<usize>,
        patches: impl Iterator<Item = Overwrite<'p>>,
    ) -> Result<(), PatchError> {
        let text = self.text_range();
        let Some(private) = &mut self.private else { return Err(PatchError::Shared { text }) };
        let Some(copy) = private.code.private_text() else { return Err(PatchError::Shared { text }) };
        // Once more what an earlier call could not finish.
        let span = match &private.faulty {
            Some(faulty) if span.is_empty() => faulty.clone(),
            Some(faulty) => faulty.start.min(span.start)..faulty.end.max(span.end),
            None if span.is_empty() => return Ok(()),
            None => span,
        };
        // SAFETY: the text is reached through this value only, which is borrowed mutably; the handlers' registry hands
        // out no bytes of it. Nobody executes it, by the contract of those who enter code (see `StoreCode`).
        match unsafe { copy.write(span.clone(), patches) } {
            Ok(()) => {
                private.faulty = None;
                Ok(())
            }
            Err(WriteError::Unchanged(error)) => {
                // What was faulty before is part of the span, and is executable again.
                private.faulty = None;
                Err(PatchError::Unchanged { text, error })
            }
            Err(WriteError::NotExecutable(error)) => {
                private.faulty = Some(span);
                Err(PatchError::NotExecutable { text, error })
            }
        }
    }

    /// Whether the private text holds `patch`. `None` for shared text, and for a patch outside the text.
    pub(super) fn holds(&self, patch: Overwrite<'_>) -> Option<bool> {
        let copy = self.private.as_ref()?.code.private_text()?;
        // SAFETY: only `write` writes, under `&mut`.
        unsafe { copy.holds(patch) }
    }
}

impl fmt::Debug for StoreCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCode")
            .field("text", &format_args!("{:#x?}", self.text))
            .field("private", &self.is_private())
            .finish()
    }
}

/// The code of one image as one store executes it, to be patched.
///
/// Not a `&mut StoreCode`, which could be exchanged for another store's.
#[derive(Debug)]
pub struct StoreCodeMut<'s>(Access<'s>);

#[derive(Debug)]
enum Access<'s> {
    /// To the engine's code, through which nothing is patched.
    Shared(&'s StoreCode),
    Private(&'s mut StoreCode),
}

impl<'s> StoreCodeMut<'s> {
    pub(super) fn shared(code: &'s StoreCode) -> Self {
        StoreCodeMut(Access::Shared(code))
    }

    pub(super) fn private(code: &'s mut StoreCode) -> Self {
        StoreCodeMut(Access::Private(code))
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
        let text = self.text_range();
        let len = text.end.as_usize() - text.start.as_usize();
        match offset.checked_add(bytes.len()) {
            Some(end) if end <= len => match &mut self.0 {
                Access::Shared(_) => Err(PatchError::Shared { text }),
                Access::Private(code) => code.write(offset..end, std::iter::once((offset, bytes))),
            },
            _ => Err(PatchError::OutsideText { offset, len: bytes.len(), text }),
        }
    }
}

impl Deref for StoreCodeMut<'_> {
    type Target = StoreCode;

    fn deref(&self) -> &StoreCode {
        match &self.0 {
            Access::Shared(code) => code,
            Access::Private(code) => code,
        }
    }
}

/// A module together with the code that a store executes for it.
#[derive(Clone, Copy, Debug)]
pub struct ModuleWithCode<'s> {
    module: &'s Module,
    code: &'s StoreCode,
}

impl<'s> ModuleWithCode<'s> {
    /// `code` is the store's for the image of `module`.
    pub(super) fn new(module: &'s Module, code: &'s StoreCode) -> Self {
        ModuleWithCode { module, code }
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &'s Module {
        self.module
    }

    /// The store's code for the module's image.
    #[must_use]
    pub fn store_code(&self) -> &'s StoreCode {
        self.code
    }

    /// Where the store executes the function that the module defines at `function`.
    ///
    /// O(log n).
    #[must_use]
    pub fn function_pc(&self, function: DefinedFunctionIndex) -> Option<StorePc> {
        self.code.pc(self.module.function(function)?.range().start)
    }

    /// Where the store executes what the engine has at `pc`, if that is in the module's image.
    #[must_use]
    pub fn translate(&self, pc: EnginePc) -> Option<StorePc> {
        self.code.pc(pc.offset_in(&self.module.engine_code().text_range())?)
    }
}
