//! Sections that mean something to the embedder alone.

use crate::allocate;
use crate::image::error::ImageError;

/// The embedder's own bytes.
#[derive(Default)]
pub(in crate::image) struct Embedder {
    configuration: Box<[u8]>,
    /// By ascending name.
    sections: Vec<(String, Box<[u8]>)>,
}

impl Embedder {
    /// Copies `configuration` and `sections`, names and bytes in ascending order of names.
    pub(in crate::image) fn copy<'a>(
        configuration: &[u8],
        sections: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Self, ImageError> {
        let mut copies = allocate::room(sections.clone().count())?;
        for (name, bytes) in sections {
            copies.push((allocate::copy_str(name)?, allocate::copy(bytes)?));
        }
        Ok(Embedder { configuration: allocate::copy(configuration)?, sections: copies })
    }

    pub(super) fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    pub(super) fn section(&self, name: &str) -> Option<&[u8]> {
        let index = self.sections.binary_search_by_key(&name, |(name, _)| name.as_str()).ok()?;
        Some(&self.sections.get(index)?.1)
    }
}
