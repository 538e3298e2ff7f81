//! Names for program counters, without a store.

use std::fmt;
use std::sync::Arc;

use super::{RegisteredText, get_owned};
use crate::handler::walk::PcKind;
use crate::image::{Function, Image, ModuleInfo};
use crate::words::Name;

/// What the registered code at a program counter is called. It keeps the image mapped, not registered.
///
/// It prints as `module!function + offset (source offset)`, as far as the image says so:
/// `demo!average + 0xa (source 0x20)`.
#[derive(Clone)]
pub struct Symbol {
    text: Arc<RegisteredText>,
    offset: usize,
    /// Its index in the table.
    function: Option<usize>,
}

/// Names the code that a frame was executing: `pc` and its kind, as [`Backtrace::pcs`](crate::Backtrace::pcs) has them.
///
/// `None` if the code is not registered, or not any more. O(log n + log f) for n registered ranges and f functions in
/// the one found.
///
/// # Signal safety
///
/// Not for handlers: dropping the symbol may unmap.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use trapline::image::{Image, ImageBuilder};
/// use trapline::{PcKind, process};
///
/// let file = ImageBuilder::new().text([0x90; 32]).function(16..32, Some("average")).address(16, Some(7)).finish()?;
/// let image = Arc::new(Image::parse(&file)?.publish()?);
/// let _registration = process::register(image.clone())?;
/// let symbol = process::symbolize(image.text_range().start + 20, PcKind::Interrupted).unwrap();
/// assert_eq!(symbol.to_string(), "average + 0x4 (source 0x7)");
/// assert_eq!(symbol.function().unwrap().name(), Some("average"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn symbolize(pc: usize, kind: PcKind) -> Option<Symbol> {
    let (text, offset) = get_owned(kind.instruction(pc))?;
    let function = text.image().functions().by_offset(offset).map(|function| function.index());
    Some(Symbol { text, offset, function })
}

impl Symbol {
    /// The image that the code is from.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        self.text.image()
    }

    /// Bytes from the start of the text to the instruction; for a return address, to the last byte of the call.
    #[must_use]
    pub fn text_offset(&self) -> usize {
        self.offset
    }

    /// The function or trampoline. `None` between functions.
    #[must_use]
    pub fn function(&self) -> Option<Function<'_>> {
        self.image().functions().get(self.function?)
    }

    /// Bytes from the start of the function to the instruction.
    #[must_use]
    pub fn function_offset(&self) -> Option<usize> {
        // The function holds the offset.
        Some(self.offset.wrapping_sub(self.function()?.range().start))
    }

    /// The module that defines the function, or that a trampoline leads into.
    #[must_use]
    pub fn module(&self) -> Option<ModuleInfo<'_>> {
        self.image().modules().get(self.function()?.key().module()?)
    }

    /// Where in the source the instruction came from, in the compiler's units, if the image says so.
    ///
    /// O(log n).
    #[must_use]
    pub fn source_offset(&self) -> Option<u32> {
        let floor = self.function().map_or(0, |function| function.range().start);
        self.image().address_map().source_offset_from(floor, self.offset)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(module) = self.module().and_then(|module| module.name()) {
            write!(f, "{}!", Name(module))?;
        }
        match self.function().map(|function| (function.name(), function.key())) {
            Some((Some(name), _)) => write!(f, "{}", Name(name))?,
            Some((None, key)) => write!(f, "{key}")?,
            None => f.write_str("text")?,
        }
        write!(f, " + {:#x}", self.function_offset().unwrap_or(self.offset))?;
        match self.source_offset() {
            Some(source) => write!(f, " (source {source:#x})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symbol({self})")
    }
}
