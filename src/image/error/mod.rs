//! Everything that can be wrong with an image.

mod display;

use std::io;
use std::ops::Range;

use crate::allocate::OutOfMemory;
use crate::image::key::{FunctionKey, SignatureIndex};
use crate::image::section::Section;
use crate::memory::TextError;

/// Why an image could not be built, read or loaded.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImageError {
    /// The bytes do not begin as an ELF file does.
    NotElf,
    /// An ELF file for addresses of another width. The byte is the header's class: 1 for 32 bits, 2 for 64.
    ForeignClass {
        /// The class found; 2 was expected.
        found: u8,
    },
    /// An ELF file in the other byte order. The byte is the header's: 1 for little-endian, 2 for big-endian.
    ForeignEndianness {
        /// The byte order found.
        found: u8,
        /// The byte order of this machine.
        expected: u8,
    },
    /// An ELF file for another machine. The numbers are those of the header's `e_machine`.
    ForeignMachine {
        /// The machine found.
        found: u16,
        /// This machine.
        expected: u16,
    },
    /// There are no images for the machine that this program runs on.
    UnsupportedHost,
    /// An ELF file, but not an image of ours: it has no valid marker section.
    NotAnImage,
    /// An image in a format that this version of the crate does not know.
    UnsupportedVersion {
        /// The version found.
        found: u32,
        /// The version that this crate reads and writes.
        supported: u32,
    },
    /// An image that was changed into another kind of ELF file. The number is the header's `e_type`; 1 was expected.
    NotRelocatable {
        /// The kind found.
        found: u16,
    },
    /// The ELF headers contradict themselves or reach past the end of the file.
    MalformedHeaders {
        /// What was wrong.
        what: &'static str,
    },
    /// A section that every image has is missing.
    MissingSection {
        /// The section.
        section: Section,
    },
    /// A section that may exist once exists twice.
    DuplicateSection {
        /// The section, in words.
        section: String,
    },
    /// A section ends past the end of the file.
    SectionOutsideFile {
        /// The section, in words.
        section: String,
        /// Where it claims to begin, in bytes from the start of the file.
        offset: u64,
        /// How many bytes it claims to have.
        size: u64,
        /// How many bytes the file has.
        file_len: usize,
    },
    /// Two parts of the file that must not share bytes do.
    SectionsOverlap {
        /// The one that begins first, or both at the same byte.
        first: String,
        /// The other.
        second: String,
    },
    /// A section is compressed, or has no bytes in the file.
    SectionKind {
        /// The section, in words.
        section: String,
    },
    /// A name for a section of the embedder's own is empty, too long, or has other characters than `A-Za-z0-9_-.`.
    BadSectionName {
        /// The name.
        name: String,
    },
    /// A section is shorter or longer than what its first bytes say it holds.
    TableLength {
        /// The section.
        section: Section,
        /// How many bytes it should have.
        expected: u64,
        /// How many it has.
        found: u64,
    },
    /// A table has more entries, or more bytes of names and the like, than its format can count.
    TooManyEntries {
        /// The section it would be stored in.
        section: Section,
    },
    /// A text offset does not fit in the 32 bits that an image stores.
    OffsetTooLarge {
        /// What is there: "trap site", "function", "source offset" or "patch".
        entry: &'static str,
        /// The offset.
        offset: usize,
    },
    /// A trap site, function, source offset or patch is listed before the end of its predecessor.
    OutOfOrder {
        /// What it is: "trap site", "function", "source offset" or "patch".
        entry: &'static str,
        /// The text offsets of the one listed before it.
        previous: Range<usize>,
        /// Its own text offsets, which do not lie past those.
        range: Range<usize>,
    },
    /// A trap site, function, source offset or patch does not lie inside the text.
    OutsideText {
        /// What it is: "trap site", "function", "source offset" or "patch".
        entry: &'static str,
        /// Its text offsets.
        range: Range<usize>,
        /// The length of the text, in bytes.
        text_len: usize,
    },
    /// A trap site has a code without meaning.
    UnknownTrapCode {
        /// Its offset.
        offset: usize,
        /// The byte that is no [`TrapCode`](crate::TrapCode).
        code: u8,
    },
    /// A function has no code, or ends before it begins.
    FunctionEmpty {
        /// Its offset.
        start: usize,
    },
    /// A function's key has a kind without meaning, or a module where its kind has no module.
    UnknownFunctionKey {
        /// The offset of the function.
        start: usize,
        /// The key's space, as the image stores it.
        space: u32,
    },
    /// A function's key names a module whose number does not fit the format: 2^24 or more.
    ModuleIndexTooLarge {
        /// The key.
        key: FunctionKey,
    },
    /// Two functions have the same key.
    DuplicateFunctionKey {
        /// The key.
        key: FunctionKey,
        /// The offset of the first function that has it.
        first: usize,
        /// The offset of the next.
        second: usize,
    },
    /// A function's key names a module that the image does not have.
    NoSuchModule {
        /// The key.
        key: FunctionKey,
        /// How many modules the image has.
        modules: usize,
    },
    /// A function's key names a signature that the image does not have.
    NoSuchSignature {
        /// The key.
        key: FunctionKey,
        /// How many signatures the image has.
        signatures: usize,
    },
    /// A function's number in its module, imports counted first, does not fit 32 bits.
    FunctionIndexOverflow {
        /// The function's key.
        key: FunctionKey,
        /// How many functions the module imports.
        imported_functions: u32,
    },
    /// A module has flags without meaning.
    UnknownModuleFlags {
        /// The module, counted from 0.
        module: usize,
        /// The flags that it has.
        flags: u32,
    },
    /// Two signatures are the same bytes.
    DuplicateSignature {
        /// The first.
        first: SignatureIndex,
        /// The one that equals it.
        second: SignatureIndex,
    },
    /// A source offset is `u32::MAX`, which is reserved for code without a source.
    SourceOffsetTooLarge {
        /// The text offset of the entry.
        offset: usize,
    },
    /// A patch has no bytes, more than [`Patch::MAX_LEN`](crate::image::Patch::MAX_LEN), or a different number in each form.
    PatchLength {
        /// Its offset.
        offset: usize,
        /// How many bytes it has when enabled.
        enabled: usize,
        /// How many when disabled.
        disabled: usize,
    },
    /// A patch has the same bytes in both forms.
    PatchWithoutEffect {
        /// Its offset.
        offset: usize,
    },
    /// A patch does not lie inside one function of the guest.
    PatchOutsideFunction {
        /// The bytes that it would change.
        range: Range<usize>,
    },
    /// The text does not hold the disabled bytes of a patch.
    PatchNotInText {
        /// Where the text should hold them.
        range: Range<usize>,
    },
    /// Two sections that describe the same things disagree on their number.
    EntryCount {
        /// The section that has too few or too many.
        section: Section,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// In a section of names or other bytes, a piece ends before it begins.
    EndsOutOfOrder {
        /// The section.
        section: Section,
        /// Which piece, counted from 0.
        index: usize,
    },
    /// Names are not UTF-8 (`index` is `None`), or one's bounds are not those of a name.
    BadName {
        /// The section that holds the names.
        section: Section,
        /// Which name, counted from 0.
        index: Option<usize>,
    },
    /// An alignment is not a power of two, or above [`ImageBuilder::MAX_TEXT_ALIGN`](crate::image::ImageBuilder::MAX_TEXT_ALIGN).
    BadAlignment {
        /// The alignment, in bytes.
        align: u64,
    },
    /// The section that holds the checksum has another length or another beginning than a checksum.
    BadCheckSection,
    /// The file is longer or shorter than when it was made.
    WrongLength {
        /// The length stored in the file, in bytes.
        stored: u64,
        /// The length it has.
        found: u64,
    },
    /// The file's bytes are not those it was made with.
    WrongChecksum {
        /// The checksum stored in the file.
        stored: u32,
        /// The checksum of what is there.
        computed: u32,
    },
    /// A file that is almost nothing but holes: loading it would take far more memory than it stores.
    Sparse {
        /// The length of the file, in bytes.
        len: u64,
        /// How many bytes it takes where it is stored.
        stored: u64,
    },
    /// There was no memory.
    OutOfMemory {
        /// How many bytes were asked for, at least.
        bytes: usize,
    },
    /// The operating system refused to map memory or the file.
    Io(io::Error),
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImageError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<OutOfMemory> for ImageError {
    fn from(OutOfMemory { bytes }: OutOfMemory) -> Self {
        ImageError::OutOfMemory { bytes }
    }
}

impl From<TextError> for ImageError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::OutOfMemory(error) => error.into(),
            TextError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> Self {
        ImageError::Io(error)
    }
}
