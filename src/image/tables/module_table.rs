//! The modules of an image.

use std::fmt;

use super::columns::{Names, Section, encode};
use super::index::ModuleIndex;
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;

/// The modules that were compiled into an image. A component has several.
///
/// A section of an image, of little-endian `u32`; a name ends where the next begins, and an empty one stands for none.
/// An image without the section has one module, without a name, imports or flags:
///
/// ```text
/// count | imported functions: [count] | flags: [count] | name ends: [count] | UTF-8 bytes
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ModuleTable {
    imported_functions: Box<[u32]>,
    flags: Box<[u32]>,
    names: Names,
}

/// What an image says about one of its modules.
#[derive(Clone, Copy)]
pub struct ModuleInfo<'a> {
    index: ModuleIndex,
    imported_functions: u32,
    flags: u32,
    /// Those of the table, read only if somebody asks.
    names: &'a Names,
}

/// What [`ImageBuilder::module`](crate::image::ImageBuilder::module) is told about a module. The default is one without a
/// name, imports or debug information.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleDescription {
    /// The module's name. An empty one is none.
    pub name: Option<String>,
    /// How many functions the module imports. Their indices come before those of its own.
    pub imported_functions: u32,
    /// Whether the module came with debug information that was not parsed.
    pub unparsed_debug_info: bool,
    /// Whether the environment that the program runs in decides if debug information is parsed.
    pub debug_info_from_environment: bool,
}

const UNPARSED_DEBUG_INFO: u32 = 1 << 0;
const DEBUG_INFO_FROM_ENVIRONMENT: u32 = 1 << 1;
const ALL_FLAGS: u32 = UNPARSED_DEBUG_INFO | DEBUG_INFO_FROM_ENVIRONMENT;

impl<'a> ModuleInfo<'a> {
    /// Which module of its image this is.
    #[must_use]
    pub fn static_index(&self) -> ModuleIndex {
        self.index
    }

    /// The module's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.names.get(self.index.as_u32() as usize)
    }

    /// How many functions the module imports: what to add to a
    /// [`DefinedFunctionIndex`](crate::image::DefinedFunctionIndex) for the module's own number of that function.
    #[must_use]
    pub fn imported_functions(&self) -> u32 {
        self.imported_functions
    }

    /// Whether the module came with debug information that was not parsed.
    #[must_use]
    pub fn has_unparsed_debug_info(&self) -> bool {
        self.flags & UNPARSED_DEBUG_INFO != 0
    }

    /// Whether the environment that the program runs in decides if debug information is parsed.
    #[must_use]
    pub fn debug_info_depends_on_environment(&self) -> bool {
        self.flags & DEBUG_INFO_FROM_ENVIRONMENT != 0
    }
}

impl PartialEq for ModuleInfo<'_> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |module: &Self| (module.index, module.imported_functions, module.flags);
        parts(self) == parts(other) && self.name() == other.name()
    }
}

impl Eq for ModuleInfo<'_> {}

impl fmt::Debug for ModuleInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleInfo")
            .field("index", &self.index)
            .field("name", &self.name())
            .field("imported_functions", &self.imported_functions)
            .field("flags", &self.flags)
            .finish()
    }
}

impl ModuleTable {
    /// One module, without a name, imports or flags.
    pub(crate) fn one() -> Result<ModuleTable, ImageError> {
        ModuleTable::describe(&[ModuleDescription::default()])
    }

    /// The table of `modules`. O(n).
    pub(crate) fn describe(modules: &[ModuleDescription]) -> Result<ModuleTable, ImageError> {
        let flags = |module: &ModuleDescription| {
            let unparsed = if module.unparsed_debug_info { UNPARSED_DEBUG_INFO } else { 0 };
            let environment = if module.debug_info_from_environment { DEBUG_INFO_FROM_ENVIRONMENT } else { 0 };
            unparsed | environment
        };
        Ok(ModuleTable {
            imported_functions: allocate::collect(modules.iter().map(|module| module.imported_functions))?,
            flags: allocate::collect(modules.iter().map(flags))?,
            names: Names::collect(names::MODULES, modules.iter().map(|module| module.name.as_deref()))?,
        })
    }

    /// Checks and copies the table in the bytes of its section, if there is one.
    pub(crate) fn parse(section: Option<&[u8]>) -> Result<ModuleTable, ImageError> {
        let Some(section) = section else {
            return ModuleTable::one();
        };
        let mut section = Section::new(names::MODULES, section);
        let [imported_functions, flags, ends] = section.columns()?;
        if let Some(module) = flags.iter().position(|flags| flags & !ALL_FLAGS != 0) {
            return Err(ImageError::UnknownModuleFlags { module, flags: flags[module] });
        }
        Ok(ModuleTable { imported_functions, flags, names: Names::read(names::MODULES, section, ends)? })
    }

    /// The bytes of the section, if the image needs one.
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, ImageError> {
        if *self.imported_functions == [0] && *self.flags == [0] && self.names.is_empty() {
            return Ok(None);
        }
        let ends = self.names.column(self.len())?;
        encode(names::MODULES, &[&self.imported_functions, &self.flags, &ends], &[self.names.as_bytes()]).map(Some)
    }

    /// The module at `index`.
    ///
    /// O(1).
    #[inline]
    #[must_use]
    pub fn get(&self, index: ModuleIndex) -> Option<ModuleInfo<'_>> {
        let at = index.as_u32() as usize;
        Some(ModuleInfo {
            index,
            imported_functions: *self.imported_functions.get(at)?,
            flags: *self.flags.get(at)?,
            names: &self.names,
        })
    }

    /// The number of modules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// Whether the image has no module.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// All modules, by ascending index.
    pub fn iter(&self) -> impl Iterator<Item = ModuleInfo<'_>> + '_ {
        (0..=u32::MAX).map_while(|index| self.get(ModuleIndex::new(index)))
    }
}

impl fmt::Debug for ModuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
