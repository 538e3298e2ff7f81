//! What the errors say: what is wrong, where, and what to do about it.

use std::fmt;

use super::ImageError;
use crate::code::image::{ImageBuilder, names};
use crate::code::patch_table::Patch;

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NotElf => f.write_str("not an image: the file does not begin with an ELF header"),
            ImageError::ForeignClass { found } => write!(
                f,
                "ELF class {found} at byte 4 of the file is not 64 bits (2); build the image for this machine"
            ),
            ImageError::ForeignEndianness { found, expected } => write!(
                f,
                "byte order {found} at byte 5 of the file is not this machine's ({expected}); build the image for this \
                 machine"
            ),
            ImageError::ForeignMachine { found, expected } => write!(
                f,
                "machine {found} at byte 18 of the file is not this one ({expected}); build the image for this machine"
            ),
            ImageError::UnsupportedHost => f.write_str("there is no image format for this machine"),
            ImageError::NotAnImage => write!(
                f,
                "an ELF file, but not an image: section {} is missing or does not begin with its magic bytes; make \
                 images with ImageBuilder",
                names::MARKER
            ),
            ImageError::UnsupportedVersion { found, supported } => write!(
                f,
                "image format version {found} in section {} is not {supported}, the one this library reads; build the \
                 image again",
                names::MARKER
            ),
            ImageError::NotRelocatable { found } => write!(
                f,
                "ELF type {found} at byte 16 of the file is not relocatable (1): a linker has changed the image; load \
                 the file as it was built"
            ),
            ImageError::MalformedHeaders { what } => {
                write!(f, "malformed ELF headers: {what}; the file is damaged or cut off")
            }
            ImageError::MissingSection { name } => {
                write!(f, "section {name} is missing; the image was stripped or damaged")
            }
            ImageError::DuplicateSection { name } => {
                write!(f, "section {name:?} exists more than once")
            }
            ImageError::SectionOutsideFile { name, offset, size, file_len } => write!(
                f,
                "section {name:?}, {size} bytes at byte {offset}, reaches past the end of the file ({file_len} bytes); \
                 the file is damaged or cut off"
            ),
            ImageError::SectionsOverlap { first, second } => {
                write!(f, "{first:?} and {second:?} share bytes of the file")
            }
            ImageError::SectionKind { name } => {
                write!(f, "section {name:?} is compressed or has no bytes in the file; store it plainly")
            }
            ImageError::BadSectionName { name } => write!(
                f,
                "{name:?} cannot name a section: use 1 to {} of the characters A-Z a-z 0-9 _ - .",
                names::MAX_LEN - names::USER.len()
            ),
            ImageError::TableLength { section, expected, found } => {
                write!(f, "section {section} has {found} bytes, but its contents call for {expected}")
            }
            ImageError::TooManyEntries { section } => {
                write!(f, "more entries or bytes than 32 bits can count in section {section}; split the image")
            }
            ImageError::TrapsOutOfOrder { previous, offset } if previous == offset => {
                write!(f, "text offset {offset:#x} has two trap sites; give each instruction one")
            }
            ImageError::TrapsOutOfOrder { previous, offset } => write!(
                f,
                "trap site at text offset {offset:#x} is listed after the one at {previous:#x}; sort them by offset"
            ),
            ImageError::TrapOutsideText { offset, text_len } => {
                write!(f, "trap site at text offset {offset:#x} is outside the text ({text_len:#x} bytes)")
            }
            ImageError::UnknownTrapCode { offset, code } => {
                write!(f, "trap site at text offset {offset:#x} has code {code}, which has no meaning")
            }
            ImageError::FunctionEmpty { start } => {
                write!(f, "function at text offset {start:#x} has no code or ends before it begins")
            }
            ImageError::FunctionsOutOfOrder { previous, range } => write!(
                f,
                "function at text offsets {:#x}..{:#x} is listed after {:#x}..{:#x} and does not lie behind it; sort \
                 them, and let none overlap",
                range.start, range.end, previous.start, previous.end
            ),
            ImageError::FunctionOutsideText { start, len, text_len } => write!(
                f,
                "function at text offset {start:#x}, {len:#x} bytes, ends outside the text ({text_len:#x} bytes)"
            ),
            ImageError::UnknownFunctionKey { start, space } => write!(
                f,
                "function at text offset {start:#x} has a key in space {space:#x} of section {}, which has no meaning",
                names::KEYS
            ),
            ImageError::ModuleIndexTooLarge { key } => {
                write!(f, "{key} cannot be stored: modules are numbered below {:#x}; split the image", 1 << 24)
            }
            ImageError::DuplicateFunctionKey { key, first, second } => write!(
                f,
                "functions at text offsets {first:#x} and {second:#x} are both {key}; give each function a key of its own"
            ),
            ImageError::NoSuchModule { key, modules } => {
                write!(f, "the image has {modules} modules, but code that is {key}; describe its module")
            }
            ImageError::NoSuchSignature { key, signatures } => {
                write!(f, "the image has {signatures} signatures, but code that is {key}; add its signature")
            }
            ImageError::FunctionIndexOverflow { key, imported_functions } => {
                write!(f, "{key}, which imports {imported_functions}, has a number past 32 bits; split the module")
            }
            ImageError::UnknownModuleFlags { module, flags } => {
                write!(f, "module {module} has flags {flags:#x}, some of which have no meaning")
            }
            ImageError::DuplicateSignature { first, second } => {
                write!(f, "signatures {first} and {second} are the same bytes; add each once")
            }
            ImageError::AddressesOutOfOrder { previous, offset } => write!(
                f,
                "address of text offset {offset:#x} is listed after that of {previous:#x}; sort them by offset, and \
                 give each offset one"
            ),
            ImageError::AddressOutsideText { offset, text_len } => {
                write!(f, "address of text offset {offset:#x} is outside the text ({text_len:#x} bytes)")
            }
            ImageError::SourceOffsetTooLarge { offset } => write!(
                f,
                "the source offset of text offset {offset:#x} is {:#x}, which stands for none; use a lower one",
                u32::MAX
            ),
            ImageError::PatchLength { offset, enabled, disabled } => write!(
                f,
                "patch at text offset {offset:#x} has {enabled} bytes when enabled and {disabled} when not; give both \
                 the same number, from 1 to {}",
                Patch::MAX_LEN
            ),
            ImageError::PatchWithoutEffect { offset } => {
                write!(f, "patch at text offset {offset:#x} has the same bytes in both forms; leave it out")
            }
            ImageError::PatchesOutOfOrder { previous, range } => write!(
                f,
                "patch at text offsets {:#x}..{:#x} is listed after {:#x}..{:#x} and does not lie behind it; sort \
                 them, and let none overlap",
                range.start, range.end, previous.start, previous.end
            ),
            ImageError::PatchOutsideText { offset, len, text_len } => {
                write!(f, "patch at text offset {offset:#x}, {len} bytes, ends outside the text ({text_len:#x} bytes)")
            }
            ImageError::PatchOutsideFunction { range } => write!(
                f,
                "patch at text offsets {:#x}..{:#x} is not inside one function of the guest; only those can be patched",
                range.start, range.end
            ),
            ImageError::PatchNotInText { range } => write!(
                f,
                "text offsets {:#x}..{:#x} do not hold the disabled bytes of their patch; store text that is not patched",
                range.start, range.end
            ),
            ImageError::EntryCount { section, expected, found } => {
                write!(f, "section {section} has {found} entries, but describes {expected} things")
            }
            ImageError::EndsOutOfOrder { section, index } => {
                write!(f, "entry {index} of section {section} ends before it begins; the image is damaged")
            }
            ImageError::BadName { section, index: Some(index) } => {
                write!(f, "name {index} of section {section} begins or ends inside a character; the image is damaged")
            }
            ImageError::BadName { section, index: None } => {
                write!(f, "section {section} is not UTF-8; the image is damaged")
            }
            ImageError::BadAlignment { align } => {
                write!(f, "text alignment {align} is not a power of two up to {}", ImageBuilder::MAX_TEXT_ALIGN)
            }
            ImageError::BadCheckSection => {
                write!(f, "section {} holds no checksum; fetch the file again", names::CHECK)
            }
            ImageError::WrongLength { stored, found } => {
                write!(f, "the file has {found} bytes, but had {stored} when it was made; fetch it again")
            }
            ImageError::WrongChecksum { stored, computed } => write!(
                f,
                "the file's checksum is {computed:#010x}, but was {stored:#010x} when it was made; fetch it again"
            ),
            ImageError::Sparse { len, stored } => write!(
                f,
                "the file is {len} bytes long, but only {stored} of them are stored; fetch it again, or copy it without \
                 holes"
            ),
            ImageError::OutOfMemory { bytes } => {
                write!(f, "no memory for an image: {bytes} bytes were asked for; free some and try again")
            }
            ImageError::Io(error) => write!(f, "the image could not be mapped: {error}"),
        }
    }
}
