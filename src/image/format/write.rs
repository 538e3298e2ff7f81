//! Writing the ELF file around the sections.

use object::elf::{self, FileHeader64, Ident, SectionHeader64};
use object::endian::{U16, U32, U64};
use object::{Endianness, pod};

use super::Target;
use crate::allocate;
use crate::image::error::ImageError;
use crate::image::section::SECTION_NAMES;

/// A section to be written.
pub(super) struct NewSection<'a> {
    /// Its name, in two parts.
    pub(super) name: [&'a str; 2],
    pub(super) bytes: &'a [u8],
    /// The alignment of its first byte within the file.
    pub(super) align: u64,
}

/// A relocatable file of `text` and `tables`, whose names contain no zero byte.
///
/// ```text
/// header | tables | section names | section headers | gap | text
/// ```
///
/// The text comes last, so that the rest of its last page, which is mapped with it, is past the end of the file and zero.
pub(super) fn write(target: Target, text: &NewSection<'_>, tables: &[NewSection<'_>]) -> Result<Vec<u8>, ImageError> {
    const HEADER: usize = size_of::<FileHeader64<Endianness>>();
    const SECTION_HEADER: usize = size_of::<SectionHeader64<Endianness>>();
    let endian = target.endianness();

    let mut headers = allocate::room(tables.len() + 3)?;
    headers.push(section_header(endian, Placed::default()));
    // The text is the first section all the same. Where it is, is known last.
    headers.push(section_header(endian, Placed::default()));
    // Names begin with that of the null section, which is empty.
    let (mut at, mut name) = (HEADER, 1);
    let text_name = next_name(&mut name, text.name)?;
    for table in tables {
        let offset = aligned(at, table.align);
        let placed = Placed {
            name: next_name(&mut name, table.name)?,
            kind: elf::SHT_PROGBITS,
            offset,
            size: table.bytes.len(),
            align: table.align,
            ..Placed::default()
        };
        headers.push(section_header(endian, placed));
        at = offset.saturating_add(table.bytes.len());
    }
    let names_name = next_name(&mut name, [SECTION_NAMES.name, ""])?;
    let (names_at, names_len) = (at, name as usize);
    let names = Placed {
        name: names_name,
        kind: elf::SHT_STRTAB,
        offset: names_at,
        size: names_len,
        align: 1,
        ..Placed::default()
    };
    headers.push(section_header(endian, names));
    let headers_at = aligned(names_at.saturating_add(names_len), 8);
    at = headers_at.saturating_add(headers.len().saturating_mul(SECTION_HEADER));
    let text_at = if text.bytes.is_empty() { at } else { aligned(at, text.align) };
    headers[1] = section_header(
        endian,
        Placed {
            name: text_name,
            kind: elf::SHT_PROGBITS,
            flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
            offset: text_at,
            size: text.bytes.len(),
            align: text.align,
        },
    );
    let count = u32::try_from(headers.len()).map_err(|_| too_many())?;
    let names_index = count - 1;
    // Numbers that do not fit the file header are in that of the null section.
    if count >= u32::from(elf::SHN_LORESERVE) {
        headers[0].sh_size = U64::new(endian, count.into());
        headers[0].sh_link = U32::new(endian, names_index);
    }

    let mut file = allocate::room(text_at.saturating_add(text.bytes.len()))?;
    file.extend_from_slice(pod::bytes_of(&file_header(target, headers_at, count, names_index)));
    for (table, header) in tables.iter().zip(&headers[2..]) {
        file.resize(header.sh_offset.get(endian) as usize, 0);
        file.extend_from_slice(table.bytes);
    }
    file.push(0);
    let all = [text.name].into_iter().chain(tables.iter().map(|table| table.name));
    for parts in all.chain([[SECTION_NAMES.name, ""]]) {
        parts.iter().for_each(|part| file.extend_from_slice(part.as_bytes()));
        file.push(0);
    }
    file.resize(headers_at, 0);
    file.extend_from_slice(pod::bytes_of_slice(&headers));
    file.resize(text_at, 0);
    file.extend_from_slice(text.bytes);
    Ok(file)
}

/// Where a section is, and what its header says besides.
struct Placed {
    name: u32,
    kind: elf::SectionType,
    flags: elf::SectionFlags,
    offset: usize,
    size: usize,
    align: u64,
}

/// The null section.
impl Default for Placed {
    fn default() -> Self {
        Placed { name: 0, kind: elf::SHT_NULL, flags: elf::SectionFlags(0), offset: 0, size: 0, align: 0 }
    }
}

fn section_header(endian: Endianness, placed: Placed) -> SectionHeader64<Endianness> {
    SectionHeader64 {
        sh_name: U32::new(endian, placed.name),
        sh_type: U32::new(endian, placed.kind),
        sh_flags: U64::new(endian, placed.flags),
        sh_addr: U64::new(endian, 0),
        sh_offset: U64::new(endian, placed.offset as u64),
        sh_size: U64::new(endian, placed.size as u64),
        sh_link: U32::new(endian, 0),
        sh_info: U32::new(endian, 0),
        sh_addralign: U64::new(endian, placed.align),
        sh_entsize: U64::new(endian, 0),
    }
}

fn file_header(target: Target, headers_at: usize, count: u32, names_index: u32) -> FileHeader64<Endianness> {
    let endian = target.endianness();
    let few = |count: u32| if count < u32::from(elf::SHN_LORESERVE) { count as u16 } else { 0 };
    FileHeader64 {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: if endian == Endianness::Big { elf::ELFDATA2MSB } else { elf::ELFDATA2LSB },
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(endian, elf::ET_REL),
        e_machine: U16::new(endian, elf::Machine(target.machine())),
        e_version: U32::new(endian, elf::EV_CURRENT.0.into()),
        e_entry: U64::new(endian, 0),
        e_phoff: U64::new(endian, 0),
        e_shoff: U64::new(endian, headers_at as u64),
        e_flags: U32::new(endian, elf::FileFlags(0)),
        e_ehsize: U16::new(endian, size_of::<FileHeader64<Endianness>>() as u16),
        e_phentsize: U16::new(endian, 0),
        e_phnum: U16::new(endian, 0),
        e_shentsize: U16::new(endian, size_of::<SectionHeader64<Endianness>>() as u16),
        e_shnum: U16::new(endian, few(count)),
        e_shstrndx: U16::new(endian, elf::SymbolSection::new(names_index)),
    }
}

/// Takes the place of a name in the table of names, and its final zero.
fn next_name(next: &mut u32, parts: [&str; 2]) -> Result<u32, ImageError> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
    let end = u32::try_from(len).ok().and_then(|len| next.checked_add(len)).ok_or(too_many())?;
    Ok(std::mem::replace(next, end))
}

/// The first multiple of `align` from `at` on. Saturates: no file is that long.
fn aligned(at: usize, align: u64) -> usize {
    usize::try_from(align).ok().and_then(|align| at.checked_next_multiple_of(align)).unwrap_or(usize::MAX)
}

fn too_many() -> ImageError {
    ImageError::TooManyEntries { section: SECTION_NAMES }
}
