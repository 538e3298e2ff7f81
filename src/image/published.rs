//! Code that can run: a published text and the tables that describe it.

use std::fmt;
use std::fs::File;
use std::ops::Range;

use super::error::ImageError;
use super::format::Parsed;
use super::tables::Tables;
use super::tables::address_map::AddressMap;
use super::tables::function_table::FunctionTable;
use super::tables::module_table::ModuleTable;
use super::tables::patch_table::PatchTable;
use super::tables::signature_table::SignatureTable;
use super::tables::trap_table::TrapTable;
use super::unpublished::Unpublished;
use crate::handler::trap_code::TrapCode;
use crate::memory::ExecutableText;

/// One loaded, published image: executable text, and the tables that describe it.
///
/// The text has pages of its own, readable and executable. The tables are on the heap, checked when the image was
/// parsed. Dropping it unmaps the text: keep it alive while any thread may execute it. If the operating system refuses to
/// unmap, see [`mapping_stats`](crate::process::mapping_stats).
///
/// # Examples
///
/// ```
/// use trapline::TrapCode;
/// use trapline::image::{Image, ImageBuilder};
///
/// let file = ImageBuilder::new().text([0x0f, 0x0b]).trap(0, TrapCode::Unreachable).finish()?;
/// let mut unpublished = Image::parse(&file)?;
/// unpublished.text_mut()[1] = 0xff; // where relocations would go
/// let code = unpublished.publish()?;
/// assert_eq!(code.text(), [0x0f, 0xff]);
/// assert_eq!(code.text_range().len(), 2);
/// assert_eq!(code.trap_code(0), Some(TrapCode::Unreachable));
/// assert_eq!(code.trap_code(usize::MAX), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Image {
    text: ExecutableText,
    tables: Tables,
}

impl Image {
    /// Loads the image in `file`, the bytes of a whole file, without looking at its checksum.
    ///
    /// Whatever the bytes are, the result is an error or an image whose tables stay inside its text. Whether the
    /// text is what the compiler emitted only [`Image::parse_verified`] can tell.
    ///
    /// O(n), and O(n log n) for functions whose keys are out of order, and for signatures.
    ///
    /// # Errors
    ///
    /// An [`ImageError`] that says what is wrong: not an image of ours, made for another machine, cut off, damaged; or
    /// [`ImageError::OutOfMemory`], or [`ImageError::Io`] if the operating system has no memory for the text.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates.
    pub fn parse(file: &[u8]) -> Result<Unpublished, ImageError> {
        Unpublished::copy(Parsed::parse(file)?)
    }

    /// Loads the image in `file` if it is, to the last bit, what [`ImageBuilder`](crate::image::ImageBuilder) wrote.
    ///
    /// Finds accidents, not forgery: anyone can compute a matching checksum.
    ///
    /// O(n).
    ///
    /// # Errors
    ///
    /// As [`Image::parse`]; and [`ImageError::WrongLength`] or [`ImageError::WrongChecksum`] for a file that
    /// changed, [`ImageError::MissingSection`] or [`ImageError::BadCheckSection`] for one whose checksum was removed.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates.
    pub fn parse_verified(file: &[u8]) -> Result<Unpublished, ImageError> {
        Unpublished::copy(Parsed::parse_verified(file)?)
    }

    /// Loads the image in `file`, and executes its text in place if it begins a page of the file.
    ///
    /// The text is mapped privately, so that processes which load the same file share its pages until they change them
    /// with [`Unpublished::text_mut`]. Text that nobody changes is published by mapping the file once more, readable and
    /// executable, at the same address: its pages never were writable, which systems that deny execution of what was
    /// writable insist on (`PR_SET_MDWE`, systemd's `MemoryDenyWriteExecute`). Text that does not begin a page is
    /// copied, and so is, when it is published, text on a file system that is mounted `noexec`. Everything else is copied
    /// to the heap. A file descriptor is held until the text is published or dropped.
    ///
    /// # Safety
    ///
    /// Until the result, and the image published from it, is dropped, nobody, this process or another, may change
    /// or truncate the file. A private mapping is no snapshot: a later change of the file may show in text that was
    /// checked before, and be executed; reading what was truncated away raises SIGBUS. Replace such a file by renaming
    /// another over it.
    ///
    /// # Errors
    ///
    /// As [`Image::parse`], [`ImageError::Io`] if the file cannot be mapped, and [`ImageError::Sparse`] if it is
    /// more than 16 MiB long and stores less than a 64th of that.
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates.
    pub unsafe fn from_file(file: &File) -> Result<Unpublished, ImageError> {
        // SAFETY: nobody changes the file, says our caller.
        unsafe { Unpublished::from_file(file, |bytes| Parsed::parse(bytes)) }
    }

    /// As [`Image::from_file`], and checks that the file is what [`ImageBuilder`](crate::image::ImageBuilder) wrote,
    /// which reads all of it.
    ///
    /// # Safety
    ///
    /// As for [`Image::from_file`].
    ///
    /// # Errors
    ///
    /// As [`Image::from_file`] and [`Image::parse_verified`].
    ///
    /// # Signal safety
    ///
    /// Not for handlers: allocates.
    pub unsafe fn from_file_verified(file: &File) -> Result<Unpublished, ImageError> {
        // SAFETY: nobody changes the file, says our caller.
        unsafe { Unpublished::from_file(file, |bytes| Parsed::parse_verified(bytes)) }
    }

    pub(super) fn new(text: ExecutableText, tables: Tables) -> Self {
        Image { text, tables }
    }

    /// The machine code.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.text.bytes()
    }

    /// The addresses of the machine code; the end is exclusive. Empty if there is none.
    #[must_use]
    pub fn text_range(&self) -> Range<usize> {
        let range = self.text().as_ptr_range();
        range.start.expose_provenance()..range.end.addr()
    }

    /// Why the instruction at `offset` bytes into the text traps, if it is a trap site.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe: a binary search on the heap, without lock, allocation or panic.
    #[inline]
    #[must_use]
    pub fn trap_code(&self, offset: usize) -> Option<TrapCode> {
        self.tables.traps.get(offset)
    }

    /// Which instructions may trap.
    #[must_use]
    pub fn traps(&self) -> &TrapTable {
        &self.tables.traps
    }

    /// The functions of the text.
    #[inline]
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

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("text", &format_args!("{:#x?}", self.text_range()))
            .field("traps", &self.tables.traps.len())
            .field("functions", &self.tables.functions.len())
            .field("modules", &self.tables.modules.len())
            .field("signatures", &self.tables.signatures.len())
            .field("patches", &self.tables.patches.len())
            .field("sections", &self.tables.user)
            .finish()
    }
}
