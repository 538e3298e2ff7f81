//! The modules of an image.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::columns::{Names, Reader, encode};
use super::table::{Encoded, Entries, Lookup, Table};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::key::ModuleIndex;
use crate::image::section::Section;

const SECTION: Section = Section::new(".trapline.modules", "the table of modules");

/// The modules that were compiled into an image. A component has several.
///
/// A section of an image, of little-endian `u32`; a name ends where the next begins, and an empty one counts as no name.
/// An image without the section has one module, without a name, imports or flags:
///
/// ```text
/// count | imported functions: [count] | flags: [count] | name ends: [count] | UTF-8 bytes
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
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
    /// Those of the table, read only when they are asked for.
    names: &'a Names,
}

/// What [`ImageBuilder::module`](crate::image::ImageBuilder::module) is told about a module. The default is one without a
/// name, imports or debug information.
///
/// # Examples
///
/// ```
/// use trapline::image::ModuleDescription;
///
/// let module = ModuleDescription::new().name("main").imported_functions(3);
/// assert_eq!(module.name.as_deref(), Some("main"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ModuleDescription {
    /// The module's name. An empty name counts as no name.
    pub name: Option<String>,
    /// How many functions the module imports. Their indices come before those of its own.
    pub imported_functions: u32,
    /// Whether the module came with debug information that was not parsed.
    pub unparsed_debug_info: bool,
    /// Whether the environment that the program runs in decides if debug information is parsed.
    pub debug_info_from_environment: bool,
}

impl ModuleDescription {
    /// A module without a name, imports or debug information.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the module's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many functions the module imports.
    #[must_use]
    pub fn imported_functions(mut self, count: u32) -> Self {
        self.imported_functions = count;
        self
    }

    /// Sets whether the module came with debug information that was not parsed.
    #[must_use]
    pub fn unparsed_debug_info(mut self, unparsed: bool) -> Self {
        self.unparsed_debug_info = unparsed;
        self
    }

    /// Sets whether the environment that the program runs in decides if debug information is parsed.
    #[must_use]
    pub fn debug_info_from_environment(mut self, depends: bool) -> Self {
        self.debug_info_from_environment = depends;
        self
    }
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

impl Hash for ModuleInfo<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.index, self.imported_functions, self.flags, self.name()).hash(state);
    }
}

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
    pub(in crate::image) fn one() -> Result<ModuleTable, ImageError> {
        ModuleTable::describe(&[ModuleDescription::default()])
    }

    /// The table of `modules`. O(n).
    pub(in crate::image) fn describe(modules: &[ModuleDescription]) -> Result<ModuleTable, ImageError> {
        let flags = |module: &ModuleDescription| {
            let unparsed = if module.unparsed_debug_info { UNPARSED_DEBUG_INFO } else { 0 };
            let environment = if module.debug_info_from_environment { DEBUG_INFO_FROM_ENVIRONMENT } else { 0 };
            unparsed | environment
        };
        Ok(ModuleTable {
            imported_functions: allocate::collect(modules.iter().map(|module| module.imported_functions))?,
            flags: allocate::collect(modules.iter().map(flags))?,
            names: Names::collect(SECTION, modules.iter().map(|module| module.name.as_deref()))?,
        })
    }

    /// The module at `index`.
    ///
    /// O(1).
    #[inline]
    #[must_use]
    pub fn get(&self, index: ModuleIndex) -> Option<ModuleInfo<'_>> {
        self.entry(index.as_u32() as usize)
    }
}

impl Entries for ModuleTable {
    type Entry<'t> = ModuleInfo<'t>;

    fn count(&self) -> usize {
        self.flags.len()
    }

    #[inline]
    fn entry(&self, index: usize) -> Option<ModuleInfo<'_>> {
        Some(ModuleInfo {
            index: ModuleIndex::new(u32::try_from(index).ok()?),
            imported_functions: *self.imported_functions.get(index)?,
            flags: *self.flags.get(index)?,
            names: &self.names,
        })
    }
}

impl Table for ModuleTable {
    const SECTIONS: &'static [Section] = &[SECTION];

    fn read(file: &Lookup<'_>, _: &[u8]) -> Result<Self, ImageError> {
        let Some(bytes) = file(SECTION) else {
            return ModuleTable::one();
        };
        let mut reader = Reader::new(SECTION, bytes);
        let [imported_functions, flags, ends] = reader.columns()?;
        if let Some(module) = flags.iter().position(|flags| flags & !ALL_FLAGS != 0) {
            return Err(ImageError::UnknownModuleFlags { module, flags: flags[module] });
        }
        Ok(ModuleTable { imported_functions, flags, names: Names::read(reader, ends)? })
    }

    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError> {
        if *self.imported_functions == [0] && *self.flags == [0] && self.names.is_empty() {
            return Ok(());
        }
        let ends = self.names.column(self.len())?;
        let columns = [&*self.imported_functions, &self.flags, &ends];
        file.add(SECTION, encode(SECTION, &columns, &[self.names.as_bytes()])?)
    }
}

impl fmt::Debug for ModuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
