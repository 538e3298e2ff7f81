//! What all tables have in common.

use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use crate::allocate;
use crate::image::error::ImageError;
use crate::image::section::Section;

/// One table of an image: what it is to the rest of the image.
///
/// What a value holds has been checked, so that no lookup can leave the table or the text.
pub(in crate::image) trait Table: Entries + Sized {
    /// The sections that hold it.
    const SECTIONS: &'static [Section];

    /// Checks and copies the table of `text`. An image that lacks an optional section says what the builder says when
    /// it was told nothing.
    fn read(file: &Lookup<'_>, text: &[u8]) -> Result<Self, ImageError>;

    /// Adds those of its sections that the image needs.
    fn write<'t>(&'t self, file: &mut Encoded<'t>) -> Result<(), ImageError>;
}

/// Finds the bytes of a section in a file.
pub(in crate::image) type Lookup<'f> = dyn Fn(Section) -> Option<&'f [u8]> + 'f;

/// The bytes of a section that every image has.
pub(super) fn required<'f>(file: &Lookup<'f>, section: Section) -> Result<&'f [u8], ImageError> {
    file(section).ok_or(ImageError::MissingSection { section })
}

/// The sections of all tables, in the order that they have in a file.
#[derive(Default)]
pub(in crate::image) struct Encoded<'t>(pub(in crate::image) Vec<(Section, Cow<'t, [u8]>)>);

impl<'t> Encoded<'t> {
    pub(super) fn add(&mut self, section: Section, bytes: impl Into<Cow<'t, [u8]>>) -> Result<(), ImageError> {
        Ok(allocate::push(&mut self.0, (section, bytes.into()))?)
    }
}

/// A table whose entries are numbered from 0.
#[doc(hidden)]
pub trait Entries {
    /// One of them.
    type Entry<'t>
    where
        Self: 't;

    /// The number of entries.
    fn count(&self) -> usize;

    /// Entry `index`, if there is one.
    fn entry(&self, index: usize) -> Option<Self::Entry<'_>>;
}

/// The entries of a table of an image, in order.
pub struct Iter<'t, T> {
    table: &'t T,
    left: Range<usize>,
}

impl<'t, T: Entries> Iter<'t, T> {
    pub(super) fn new(table: &'t T) -> Self {
        Iter { table, left: 0..table.count() }
    }
}

impl<'t, T: Entries> Iterator for Iter<'t, T> {
    type Item = T::Entry<'t>;

    fn next(&mut self) -> Option<Self::Item> {
        self.table.entry(self.left.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl<T: Entries> DoubleEndedIterator for Iter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.table.entry(self.left.next_back()?)
    }
}

impl<T: Entries> ExactSizeIterator for Iter<'_, T> {}
impl<T: Entries> FusedIterator for Iter<'_, T> {}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Iter { table: self.table, left: self.left.clone() }
    }
}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.left).finish_non_exhaustive()
    }
}
