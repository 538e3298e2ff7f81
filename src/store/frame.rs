//! What a program counter of a backtrace stands for.

use std::fmt;

use super::engine_code::EngineCode;
use super::module::Module;
use crate::image::{DefinedFunctionIndex, Function, FunctionKey, ModuleIndex};
use crate::words::Name;

/// A frame of a guest function: where in which function of which module.
///
/// Borrowed from the store that it was found in, or from an [`OwnedFrame`].
#[derive(Clone, Debug)]
pub struct FrameInfo<'c> {
    code: &'c EngineCode,
    module: ModuleIndex,
    function: Function<'c>,
    index: DefinedFunctionIndex,
    text_offset: usize,
}

impl<'c> FrameInfo<'c> {
    /// The frame at `text_offset` of the image, if a function of the guest is there.
    #[inline]
    pub(super) fn at(code: &'c EngineCode, text_offset: usize) -> Option<Self> {
        let function = code.image().functions().by_offset(text_offset)?;
        let FunctionKey::Defined { module, function: index } = function.key() else { return None };
        Some(FrameInfo { code, module, function, index, text_offset })
    }

    /// The module that defines the function.
    #[inline]
    #[must_use]
    pub fn module(&self) -> Module<'c> {
        Module::of(self.code, self.module)
    }

    /// The function's index among those that the module imports and defines.
    #[inline]
    #[must_use]
    pub fn function_index(&self) -> u32 {
        // An image where this overflows does not load.
        self.module().info().imported_functions().wrapping_add(self.index.as_u32())
    }

    /// The function's index among those that the module defines.
    #[must_use]
    pub fn defined_index(&self) -> DefinedFunctionIndex {
        self.index
    }

    /// The function: its name if the image has it, and its place in the text.
    #[must_use]
    pub fn function(&self) -> &Function<'c> {
        &self.function
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
        self.code.image().address_map().source_offset_from(self.function.range().start, self.text_offset)
    }

    /// The same frame, to be kept after the store is gone: in an error, for instance.
    ///
    /// Keeps the image loaded. O(1); allocates what [cloning an `EngineCode`](EngineCode) does, and cannot fail.
    #[must_use]
    pub fn into_owned(self) -> OwnedFrame {
        OwnedFrame { code: self.code.clone(), text_offset: self.text_offset }
    }
}

/// `module!function + offset`, with numbers where there are no names.
impl fmt::Display for FrameInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.module().info().name() {
            Some(name) => write!(f, "{}!", Name(name))?,
            None => write!(f, "{}!", self.module().id())?,
        }
        match self.function.name() {
            Some(name) => write!(f, "{}", Name(name))?,
            None => write!(f, "function {}", self.function_index())?,
        }
        write!(f, " + {:#x}", self.function_offset())?;
        match self.source_offset() {
            Some(source) => write!(f, " (source {source:#x})"),
            None => Ok(()),
        }
    }
}

/// A [`FrameInfo`] that outlives the store it was found in, and keeps the image loaded instead.
///
/// Made by [`FrameInfo::into_owned`] and [`ModuleRegistry::resolve_owned`](crate::store::ModuleRegistry::resolve_owned).
/// Two words; cheap to clone. Prints as the borrowed frame does.
///
/// # Examples
///
/// ```
/// use trapline::PcKind;
/// use trapline::image::{Image, ImageBuilder, ModuleIndex};
/// use trapline::store::{Engine, EngineCode, ModuleRegistry};
///
/// let image = ImageBuilder::new().text([0x90, 0x0f, 0x0b]).function(0..3, Some("stop")).finish()?;
/// let engine = Engine::new();
/// let frame = {
///     let code = EngineCode::new(&engine, Image::parse(&image)?.publish()?)?;
///     let mut store = ModuleRegistry::new(&engine);
///     store.register_code(&code)?;
///     store.register_module(code.module(ModuleIndex::new(0)).unwrap())?;
///     let pc = code.text_range().start.as_usize() + 1;
///     store.lookup_frame_info(pc, PcKind::Interrupted).unwrap().0.into_owned()
/// };
/// assert!(frame.to_string().ends_with("!stop + 0x1"));
/// assert_eq!(frame.info().function_offset(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct OwnedFrame {
    code: EngineCode,
    text_offset: usize,
}

impl OwnedFrame {
    /// What the frame stands for.
    ///
    /// O(log n).
    #[must_use]
    pub fn info(&self) -> FrameInfo<'_> {
        FrameInfo::at(&self.code, self.text_offset).expect("made of a frame of this image")
    }
}

impl fmt::Display for OwnedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

impl fmt::Debug for OwnedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}
