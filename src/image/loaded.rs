//! A loaded image, before and after its text may be executed.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::{Deref, Range};

use memmap2::MmapOptions;

use super::error::ImageError;
use super::format::Parsed;
use super::tables::Tables;
use crate::handler::trap_code::TrapCode;
use crate::memory::{ExecutableText, WritableText};

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
    /// Any bytes are safe to parse: the result is an error, or an image whose tables stay inside its text. Only
    /// [`Image::parse_verified`] can tell whether the text is what the compiler emitted.
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
    /// No process may change or truncate the file until the result, and the image published from it, is dropped. A private mapping is no snapshot: a later change of the file may show in text that was
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

    /// The machine code.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.text.bytes()
    }

    /// The addresses of the machine code; the end is exclusive. Empty if the image has no text.
    #[must_use]
    pub fn text_range(&self) -> Range<usize> {
        let range = self.text().as_ptr_range();
        range.start.expose_provenance()..range.end.addr()
    }

    /// The code at `offset` bytes into the text as a function pointer of type `F`, or `None` if it is not in the text.
    ///
    /// # Panics
    ///
    /// Does not compile if `F` is not as large as a pointer.
    ///
    /// # Safety
    ///
    /// `F` is a type of function pointers: `unsafe extern "C" fn(u64) -> u64`, say. Getting one calls nothing; these are
    /// what its callers rely on, and what the author of the code and of this call vouches for:
    ///
    /// - A function of that type begins at `offset`: same parameters, same result, same calling convention, made for the
    ///   features of this processor. That is true of the offset of a function in [`functions`](Tables::functions) if
    ///   the compiler that made the image says so; nothing in the image can tell.
    /// - The image is not dropped while any thread is inside the function: hold an [`Arc`](std::sync::Arc) of it. `F` is
    ///   `Copy` and has no lifetime.
    /// - The function keeps to the rules of the host: it does not unwind into callers, and touches only memory it was
    ///   given. If `F` is not an `unsafe fn`, that holds for all arguments.
    /// - If the function may trap, it is called below
    ///   [`signal::catch_trap`](crate::signal::catch_trap), or under a handler of the embedder's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use trapline::image::{Image, ImageBuilder};
    ///
    /// // What `extern "C" fn() -> u32 { 42 }` compiles to.
    /// let text = if cfg!(target_arch = "x86_64") {
    ///     [0xb8, 0x2a, 0, 0, 0, 0xc3, 0, 0] // mov eax, 42; ret
    /// } else {
    ///     [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6] // mov w0, #42; ret
    /// };
    /// let image = Image::parse(&ImageBuilder::new().text(text).finish()?)?.publish()?;
    /// // SAFETY: the text is that function, takes no arguments, and the image outlives the call.
    /// let answer = unsafe { image.entry::<extern "C" fn() -> u32>(0) }.unwrap();
    /// assert_eq!(answer(), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub unsafe fn entry<F: Copy>(&self, offset: usize) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*const u8>(), "a function pointer is as large as a pointer") };
        let code: *const u8 = self.text().get(offset)?;
        code.expose_provenance();
        // SAFETY: as large as a pointer, by the assertion. It is not null, and that it points at a function of this type
        // our caller vouches for.
        Some(unsafe { mem::transmute_copy::<*const u8, F>(&code) })
    }

    /// Why the instruction at `offset` bytes into the text traps, if it is a trap site.
    ///
    /// O(log n).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[inline]
    #[must_use]
    pub fn trap_code(&self, offset: usize) -> Option<TrapCode> {
        self.tables.traps.get(offset)
    }
}

impl Deref for Image {
    type Target = Tables;

    #[inline]
    fn deref(&self) -> &Tables {
        &self.tables
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("text", &format_args!("{:#x?}", self.text_range()))
            .field("tables", &self.tables)
            .finish()
    }
}

/// A loaded image whose text can still be changed, and cannot yet be executed.
///
/// Made by [`Image::parse`] and its siblings. Apply relocations with [`Unpublished::text_mut`], then
/// [`publish`](Unpublished::publish). Dropping it unmaps the text.
pub struct Unpublished {
    text: WritableText,
    tables: Tables,
}

impl Unpublished {
    fn copy(image: Parsed<'_>) -> Result<Self, ImageError> {
        Ok(Unpublished { text: WritableText::copy(image.text)?, tables: image.tables })
    }

    /// # Safety
    ///
    /// As for [`Image::from_file`].
    unsafe fn from_file(
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
        Ok(Image { text: self.text.publish()?, tables: self.tables })
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
}

impl Deref for Unpublished {
    type Target = Tables;

    #[inline]
    fn deref(&self) -> &Tables {
        &self.tables
    }
}

/// The file stores about what its length promises, so that copies of its tables take memory in proportion to what is
/// stored.
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
