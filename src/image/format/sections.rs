//! Finding our sections in an ELF file that nobody has checked.

use std::ops::Range;

use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf};

use super::Target;
use crate::allocate::{self, OutOfMemory};
use crate::image::error::ImageError;
use crate::image::pairs::pairs;
use crate::image::section::{self, Section};
use crate::image::tables::Tables;

type Header = elf::FileHeader64<Endianness>;

/// The sections of a file that are ours, sorted by name. Names are unique, and sections overlap neither each other nor the
/// headers.
pub(super) struct Sections<'a> {
    found: Vec<Found<'a>>,
    kind: u16,
}

#[derive(Clone)]
pub(super) struct Found<'a> {
    pub(super) name: &'a str,
    /// Where in the file the bytes are.
    pub(super) range: Range<usize>,
    pub(super) bytes: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Reads the headers of `file`, which must be an ELF file for `target`.
    ///
    /// Time and memory are bounded by the length of the file, whatever its headers claim.
    pub(super) fn read(file: &'a [u8], target: Target) -> Result<Self, ImageError> {
        check_identity(file, target)?;
        let endian = target.endianness();
        let header = Header::parse(file).map_err(|_| malformed("the file header is cut off"))?;
        let found = header.e_machine(endian).0;
        if found != target.machine() {
            return Err(ImageError::ForeignMachine { found, expected: target.machine() });
        }
        let headers = header
            .section_headers(endian, file)
            .map_err(|_| malformed("the section headers are not inside the file"))?;
        let strings = header
            .shstrndx(endian, file)
            .ok()
            .and_then(|index| headers.get(index as usize))
            .ok_or(malformed("no section holds the section names"))?;
        let string_bytes =
            strings.data(endian, file).map_err(|_| malformed("the section names are not inside the file"))?;

        let mut occupied = allocate::room(headers.len().min(16) + 3)?;
        occupied.push(("the file header", 0..size_of::<Header>() as u64));
        let table = header.e_shoff(endian);
        occupied.push(("the section headers", table..table.saturating_add(size_of_val(headers) as u64)));
        let names = strings.sh_offset(endian);
        occupied.push(("the section names", names..names.saturating_add(string_bytes.len() as u64)));

        let mut found = Vec::new();
        for section in headers {
            if let Some(name) = our_name(string_bytes, section.sh_name(endian)) {
                let section = locate(file, name, section, endian)?;
                let bytes = section.range.start as u64..section.range.end as u64;
                allocate::push(&mut occupied, (name, bytes))?;
                allocate::push(&mut found, section)?;
            }
        }
        found.sort_unstable_by_key(|section| section.name);
        if let Some([twice, _]) = pairs(&found).find(|[a, b]| a.name == b.name) {
            return Err(ImageError::DuplicateSection { section: describe(twice.name)? });
        }
        check_disjoint(occupied)?;
        Ok(Sections { found, kind: header.e_type(endian).0 })
    }

    pub(super) fn get(&self, section: Section) -> Option<&Found<'a>> {
        let index = self.found.binary_search_by_key(&section.name, |found| found.name).ok()?;
        self.found.get(index)
    }

    pub(super) fn require(&self, section: Section) -> Result<&Found<'a>, ImageError> {
        self.get(section).ok_or(ImageError::MissingSection { section })
    }

    /// All sections, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Found<'a>> + Clone {
        self.found.iter()
    }

    /// Refuses an object that a linker has laid out anew.
    pub(super) fn require_relocatable(&self) -> Result<(), ImageError> {
        if self.kind == elf::ET_REL.0 { Ok(()) } else { Err(ImageError::NotRelocatable { found: self.kind }) }
    }
}

/// Checks the bytes of the header that mean the same on every machine.
fn check_identity(file: &[u8], target: Target) -> Result<(), ImageError> {
    let Some(&[a, b, c, d, class, order, version]) = file.first_chunk() else {
        return Err(ImageError::NotElf);
    };
    if [a, b, c, d] != elf::ELFMAG {
        return Err(ImageError::NotElf);
    }
    if class != elf::ELFCLASS64.0 {
        return Err(ImageError::ForeignClass { found: class });
    }
    let expected = match target.endianness() {
        Endianness::Little => elf::ELFDATA2LSB.0,
        Endianness::Big => elf::ELFDATA2MSB.0,
    };
    if order != expected {
        return Err(ImageError::ForeignEndianness { found: order, expected });
    }
    if version != elf::EV_CURRENT.0 {
        return Err(malformed("the header's version is not 1"));
    }
    Ok(())
}

/// The name at `at`, if it is one of ours.
///
/// Looks at no more bytes than our names have: many headers may point into one long string.
fn our_name(strings: &[u8], at: u32) -> Option<&str> {
    let tail = strings.get(at as usize..)?;
    let tail = tail.get(..=section::MAX_NAME_LEN).unwrap_or(tail);
    let end = tail.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(tail.get(..end)?).ok()?;
    (name == section::TEXT.name || name.starts_with(section::OURS)).then_some(name)
}

fn locate<'a>(
    file: &'a [u8],
    name: &'a str,
    header: &elf::SectionHeader64<Endianness>,
    endian: Endianness,
) -> Result<Found<'a>, ImageError> {
    let compressed = header.sh_flags(endian).0 & elf::SHF_COMPRESSED.0 != 0;
    if header.sh_type(endian) != elf::SHT_PROGBITS || compressed {
        return Err(ImageError::SectionKind { section: describe(name)? });
    }
    let (offset, size) = (header.sh_offset(endian), header.sh_size(endian));
    let range = usize::try_from(offset).ok().and_then(|start| {
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        Some(start..end)
    });
    let located = range.and_then(|range| Some((range.clone(), file.get(range)?)));
    match located {
        Some((range, bytes)) => Ok(Found { name, range, bytes }),
        None => {
            let section = describe(name)?;
            Err(ImageError::SectionOutsideFile { section, offset, size, file_len: file.len() })
        }
    }
}

fn check_disjoint(mut occupied: Vec<(&str, Range<u64>)>) -> Result<(), ImageError> {
    occupied.retain(|(_, range)| !range.is_empty());
    occupied.sort_unstable_by_key(|(_, range)| range.start);
    match pairs(&occupied).find(|[(_, a), (_, b)]| b.start < a.end) {
        Some([(first, _), (second, _)]) => {
            Err(ImageError::SectionsOverlap { first: describe(first)?, second: describe(second)? })
        }
        None => Ok(()),
    }
}

/// What errors call a part of the file: a section by its content, another part by its own words.
fn describe(part: &str) -> Result<String, OutOfMemory> {
    let whole = [section::MARKER, section::TEXT, section::CONFIGURATION, section::CHECK];
    if let Some(section) = Tables::find_section(part).or(whole.into_iter().find(|section| section.name == part)) {
        allocate::concat(&[section.content, " (section ", section.name, ")"])
    } else if let Some(name) = part.strip_prefix(section::USER) {
        allocate::concat(&["the embedder's section \"", name, "\""])
    } else {
        allocate::concat(&[part])
    }
}

fn malformed(what: &'static str) -> ImageError {
    ImageError::MalformedHeaders { what }
}
