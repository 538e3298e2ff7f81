//! From the bytes of a file to checked tables.

use std::ops::Range;

use super::sections::Sections;
use super::{Target, marker};
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::names;
use crate::image::tables::address_map::AddressMap;
use crate::image::tables::function_table::FunctionTable;
use crate::image::tables::module_table::ModuleTable;
use crate::image::tables::patch_table::PatchTable;
use crate::image::tables::references;
use crate::image::tables::signature_table::SignatureTable;
use crate::image::tables::trap_table::TrapTable;
use crate::image::tables::{Tables, UserSections};

/// A parsed image: tables on the heap, the text still in the file.
pub(crate) struct Parsed<'a> {
    pub(crate) text: &'a [u8],
    /// Where in the file the text is.
    pub(crate) text_range: Range<usize>,
    pub(crate) tables: Tables,
}

impl<'a> Parsed<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Parsed<'a>, ImageError> {
        let sections = Sections::read(file, host()?)?;
        marker::check(sections.get(names::MARKER).ok_or(ImageError::NotAnImage)?.bytes)?;
        sections.require_relocatable()?;
        let text = sections.require(names::TEXT)?;
        Ok(Parsed { text: text.bytes, text_range: text.range.clone(), tables: tables(&sections, text.bytes)? })
    }

    pub(crate) fn parse_verified(file: &'a [u8]) -> Result<Parsed<'a>, ImageError> {
        let image = Parsed::parse(file)?;
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
    let user = || sections.iter().filter_map(|section| Some((section.name.strip_prefix(names::USER)?, section.bytes)));
    let tables = Tables {
        traps: TrapTable::parse(required(names::TRAPS)?, text.len())?,
        functions: FunctionTable::parse(
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
        user: UserSections::copy(user)?,
    };
    references::check(&tables.functions, &tables.modules, &tables.signatures, &tables.patches)?;
    Ok(tables)
}
