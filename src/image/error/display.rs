//! What the errors say: what is wrong, where, and what to do about it.

use std::env::consts::ARCH;
use std::fmt;

use object::elf;

use super::ImageError;
use crate::counted::{Bytes, Only};
use crate::image::format::ImageBuilder;
use crate::image::names;
use crate::image::tables::patch_table::Patch;

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
            ImageError::UnsupportedHost => write!(f, "there are no images for {ARCH}, which this process is"),
            ImageError::NotAnImage => write!(
                f,
                "an ELF file, but not an image: {} is missing or is not one; make images with ImageBuilder",
                Part(names::MARKER)
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
            ImageError::MissingSection { name } => {
                write!(f, "{} is missing; the image was stripped or damaged", Part(name))
            }
            ImageError::DuplicateSection { name } => {
                write!(f, "{} exists more than once; give each section a name of its own", Part(name))
            }
            ImageError::SectionOutsideFile { name, offset, size, file_len } => write!(
                f,
                "{}, {} at byte {offset}, reaches past the end of the file, which has {}; the file is damaged or cut off",
                Part(name),
                Bytes(*size),
                Bytes(*file_len as u64)
            ),
            ImageError::SectionsOverlap { first, second } => {
                write!(f, "{} and {} share bytes of the file, which is damaged", Part(first), Part(second))
            }
            ImageError::SectionKind { name } => {
                write!(f, "{} is compressed or has no bytes in the file; store it plainly", Part(name))
            }
            ImageError::BadSectionName { name } => write!(
                f,
                "{name:?} cannot name a section: use 1 to {} of the characters A-Z a-z 0-9 _ - .",
                names::MAX_LEN - names::USER.len()
            ),
            ImageError::TableLength { section, expected, found } => write!(
                f,
                "{} has {}, but its contents call for {expected}; the image is damaged",
                Part(section),
                Bytes(*found)
            ),
            ImageError::TooManyEntries { section } => {
                write!(f, "{} has more entries or bytes than 32 bits can count; split the image", Part(section))
            }
            ImageError::OffsetTooLarge { section, offset } => {
                write!(f, "text offset {offset:#x} does not fit in the 32 bits of {}; split the image", Part(section))
            }
            ImageError::TrapsOutOfOrder { previous, offset } if previous == offset => {
                write!(f, "text offset {offset:#x} has two trap sites; give each instruction one")
            }
            ImageError::TrapsOutOfOrder { previous, offset } => write!(
                f,
                "the trap site at text offset {offset:#x} is listed after the one at {previous:#x}; sort them by offset"
            ),
            ImageError::TrapOutsideText { offset, text_len } => {
                write!(f, "the trap site at text offset {offset:#x} is outside the text, which ends at {text_len:#x}")
            }
            ImageError::UnknownTrapCode { offset, code } => {
                write!(f, "the trap site at text offset {offset:#x} has code {code}, which has no meaning")
            }
            ImageError::FunctionEmpty { start } => {
                write!(f, "the function at text offset {start:#x} has no code or ends before it begins")
            }
            ImageError::FunctionsOutOfOrder { previous, range } => write!(
                f,
                "the function at text offsets {:#x}..{:#x} is listed after {:#x}..{:#x}, but does not lie past it; sort \
                 them, and let none overlap",
                range.start, range.end, previous.start, previous.end
            ),
            ImageError::FunctionOutsideText { start, len, text_len } => write!(
                f,
                "the function at text offset {start:#x}, {} long, ends outside the text, which ends at {text_len:#x}",
                Bytes(*len as u64)
            ),
            ImageError::UnknownFunctionKey { start, space } => write!(
                f,
                "the function at text offset {start:#x} has a key of kind and module {space:#x}, which has no meaning; \
                 the image is damaged"
            ),
            ImageError::ModuleIndexTooLarge { key } => {
                write!(f, "{key} cannot be stored: modules are numbered below {:#x}; split the image", 1 << 24)
            }
            ImageError::DuplicateFunctionKey { key, first, second } => write!(
                f,
                "functions at text offsets {first:#x} and {second:#x} are both {key}; give each function a key of its own"
            ),
            ImageError::NoSuchModule { key, modules } => {
                write!(f, "{key}, but the image has {}; describe its module", Only(*modules, "module"))
            }
            ImageError::NoSuchSignature { key, signatures } => {
                write!(f, "{key}, but the image has {}; add its signature", Only(*signatures, "signature"))
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
                "the source offset of text offset {offset:#x} is listed after that of {previous:#x}; sort them by text \
                 offset, and give each one"
            ),
            ImageError::AddressOutsideText { offset, text_len } => {
                write!(
                    f,
                    "a source offset is given for text offset {offset:#x}, outside the text, which ends at {text_len:#x}"
                )
            }
            ImageError::SourceOffsetTooLarge { offset } => write!(
                f,
                "the source offset of text offset {offset:#x} is {:#x}, which stands for none; use a lower one",
                u32::MAX
            ),
            ImageError::PatchLength { offset, enabled, disabled } => write!(
                f,
                "the patch at text offset {offset:#x} has {} when enabled and {disabled} when not; give both the same \
                 number, from 1 to {}",
                Bytes(*enabled as u64),
                Patch::MAX_LEN
            ),
            ImageError::PatchWithoutEffect { offset } => {
                write!(f, "the patch at text offset {offset:#x} has the same bytes in both forms; leave it out")
            }
            ImageError::PatchesOutOfOrder { previous, range } => write!(
                f,
                "the patch at text offsets {:#x}..{:#x} is listed after {:#x}..{:#x}, but does not lie past it; sort \
                 them, and let none overlap",
                range.start, range.end, previous.start, previous.end
            ),
            ImageError::PatchOutsideText { offset, len, text_len } => write!(
                f,
                "the patch at text offset {offset:#x}, {} long, ends outside the text, which ends at {text_len:#x}",
                Bytes(*len as u64)
            ),
            ImageError::PatchOutsideFunction { range } => write!(
                f,
                "the patch at text offsets {:#x}..{:#x} is not inside one function of the guest; only those can be patched",
                range.start, range.end
            ),
            ImageError::PatchNotInText { range } => write!(
                f,
                "text offsets {:#x}..{:#x} do not hold the disabled bytes of their patch; store text that is not patched",
                range.start, range.end
            ),
            ImageError::EntryCount { section, expected, found } => {
                write!(f, "{} has {found} of {expected} entries; the image is damaged", Part(section))
            }
            ImageError::EndsOutOfOrder { section, index } => {
                write!(f, "entry {index} of {} ends before it begins; the image is damaged", Part(section))
            }
            ImageError::BadName { section, index: Some(index) } => {
                write!(f, "name {index} of {} begins or ends inside a character; the image is damaged", Part(section))
            }
            ImageError::BadName { section, index: None } => {
                write!(f, "a name of {} is not UTF-8; the image is damaged", Part(section))
            }
            ImageError::BadAlignment { align } => {
                write!(f, "text alignment {align} is not a power of two up to {}", ImageBuilder::MAX_TEXT_ALIGN)
            }
            ImageError::BadCheckSection => {
                write!(f, "{} is none; fetch the file again", Part(names::CHECK))
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

/// A part of an image, by what it is; and the section that holds it.
struct Part<'a>(&'a str);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Part(section) = *self;
        let what = match section {
            names::TEXT => "the text",
            names::MARKER => "the marker of an image",
            names::TRAPS => "the table of trap sites",
            names::FUNCTIONS => "the table of functions",
            names::KEYS => "the table of function keys",
            names::NAMES => "the table of function names",
            names::MODULES => "the table of modules",
            names::SIGNATURES => "the table of signatures",
            names::ADDRESSES => "the map of source offsets",
            names::PATCHES => "the table of patches",
            names::CONFIGURATION => "the configuration",
            names::CHECK => "the checksum",
            names::SECTION_NAMES => "the table of section names",
            _ => match section.strip_prefix(names::USER) {
                Some(name) => return write!(f, "the embedder's section {name:?}"),
                // Parts that are no sections.
                None => return f.write_str(section),
            },
        };
        write!(f, "{what} (section {section})")
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
