//! The file format, from bytes to checked tables and back; [`crate::image`] describes it.

mod builder;
mod envelope;
mod sections;
mod target;
mod write;

use std::ops::Range;

pub use builder::ImageBuilder;
use sections::Sections;
pub use target::Target;

use super::error::ImageError;
use super::section::{CONFIGURATION, MARKER, TEXT, USER};
use super::tables::{Embedder, Tables};

/// A parsed image: tables on the heap, the text still in the file.
pub(super) struct Parsed<'a> {
    pub(super) text: &'a [u8],
    /// Where in the file the text is.
    pub(super) text_range: Range<usize>,
    pub(super) tables: Tables,
}

impl<'a> Parsed<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Parsed<'a>, ImageError> {
        let sections = Sections::read(file, host()?)?;
        envelope::check_marker(sections.get(MARKER).ok_or(ImageError::NotAnImage)?.bytes)?;
        sections.require_relocatable()?;
        let text = sections.require(TEXT)?;
        let lookup = |section| sections.get(section).map(|found| found.bytes);
        let user = sections.iter().filter_map(|found| Some((found.name.strip_prefix(USER)?, found.bytes)));
        let embedder = Embedder::copy(lookup(CONFIGURATION).unwrap_or_default(), user)?;
        let tables = Tables::read(&lookup, text.bytes, embedder)?;
        Ok(Parsed { text: text.bytes, text_range: text.range.clone(), tables })
    }

    pub(super) fn parse_verified(file: &'a [u8]) -> Result<Parsed<'a>, ImageError> {
        let image = Parsed::parse(file)?;
        envelope::verify(file, host()?)?;
        Ok(image)
    }
}

fn host() -> Result<Target, ImageError> {
    Target::host().ok_or(ImageError::UnsupportedHost)
}
