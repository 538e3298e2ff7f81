//! Images to try, files to damage, and what holds of every image that loads.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use object::read::elf::{FileHeader, SectionHeader};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, elf};
use trapline::TrapCode;
use trapline::image::{
    DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ImageError, ModuleDescription, ModuleIndex, SignatureIndex,
};

pub fn defined(module: u32, function: u32) -> FunctionKey {
    FunctionKey::Defined { module: ModuleIndex::new(module), function: DefinedFunctionIndex::new(function) }
}

pub fn into_guest(module: u32, function: u32) -> FunctionKey {
    FunctionKey::HostToGuest { module: ModuleIndex::new(module), function: DefinedFunctionIndex::new(function) }
}

pub fn out_of_guest(signature: u32) -> FunctionKey {
    FunctionKey::GuestToHost { signature: SignatureIndex::new(signature) }
}

/// A small image with one of everything: every section that an image can have.
pub fn small() -> ImageBuilder {
    let mut image = ImageBuilder::new();
    image
        .text_align(16)
        .text((0..48).collect::<Vec<u8>>())
        .trap(3, TrapCode::IntegerDivisionByZero)
        .trap(17, TrapCode::user(7).unwrap())
        .trap(47, TrapCode::Unreachable)
        .compiled(0..10, defined(1, 2), Some("first"))
        .compiled(10..12, out_of_guest(1), None)
        .compiled(16..48, defined(0, 0), Some("last"))
        .module(ModuleDescription::new().name("main").imported_functions(3).unparsed_debug_info(true))
        .module(ModuleDescription::new().debug_info_from_environment(true))
        .signature(*b"i32")
        .signature([])
        .address(0, Some(70))
        .address(10, None)
        .address(20, Some(90))
        .patch(4, [0xcc, 0xcd], [4, 5])
        .patch(20, [0xce], [20])
        .configuration(*b"settings")
        .section("types", *b"signatures");
    image
}

/// The sections of [`small`] that are ours, apart from the checksum.
pub const SECTIONS: [&str; 12] = [
    ".text",
    ".trapline.image",
    ".trapline.traps",
    ".trapline.funcs",
    ".trapline.keys",
    ".trapline.names",
    ".trapline.modules",
    ".trapline.sigs",
    ".trapline.addrs",
    ".trapline.patches",
    ".trapline.config",
    ".trapline.user.types",
];

/// The bytes of a section of [`small`].
pub fn section(name: &str) -> Vec<u8> {
    let file = built(&mut small());
    let (_, range) = find(&file, name);
    file[range].to_vec()
}

/// The image [`small`] with other bytes in some sections.
pub fn small_with(changes: &[(&str, &[u8])]) -> Vec<u8> {
    let originals = SECTIONS.map(section);
    let sections: Vec<(&str, &[u8])> = std::iter::zip(SECTIONS, &originals)
        .map(|(name, original)| {
            let change = changes.iter().find(|change| change.0 == name);
            (name, change.map_or(original.as_slice(), |change| change.1))
        })
        .collect();
    elf_with(&sections)
}

pub fn built(image: &mut ImageBuilder) -> Vec<u8> {
    image.finish().expect("a valid image")
}

/// An ELF file of sections as given, in the form of an image.
pub fn elf_with(sections: &[(&str, &[u8])]) -> Vec<u8> {
    elf(&[], sections)
}

/// As [`elf_with`], with a text that begins at a multiple of `align` and is followed by the rest.
pub fn elf_with_text_first(align: u64, text: &[u8], sections: &[(&str, &[u8])]) -> Vec<u8> {
    elf(&[(align, text)], sections)
}

fn elf(texts: &[(u64, &[u8])], sections: &[(&str, &[u8])]) -> Vec<u8> {
    let host = if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 };
    let mut object = object::write::Object::new(BinaryFormat::Elf, host, Endianness::Little);
    for (align, text) in texts {
        let id = object.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
        object.set_section_data(id, *text, *align);
    }
    for (name, bytes) in sections {
        let id = object.add_section(Vec::new(), name.as_bytes().to_vec(), SectionKind::Other);
        object.set_section_data(id, *bytes, 4);
    }
    object.write().unwrap()
}

/// Where in an image's file a section's header and bytes are.
pub fn find(file: &[u8], wanted: &str) -> (usize, Range<usize>) {
    let header = elf::FileHeader64::<Endianness>::parse(file).unwrap();
    let endian = header.endian().unwrap();
    let sections = header.sections(endian, file).unwrap();
    for (index, section) in sections.iter().enumerate() {
        if sections.section_name(endian, section).unwrap() == wanted.as_bytes() {
            let (start, size) = section.file_range(endian).unwrap();
            let header = header.e_shoff(endian) as usize + index * 64;
            return (header, start as usize..(start + size) as usize);
        }
    }
    panic!("no section {wanted}");
}

pub fn marker() -> Vec<u8> {
    section(".trapline.image")
}

/// An otherwise valid image of 16 bytes of text whose tables are the given bytes.
pub fn with_tables(traps: &[u8], functions: &[u8], names: Option<&[u8]>) -> Vec<u8> {
    let marker = marker();
    let mut sections = vec![
        (".text", [0x90; 16].as_slice()),
        (".trapline.image", &marker),
        (".trapline.traps", traps),
        (".trapline.funcs", functions),
    ];
    sections.extend(names.map(|names| (".trapline.names", names)));
    elf_with(&sections)
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn trap_bytes(offsets: &[u32], codes: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[offsets.len() as u32]);
    bytes.extend(words(offsets));
    bytes.extend(codes);
    bytes
}

pub fn error(file: &[u8]) -> ImageError {
    match Image::parse(file) {
        Ok(_) => panic!("the image was accepted"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            error
        }
    }
}

/// Checks which error a result or an error is.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            $pattern $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

pub(crate) use assert_error;

/// Held by tests that look at executable mappings, so that no other test's code takes the addresses they look at.
pub fn only_publisher() -> MutexGuard<'static, ()> {
    static PUBLISHERS: Mutex<()> = Mutex::new(());
    PUBLISHERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub struct Mapping {
    pub range: Range<usize>,
    pub rights: String,
    pub line: String,
}

/// The mappings of this process, as Linux tells them.
pub fn mappings() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            let address = |hex| usize::from_str_radix(hex, 16).unwrap();
            Mapping { range: address(start)..address(end), rights: words.next().unwrap().into(), line: line.into() }
        })
        .collect()
}

pub fn mappings_of(range: Range<usize>) -> Vec<Mapping> {
    let mut all = mappings();
    all.retain(|mapping| mapping.range.start < range.end && range.start < mapping.range.end);
    all
}

pub fn page_size() -> usize {
    // SAFETY: asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

/// A file that is gone when the test is.
pub struct Temporary(pub PathBuf);

impl Temporary {
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("trapline-{}-{name}", std::process::id()));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        Temporary(path)
    }

    pub fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }

    pub fn mappings(&self) -> Vec<Mapping> {
        let mut all = mappings();
        all.retain(|mapping| mapping.line.ends_with(self.0.to_str().unwrap()));
        all
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
