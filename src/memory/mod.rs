//! Pages that machine code runs from: writable, then executable, never both.

use std::io;

use crate::allocate::OutOfMemory;

mod icache;
#[cfg(unix)]
pub(crate) mod leftover;
#[cfg(unix)]
mod pages;
#[cfg(not(unix))]
#[path = "pages_elsewhere.rs"]
mod pages;
#[cfg_attr(not(feature = "store"), allow(dead_code, reason = "only stores make private copies"))]
mod private_text;
mod text;

#[cfg(feature = "store")]
pub(crate) use pages::Slot;
#[cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use pages::page_size;
pub(crate) use private_text::PrivateText;
#[cfg(feature = "store")]
pub(crate) use private_text::{Overwrite, WriteError};
pub(crate) use text::{ExecutableText, WritableText};

/// Why there is no text.
pub(crate) enum TextError {
    OutOfMemory(OutOfMemory),
    Io(io::Error),
}

impl From<OutOfMemory> for TextError {
    fn from(error: OutOfMemory) -> Self {
        TextError::OutOfMemory(error)
    }
}

impl From<io::Error> for TextError {
    fn from(error: io::Error) -> Self {
        TextError::Io(error)
    }
}
