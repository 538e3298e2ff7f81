//! Sections that mean something to the embedder alone.

use std::fmt;

use crate::allocate;
use crate::image::error::ImageError;

/// The embedder's own sections, sorted by name.
pub(crate) struct UserSections(Box<[UserSection]>);

struct UserSection {
    name: Box<str>,
    bytes: Box<[u8]>,
}

impl UserSections {
    /// Copies `sections`, names and bytes in ascending order of names.
    pub(crate) fn copy<'a, I: Iterator<Item = (&'a str, &'a [u8])>>(
        sections: impl Fn() -> I,
    ) -> Result<Self, ImageError> {
        let mut copies = allocate::room(sections().count())?;
        for (name, bytes) in sections() {
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
