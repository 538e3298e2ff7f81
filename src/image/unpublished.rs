//! An image before its text may be executed.

use std::fmt;
use std::fs::File;
use std::io;

use memmap2::MmapOptions;

use super::error::ImageError;
use super::format::Parsed;
use super::published::Image;
use super::tables::Tables;
use super::tables::address_map::AddressMap;
use super::tables::function_table::FunctionTable;
use super::tables::module_table::ModuleTable;
use super::tables::patch_table::PatchTable;
use super::tables::signature_table::SignatureTable;
use super::tables::trap_table::TrapTable;
use crate::memory::WritableText;

/// A loaded image whose text can still be changed, and cannot yet be executed.
///
/// Made by [`Image::parse`] and its siblings. Apply relocations with [`Unpublished::text_mut`], then
/// [`publish`](Unpublished::publish). Dropping it unmaps the text.
pub struct Unpublished {
    text: WritableText,
    tables: Tables,
}

impl Unpublished {
    pub(super) fn copy(image: Parsed<'_>) -> Result<Self, ImageError> {
        Ok(Unpublished { text: WritableText::copy(image.text)?, tables: image.tables })
    }

    /// # Safety
    ///
    /// As for [`Image::from_file`].
    pub(super) unsafe fn from_file(
        file: &File,
        parse: impl for<'a> FnOnce(&'a [u8]) -> Result<Parsed<'a>, ImageError>,
    ) -> Result<Self, ImageError> {
        check_stored(file)?;
        // SAFETY: nobody changes the file, says our caller. This mapping ends with this function: the tables are copied
        // out, and the text has a mapping of its own.
        let whole = unsafe { MmapOptions::new().map_copy_read_only(file)? };
        let image = parse(&whole)?;
        // SAFETY: nobody changes the file, says our caller.
        match unsafe { WritableText::map(file, image.text_range.clone())? } {
            Some(text) => Ok(Unpublished { text, tables: image.tables }),
            None => Unpublished::copy(image),
        }
    }

    /// Makes the text executable, and no longer writable, and returns the finished image.
    ///
    /// Only the text's own pages change protection; they are never writable and executable at once. On return every
    /// thread that learns the address can execute the text: where hardware does not keep instruction caches coherent
    /// (AArch64), this does. Nothing is registered: see [`process::register`](crate::process::register).
    ///
    /// O(1), or O(n) where caches are maintained by hand.
    ///
    /// # Errors
    ///
    /// The operating system's, if it refuses executable memory: [`io::ErrorKind::PermissionDenied`] where nothing that
    /// was writable may become executable, unless the text is an unchanged file's (see [`Image::from_file`]). And
    /// [`io::ErrorKind::Unsupported`] on a machine whose caches this crate does not know how to make coherent. The text
    /// is then unmapped.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: system calls.
    pub fn publish(self) -> io::Result<Image> {
        Ok(Image::new(self.text.publish()?, self.tables))
    }

    /// The machine code.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.text.bytes()
    }

    /// The machine code, to be changed in place: for relocations, say. Its address is final.
    ///
    /// Changes never reach the file that the text came from. Calling this counts as one: text of a file is then
    /// published as it is in memory.
    #[must_use]
    pub fn text_mut(&mut self) -> &mut [u8] {
        self.text.bytes_mut()
    }

    /// Which instructions may trap.
    #[must_use]
    pub fn traps(&self) -> &TrapTable {
        &self.tables.traps
    }

    /// The functions of the text.
    #[must_use]
    pub fn functions(&self) -> &FunctionTable {
        &self.tables.functions
    }

    /// The modules that the text was compiled from.
    #[must_use]
    pub fn modules(&self) -> &ModuleTable {
        &self.tables.modules
    }

    /// The signatures that the functions' keys speak of.
    #[must_use]
    pub fn signatures(&self) -> &SignatureTable {
        &self.tables.signatures
    }

    /// Where in the source the instructions came from. Empty if the image does not say.
    #[must_use]
    pub fn address_map(&self) -> &AddressMap {
        &self.tables.addresses
    }

    /// Where a private copy of the text may be changed, and how.
    #[must_use]
    pub fn patches(&self) -> &PatchTable {
        &self.tables.patches
    }

    /// The settings that the code was compiled with, as
    /// [`ImageBuilder::configuration`](crate::image::ImageBuilder::configuration) was given them. Empty if it was not.
    #[must_use]
    pub fn configuration(&self) -> &[u8] {
        &self.tables.configuration
    }

    /// The bytes that [`ImageBuilder::section`](crate::image::ImageBuilder::section) was given under `name`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        self.tables.user.get(name)
    }
}

/// The file stores what its length promises, more or less, so that copies of its tables take memory in proportion to
/// what somebody has stored.
#[cfg(unix)]
fn check_stored(file: &File) -> Result<(), ImageError> {
    use std::os::unix::fs::MetadataExt;

    /// Holes that do no harm. Programs that copy files make some where there are zeros.
    const HARMLESS: u64 = 16 << 20;
    /// No file system compresses machine code and its tables like this.
    const COMPRESSED: u64 = 64;
    let metadata = file.metadata()?;
    let (len, stored) = (metadata.len(), metadata.blocks().saturating_mul(512));
    // Some file systems do not say, or store little files elsewhere. An image of ours is no hole from end to end.
    let unknown = stored == 0;
    if unknown || len <= HARMLESS.max(stored.saturating_mul(COMPRESSED)) {
        Ok(())
    } else {
        Err(ImageError::Sparse { len, stored })
    }
}

#[cfg(not(unix))]
fn check_stored(_: &File) -> Result<(), ImageError> {
    Ok(())
}

impl fmt::Debug for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpublished").field("text", &self.text().as_ptr_range()).finish_non_exhaustive()
    }
}
