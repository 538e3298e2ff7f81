//! What the errors say: what is wrong, where, and what to do about it.

use std::env::consts::ARCH;
use std::fmt;
use std::ops::Range;

use object::elf;

use super::ImageError;
use crate::image::section::{CHECK, MARKER, MAX_NAME_LEN, MAX_PATCH_LEN, MAX_TEXT_ALIGN, USER};
use crate::words::{Bytes, Only};

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NotElf => f.write_str("not an image: the file does not begin with an ELF header"),
            ImageError::ForeignClass { found: 1 } => {
                write!(f, "the image is for a machine of 32 bits; this process is {ARCH}, of 64; build it for {ARCH}")
            }
            ImageError::ForeignClass { found } => {
                write!(f, "the file's ELF class is {found}, which is neither 32 nor 64 bits; the file is damaged")
            }
            ImageError::ForeignEndianness { found, expected } => write!(
                f,
                "the image is {}; this process is {} ({ARCH}); build it for {ARCH}",
                byte_order(*found),
                byte_order(*expected)
            ),
            ImageError::ForeignMachine { found, expected } => {
                let (found, expected) = (Machine(*found), Machine(*expected));
                write!(f, "the image is for {found}; this process is {expected}; build it for {expected}")
            }
            ImageError::UnsupportedHost => write!(f, "no images can be made for {ARCH}, which this process is"),
            ImageError::NotAnImage => write!(
                f,
                "an ELF file, but not an image: {MARKER} is missing or is not one; make images with ImageBuilder"
            ),
            ImageError::UnsupportedVersion { found, supported } => write!(
                f,
                "the image is of format version {found}; this library reads version {supported}; build the image again"
            ),
            ImageError::NotRelocatable { found } => write!(
                f,
                "the image is {}, not a relocatable file: a linker has changed it; load the file as it was built",
                match found {
                    2 => "an executable file",
                    3 => "a shared object",
                    4 => "a core dump",
                    _ => "an ELF file of another type",
                }
            ),
            ImageError::MalformedHeaders { what } => {
                write!(f, "malformed ELF headers: {what}; the file is damaged or cut off")
            }
            ImageError::MissingSection { section } => {
                write!(f, "{section} is missing; the image was stripped or damaged")
            }
            ImageError::DuplicateSection { section } => {
                write!(f, "{section} exists more than once; give each section a name of its own")
            }
            ImageError::SectionOutsideFile { section, offset, size, file_len } => write!(
                f,
                "{section}, {} at byte {offset}, reaches past the end of the file, which has {}; the file is damaged or \
                 cut off",
                Bytes(*size),
                Bytes(*file_len as u64)
            ),
            ImageError::SectionsOverlap { first, second } => {
                write!(f, "{first} and {second} share bytes of the file, which is damaged")
            }
            ImageError::SectionKind { section } => {
                write!(f, "{section} is compressed or has no bytes in the file; store it plainly")
            }
            ImageError::BadSectionName { name } => write!(
                f,
                "{name:?} cannot name a section: use 1 to {} of the characters A-Z a-z 0-9 _ - .",
                MAX_NAME_LEN - USER.len()
            ),
            ImageError::TableLength { section, expected, found } => {
                write!(f, "{section} has {}, but its contents call for {expected}; the image is damaged", Bytes(*found))
            }
            ImageError::TooManyEntries { section } => {
                write!(f, "{section} has more entries or bytes than 32 bits can count; split the image")
            }
            ImageError::OffsetTooLarge { entry, offset } => write!(
                f,
                "the {entry} reaches to text offset {offset:#x}, past {:#x}, the last one that an image stores; split the image",
                u32::MAX
            ),
            ImageError::OutOfOrder { entry, previous, range } if previous == range => {
                write!(
                    f,
                    "there is more than one {entry} at text offset {:#x}; give each an offset of its own",
                    range.start
                )
            }
            ImageError::OutOfOrder { entry, previous, range } => write!(
                f,
                "the {entry} at {} does not lie past the one listed before it, at {}; sort them by offset, without overlap",
                Place(range),
                Place(previous)
            ),
            ImageError::OutsideText { entry, range, text_len } => {
                write!(f, "the {entry} at {} does not lie in the text, which ends at {text_len:#x}", Place(range))
            }
            ImageError::UnknownTrapCode { offset, code } => write!(
                f,
                "the trap site at text offset {offset:#x} has code {code}, which this version does not know; build the \
                 image again"
            ),
            ImageError::FunctionEmpty { start } => write!(
                f,
                "the function at text offset {start:#x} has no code or ends before it begins; give it a range of its code"
            ),
            ImageError::UnknownFunctionKey { start, space } => write!(
                f,
                "the function at text offset {start:#x} has a key of unknown kind and module {space:#x}; the image is \
                 damaged"
            ),
            ImageError::ModuleIndexTooLarge { key } => {
                write!(f, "{key} cannot be stored: modules are numbered below {:#x}; split the image", 1 << 24)
            }
            ImageError::DuplicateFunctionKey { key, first, second } => write!(
                f,
                "functions at text offsets {first:#x} and {second:#x} are both {key}; give each function a key of its own"
            ),
            ImageError::NoSuchModule { key, modules } => {
                write!(f, "{key}, but the image declares {}; describe its module", Only(*modules, "module"))
            }
            ImageError::NoSuchSignature { key, signatures } => {
                write!(f, "{key}, but the image declares {}; add its signature", Only(*signatures, "signature"))
            }
            ImageError::FunctionIndexOverflow { key, imported_functions } => write!(
                f,
                "the number of {key}, after {imported_functions} imported functions, does not fit in 32 bits; split the \
                 module"
            ),
            ImageError::UnknownModuleFlags { module, flags } => write!(
                f,
                "module {module} has flags {flags:#x}, some of which this version does not know; build the image again"
            ),
            ImageError::DuplicateSignature { first, second } => {
                write!(f, "signatures {first} and {second} are the same bytes; add each once")
            }
            ImageError::SourceOffsetTooLarge { offset } => write!(
                f,
                "the source offset of text offset {offset:#x} is {:#x}, which is reserved for code without a source; use \
                 a lower one",
                u32::MAX
            ),
            ImageError::PatchLength { offset, enabled, disabled } => write!(
                f,
                "the patch at text offset {offset:#x} has {} when enabled and {disabled} when disabled; give both forms the \
                 same length, from 1 to {MAX_PATCH_LEN}",
                Bytes(*enabled as u64)
            ),
            ImageError::PatchWithoutEffect { offset } => {
                write!(f, "the patch at text offset {offset:#x} has the same bytes in both forms; leave it out")
            }
            ImageError::PatchOutsideFunction { range } => write!(
                f,
                "the patch at {} is not inside one function of the guest; only such functions can be patched",
                Place(range)
            ),
            ImageError::PatchNotInText { range } => write!(
                f,
                "the text at {} does not hold the disabled bytes of its patch; store text that is not patched",
                Place(range)
            ),
            ImageError::EntryCount { section, expected, found } => {
                write!(f, "{section} has {found} of {expected} entries; the image is damaged")
            }
            ImageError::EndsOutOfOrder { section, index } => {
                write!(f, "entry {index} of {section} ends before it begins; the image is damaged")
            }
            ImageError::BadName { section, index: Some(index) } => {
                write!(f, "name {index} of {section} begins or ends inside a character; the image is damaged")
            }
            ImageError::BadName { section, index: None } => {
                write!(f, "a name of {section} is not UTF-8; the image is damaged")
            }
            ImageError::BadAlignment { align } => {
                write!(f, "text alignment {align} is not a power of two up to {MAX_TEXT_ALIGN}")
            }
            ImageError::BadCheckSection => {
                write!(f, "{CHECK} does not hold a checksum; fetch the file again")
            }
            ImageError::WrongLength { stored, found } => {
                write!(f, "the file has {}, but had {stored} when it was made; fetch it again", Bytes(*found))
            }
            ImageError::WrongChecksum { stored, computed } => write!(
                f,
                "the file's checksum is {computed:#010x}, but was {stored:#010x} when it was made; fetch it again"
            ),
            ImageError::Sparse { len, stored } => write!(
                f,
                "the file is {} long, but only {stored} of them are stored; fetch it again, or copy it without holes",
                Bytes(*len)
            ),
            ImageError::OutOfMemory { bytes } => {
                write!(
                    f,
                    "no memory for an image: could not allocate {}; free some and try again",
                    Bytes(*bytes as u64)
                )
            }
            ImageError::Io(_) => f.write_str("the operating system refused to map the image"),
        }
    }
}

/// Text offsets: of one byte, or of several.
struct Place<'a>(&'a Range<usize>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place(Range { start, end }) = self;
        if end.wrapping_sub(*start) == 1 {
            write!(f, "text offset {start:#x}")
        } else {
            write!(f, "text offsets {start:#x}..{end:#x}")
        }
    }
}

/// The number of a machine in an ELF header, by the name that users know the machine by.
struct Machine(u16);

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine(number) = *self;
        f.write_str(match elf::Machine(number) {
            elf::EM_386 => "x86",
            elf::EM_MIPS => "mips",
            elf::EM_PPC64 => "powerpc64",
            elf::EM_S390 => "s390x",
            elf::EM_ARM => "arm",
            elf::EM_SPARCV9 => "sparc64",
            elf::EM_X86_64 => "x86_64",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_RISCV => "riscv64",
            elf::EM_LOONGARCH => "loongarch64",
            _ => return write!(f, "ELF machine {number}"),
        })
    }
}

fn byte_order(number: u8) -> &'static str {
    match number {
        1 => "little-endian",
        2 => "big-endian",
        _ => "of no known byte order",
    }
}
