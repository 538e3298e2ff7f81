//! From the bytes of a file to checked tables.

use std::fmt;
use std::ops::Range;

use super::sections::Sections;
use super::{ImageError, Target, marker, names};
use crate::code::address_map::AddressMap;
use crate::code::allocate;
use crate::code::compiled_functions::CompiledFunctionsTable;
use crate::code::module_table::ModuleTable;
use crate::code::patch_table::PatchTable;
use crate::code::references;
use crate::code::signature_table::SignatureTable;
use crate::code::tables::Tables;
use crate::code::trap_table::TrapTable;

/// A parsed image: tables on the heap, the text still in the file.
pub(crate) struct Image<'a> {
    pub(crate) text: &'a [u8],
    /// Where in the file the text is.
    pub(crate) text_range: Range<usize>,
    pub(crate) tables: Tables,
}

impl<'a> Image<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Image<'a>, ImageError> {
        let sections = Sections::read(file, host()?)?;
        marker::check(sections.get(names::MARKER).ok_or(ImageError::NotAnImage)?.bytes)?;
        sections.require_relocatable()?;
        let text = sections.require(names::TEXT)?;
        Ok(Image { text: text.bytes, text_range: text.range.clone(), tables: tables(&sections, text.bytes)? })
    }

    pub(crate) fn parse_verified(file: &'a [u8]) -> Result<Image<'a>, ImageError> {
        let image = Image::parse(file)?;
        super::verify(file, host()?)?;
        Ok(image)
    }
}

fn host() -> Result<Target, ImageError> {
    Target::host().ok_or(ImageError::UnsupportedHost)
}

fn tables(sections: &Sections<'_>, text: &[u8]) -> Result<Tables, ImageError> {
    let required = |name| sections.require(name).map(|section| section.bytes);
    let optional = |name| sections.get(name).map(|section| section.bytes);
    let tables = Tables {
        traps: TrapTable::parse(required(names::TRAPS)?, text.len())?,
        functions: CompiledFunctionsTable::parse(
            required(names::FUNCTIONS)?,
            optional(names::KEYS),
            optional(names::NAMES),
            text.len(),
        )?,
        modules: ModuleTable::parse(optional(names::MODULES))?,
        signatures: SignatureTable::parse(optional(names::SIGNATURES))?,
        addresses: AddressMap::parse(optional(names::ADDRESSES), text.len())?,
        patches: PatchTable::parse(optional(names::PATCHES), text)?,
        configuration: allocate::copy(optional(names::CONFIGURATION).unwrap_or_default())?,
        user: UserSections::copy(sections)?,
    };
    references::check(&tables.functions, &tables.modules, &tables.signatures, &tables.patches)?;
    Ok(tables)
}

/// The embedder's own sections, sorted by name.
pub(crate) struct UserSections(Box<[UserSection]>);

struct UserSection {
    name: Box<str>,
    bytes: Box<[u8]>,
}

impl UserSections {
    fn copy(sections: &Sections<'_>) -> Result<Self, ImageError> {
        let ours =
            || sections.iter().filter_map(|section| Some((section.name.strip_prefix(names::USER)?, section.bytes)));
        let mut copies = allocate::room(ours().count())?;
        for (name, bytes) in ours() {
            copies.push(UserSection { name: allocate::copy_str(name)?.into(), bytes: allocate::copy(bytes)? });
        }
        Ok(UserSections(copies.into()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let index = self.0.binary_search_by_key(&name, |section| &section.name).ok()?;
        Some(&self.0.get(index)?.bytes)
    }
}

impl fmt::Debug for UserSections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|section| (&section.name, section.bytes.len()))).finish()
    }
}
