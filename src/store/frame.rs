//! What a program counter of a backtrace stands for.

use std::fmt;

use super::module::Module;
use crate::image::{DefinedFunctionIndex, Function};

/// A frame of a guest function: where in which function of which module.
#[derive(Clone, Debug)]
pub struct FrameInfo<'s> {
    module: &'s Module,
    function: Function<'s>,
    index: DefinedFunctionIndex,
    text_offset: usize,
}

impl<'s> FrameInfo<'s> {
    /// `function` is the one that `module` defines at `index`.
    #[inline]
    pub(super) fn new(
        module: &'s Module,
        function: Function<'s>,
        index: DefinedFunctionIndex,
        text_offset: usize,
    ) -> Self {
        FrameInfo { module, function, index, text_offset }
    }

    /// The module that defines the function.
    #[must_use]
    pub fn module(&self) -> &'s Module {
        self.module
    }

    /// The function's index among those that the module imports and defines.
    #[inline]
    #[must_use]
    pub fn function_index(&self) -> u32 {
        // An image where this overflows does not load.
        self.module.info().imported_functions().wrapping_add(self.index.as_u32())
    }

    /// The function's index among those that the module defines.
    #[must_use]
    pub fn defined_index(&self) -> DefinedFunctionIndex {
        self.index
    }

    /// The function: its name if the image has it, and its place in the text.
    #[must_use]
    pub fn function(&self) -> &Function<'s> {
        &self.function
    }

    /// The function's name, if the image has it.
    #[must_use]
    pub fn function_name(&self) -> Option<&'s str> {
        self.function.name()
    }

    /// Bytes from the start of the text to the faulting instruction; for a return address, to the last byte of the
    /// call before it.
    #[inline]
    #[must_use]
    pub fn text_offset(&self) -> usize {
        self.text_offset
    }

    /// The same from the start of the function.
    #[must_use]
    pub fn function_offset(&self) -> usize {
        // The function holds the offset.
        self.text_offset.wrapping_sub(self.function.range().start)
    }

    /// Where in the source this is, in the compiler's units, if the image has an address map that knows.
    ///
    /// O(log n).
    #[must_use]
    pub fn source_offset(&self) -> Option<u32> {
        self.module
            .engine_code()
            .image()
            .address_map()
            .source_offset_from(self.function.range().start, self.text_offset)
    }

    /// Whether the module came with debug information that was not parsed.
    #[must_use]
    pub fn has_unparsed_debug_info(&self) -> bool {
        self.module.info().has_unparsed_debug_info()
    }

    /// Whether an environment variable decides if debug information is parsed.
    #[must_use]
    pub fn debug_info_depends_on_environment(&self) -> bool {
        self.module.info().debug_info_depends_on_environment()
    }
}

/// `module!function + offset`, with numbers where there are no names.
impl fmt::Display for FrameInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.module.name() {
            Some(name) => write!(f, "{name}!")?,
            None => write!(f, "{}!", self.module.id())?,
        }
        match self.function_name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "function {}", self.function_index())?,
        }
        write!(f, " + {:#x}", self.function_offset())?;
        match self.source_offset() {
            Some(source) => write!(f, " (source {source:#x})"),
            None => Ok(()),
        }
    }
}
