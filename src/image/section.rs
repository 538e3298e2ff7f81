//! What sections are called, and the limits of the format. Everything else in this folder is built on this file.

use std::fmt;

/// A section of an image.
///
/// It prints as `the table of patches (section .trapline.patches)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Section {
    /// Its name in the file.
    pub name: &'static str,
    /// What it holds, in words.
    pub content: &'static str,
}

impl Section {
    pub(super) const fn new(name: &'static str, content: &'static str) -> Section {
        Section { name, content }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (section {})", self.content, self.name)
    }
}

// Those of the file as a whole. The sections of a table stand beside the table.
pub(super) const MARKER: Section = Section::new(".trapline.image", "the marker of an image");
pub(super) const TEXT: Section = Section::new(".text", "the text");
pub(super) const CONFIGURATION: Section = Section::new(".trapline.config", "the configuration");
pub(super) const CHECK: Section = Section::new(".trapline.check", "the checksum");
/// Not ours, but every file's.
pub(super) const SECTION_NAMES: Section = Section::new(".shstrtab", "the table of section names");

/// What all names but `.text` begin with.
pub(super) const OURS: &str = ".trapline.";
/// What the names of the embedder's sections begin with.
pub(super) const USER: &str = ".trapline.user.";

/// The longest name of a section of ours, in bytes.
pub(super) const MAX_NAME_LEN: usize = 255;
/// The longest patch, in bytes.
pub(super) const MAX_PATCH_LEN: usize = 16;
/// The largest alignment of the text within the file, in bytes.
pub(super) const MAX_TEXT_ALIGN: u64 = 0x1_0000;
