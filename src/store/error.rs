//! What can go wrong in the store layer.

use std::fmt;
use std::io;
use std::ops::Range;

use super::engine::EngineId;
use super::engine_code::EngineCode;
use super::pc::{EnginePc, StorePc};
use crate::allocate::OutOfMemory;
use crate::registry::RegisterError;
use crate::words::Bytes;

/// Why an image was not loaded into an engine. Nothing of it stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The image was compiled with a configuration other than the engine's.
    ForeignConfiguration {
        /// What the image was compiled with.
        image: Box<[u8]>,
        /// What the engine's code is compiled with.
        engine: Box<[u8]>,
    },
    /// The text at a patch point is not what the patch table says is there: something changed it before it was
    /// published.
    PatchNotInText {
        /// The patch, in bytes from the start of the text.
        range: Range<usize>,
    },
    /// This process has met 2^32 function types, and has no numbers for more.
    TooManySignatures,
    /// The text cannot be made known to signal handlers.
    Register(RegisterError),
    /// There is no memory for what the engine keeps of the image.
    OutOfMemory {
        /// How many bytes were asked for, at least.
        bytes: usize,
    },
    /// This process was forked while another thread of its parent was loading code into the engine, which can load no
    /// more code here.
    Forked,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::ForeignConfiguration { image, engine } => write!(
                f,
                "the image was compiled with configuration \"{}\", the engine has \"{}\"; compile it for this engine",
                image.escape_ascii(),
                engine.escape_ascii()
            ),
            LoadError::PatchNotInText { range } => write!(
                f,
                "the text at offsets {:#x}..{:#x} is not what the patch there says; relocate nothing in patch points",
                range.start, range.end
            ),
            LoadError::TooManySignatures => {
                f.write_str("this process has numbered 2^32 function types, and can number no more")
            }
            LoadError::Register(error) => error.fmt(f),
            LoadError::OutOfMemory { bytes } => write!(
                f,
                "no memory to load an image into an engine: could not allocate {}; free some and try again",
                Bytes(*bytes as u64)
            ),
            LoadError::Forked => f.write_str(
                "this process was forked while another thread was loading code into the engine, which can load no more \
                 code; make another engine",
            ),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Register(error) => error.source(),
            _ => None,
        }
    }
}

/// Why a store's registry did not do what it was asked. It is as it was before; its code, too, except where
/// [`PatchError`] says otherwise.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The code is loaded into another engine than the store's.
    ForeignEngine {
        /// The code's text, as its engine has it.
        text: Range<EnginePc>,
        /// The engine it is loaded into.
        code: EngineId,
        /// The engine of the store.
        store: EngineId,
    },
    /// No code of the store begins at the address.
    NotABase {
        /// The address.
        pc: StorePc,
        /// The store's code that it lies in, if any.
        inside: Option<Range<StorePc>>,
    },
    /// The operating system refused the store a copy of its own.
    PrivateCopy {
        /// The text that was to be copied.
        text: Range<EnginePc>,
        /// The operating system's error.
        error: io::Error,
    },
    /// The store's copy cannot be made known to signal handlers.
    Register(RegisterError),
    /// The breakpoints could not be set in the store's copy.
    Patch(PatchError),
    /// There is no memory for the registry to grow.
    OutOfMemory {
        /// The code that was to be registered.
        text: Range<EnginePc>,
        /// How many bytes were asked for, at least.
        bytes: usize,
    },
}

impl StoreError {
    /// For `code`, which is not registered for want of memory.
    pub(super) fn no_memory_for(code: &EngineCode) -> impl Fn(OutOfMemory) -> StoreError {
        |OutOfMemory { bytes }| StoreError::OutOfMemory { text: code.text_range(), bytes }
    }
}

impl From<OutOfMemory> for LoadError {
    fn from(OutOfMemory { bytes }: OutOfMemory) -> Self {
        LoadError::OutOfMemory { bytes }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::ForeignEngine { text, code, store } => write!(
                f,
                "code at {}..{} is loaded into {code}, but the store is one of {store}; load the image into the \
                 store's engine",
                text.start, text.end
            ),
            StoreError::NotABase { pc, inside: Some(text) } => write!(
                f,
                "{pc} lies inside the store's code {}..{}, but is not its base; pass the start",
                text.start, text.end
            ),
            StoreError::NotABase { pc, inside: None } => {
                write!(f, "{pc} is not in any code of this store; register the module first")
            }
            StoreError::PrivateCopy { text, .. } => {
                write!(f, "the store could not copy the code at {}..{}", text.start, text.end)
            }
            StoreError::Register(error) => error.fmt(f),
            StoreError::Patch(error) => error.fmt(f),
            StoreError::OutOfMemory { text, bytes } => write!(
                f,
                "no memory to register the code at {}..{} in a store: could not allocate {}; free some and try again",
                text.start,
                text.end,
                Bytes(*bytes as u64)
            ),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::PrivateCopy { error, .. } => Some(error),
            StoreError::Register(error) => error.source(),
            StoreError::Patch(error) => error.source(),
            _ => None,
        }
    }
}

/// Why a store's code was not patched.
#[derive(Debug)]
#[non_exhaustive]
pub enum PatchError {
    /// The store executes the engine's copy, which other stores share.
    Shared {
        /// The text.
        text: Range<StorePc>,
    },
    /// The patch reaches past the end of the text. Nothing was changed.
    OutsideText {
        /// Where it was to begin, in bytes from the start of the text.
        offset: usize,
        /// Its length in bytes.
        len: usize,
        /// The text.
        text: Range<StorePc>,
    },
    /// The operating system did not make the pages writable. Nothing was changed.
    Unchanged {
        /// The text.
        text: Range<StorePc>,
        /// The operating system's error.
        error: io::Error,
    },
    /// The operating system did not make the pages executable again. Entering the code faults until a later patch of it
    /// succeeds. Its bytes are as wanted, or as before if the pages could not be made writable.
    NotExecutable {
        /// The text.
        text: Range<StorePc>,
        /// The operating system's error.
        error: io::Error,
    },
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatchError::Shared { text } => write!(
                f,
                "the code at {}..{} is shared with other stores; make the store's registry with guest debugging",
                text.start, text.end
            ),
            PatchError::OutsideText { offset, len, text } => write!(
                f,
                "{} at offset {offset:#x} would reach past the end of the code at {}..{}",
                Bytes(*len as u64),
                text.start,
                text.end
            ),
            PatchError::Unchanged { text, .. } => {
                write!(f, "the code at {}..{} could not be made writable", text.start, text.end)
            }
            PatchError::NotExecutable { text, .. } => write!(
                f,
                "the code at {}..{} could not be made executable again; do not enter it \
                 before a patch succeeds",
                text.start, text.end
            ),
        }
    }
}

impl std::error::Error for PatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PatchError::Unchanged { error, .. } | PatchError::NotExecutable { error, .. } => Some(error),
            _ => None,
        }
    }
}
