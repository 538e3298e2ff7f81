//! Files whose headers and counts make no sense.

use object::elf;
use trapline::image::{Image, ImageError};

use crate::allocator::largest_of;
use crate::support::{assert_error, built, elf_with, error, find, marker, small, with_tables, words};

#[test]
fn an_absurd_count_is_an_error_and_allocates_nothing_of_its_size() {
    let none = words(&[0]);
    for count in [1, 1 << 20, 1 << 30, u32::MAX] {
        let absurd = words(&[count]);
        let one = words(&[1, 0, 4]);
        for file in [
            with_tables(&absurd, &none, None),
            with_tables(&none, &absurd, None),
            with_tables(&none, &one, Some(&absurd)),
            with_tables(&none, &absurd, Some(&absurd)),
        ] {
            let (result, peak) = largest_of(|| Image::parse(&file));
            assert_error!(result, Err(ImageError::TableLength { .. }));
            assert!(peak < 8 * file.len(), "{peak} bytes at once for a file of {}", file.len());
        }
    }
}

#[test]
fn tables_that_have_to_be_sorted_take_memory_in_proportion_to_the_file() {
    const COUNT: u32 = 20_000;
    let reversed =
        words(&std::iter::once(COUNT).chain(vec![0; COUNT as usize]).chain((0..COUNT).rev()).collect::<Vec<_>>());
    let functions = words(&std::iter::once(COUNT).chain(0..COUNT).chain(vec![1; COUNT as usize]).collect::<Vec<_>>());
    let equal = words(&std::iter::once(COUNT).chain(vec![0; COUNT as usize]).collect::<Vec<_>>());
    let (marker, none, text) = (marker(), words(&[0]), [0x90; COUNT as usize]);
    let file = |name: &'static str, table: &[u8]| {
        elf_with(&[
            (".text", &text),
            (".trapline.image", &marker),
            (".trapline.traps", &none),
            (".trapline.funcs", &functions),
            (name, table),
        ])
    };
    let file_of_keys = file(".trapline.keys", &reversed);
    let (result, peak) = largest_of(|| Image::parse(&file_of_keys));
    assert_eq!(result.unwrap().functions().len(), COUNT as usize);
    assert!(peak < file_of_keys.len(), "{peak} bytes at once");
    let file_of_signatures = file(".trapline.sigs", &equal);
    let (result, peak) = largest_of(|| Image::parse(&file_of_signatures));
    assert_error!(result, Err(ImageError::DuplicateSignature { .. }));
    assert!(peak < file_of_signatures.len(), "{peak} bytes at once");
}

#[test]
fn absurd_headers_are_errors_and_allocate_nothing_of_their_size() {
    let file = built(&mut small());
    let (text_header, _) = find(&file, ".text");
    let (traps_header, _) = find(&file, ".trapline.traps");
    // The header's e_shoff, e_shnum and e_shstrndx, and the offset and size in two section headers.
    let fields = [(40, 8), (60, 2), (62, 2)]
        .into_iter()
        .chain([text_header, traps_header].into_iter().flat_map(|at| [(at + 24, 8), (at + 32, 8)]));
    for (at, len) in fields {
        for value in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32, 0xffff, file.len() as u64 - 1] {
            let mut absurd = file.clone();
            absurd[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            if absurd == file {
                continue;
            }
            let (result, peak) = largest_of(|| Image::parse(&absurd));
            // Two bytes of the larger numbers are zero: no sections, or the names elsewhere. Also errors.
            assert!(result.is_err(), "{value:#x} at byte {at}");
            assert!(peak < 8 * file.len(), "{peak} bytes at once for {value:#x} at byte {at}");
        }
    }
}

#[test]
fn a_section_behind_the_end_of_the_file_is_named() {
    let mut file = built(&mut small());
    let (header, _) = find(&file, ".trapline.funcs");
    let end = file.len() as u64;
    file[header + 24..header + 32].copy_from_slice(&end.to_le_bytes());
    assert_error!(
        error(&file),
        ImageError::SectionOutsideFile { section, offset, .. } if section.contains(".trapline.funcs") && offset == end
    );
}

#[test]
fn sections_may_not_share_bytes_with_each_other_or_with_the_headers() {
    let file = built(&mut small());
    let (traps, _) = find(&file, ".trapline.traps");
    let (_, text) = find(&file, ".text");
    let headers = u64::from_le_bytes(file[40..48].try_into().unwrap());
    for offset in [0, 63, text.start as u64, text.end as u64 - 20, headers, headers + 64] {
        let mut shared = file.clone();
        shared[traps + 24..traps + 32].copy_from_slice(&offset.to_le_bytes());
        assert_error!(error(&shared), ImageError::SectionsOverlap { .. });
    }
}

#[test]
fn a_section_that_exists_twice_is_an_error() {
    let (marker, none) = (marker(), words(&[0]));
    let all = [
        (".text", [0x90; 16].as_slice()),
        (".trapline.image", &marker),
        (".trapline.traps", &none),
        (".trapline.funcs", &none),
        (".trapline.user.a", b"a"),
    ];
    for twice in all {
        let mut sections = all.to_vec();
        sections.push(twice);
        assert_error!(
            error(&elf_with(&sections)),
            ImageError::DuplicateSection { section } if section.contains(twice.0.trim_start_matches(".trapline.user."))
        );
    }
}

#[test]
fn a_section_that_is_missing_is_named() {
    let (marker, none) = (marker(), words(&[0]));
    let all = [(".text", [0x90; 16].as_slice()), (".trapline.traps", &none), (".trapline.funcs", &none)];
    for missing in all {
        let mut sections = vec![(".trapline.image", marker.as_slice())];
        sections.extend(all.iter().filter(|section| section.0 != missing.0));
        assert_error!(
            error(&elf_with(&sections)),
            ImageError::MissingSection { section } if section.name == missing.0
        );
    }
}

#[test]
fn sections_of_other_names_are_ignored() {
    let long = ".trapline.user.x".repeat(40);
    let (marker, none) = (marker(), words(&[0]));
    let file = elf_with(&[
        (".text", &[0x90; 16]),
        (".trapline.image", &marker),
        (".trapline.traps", &none),
        (".trapline.funcs", &none),
        (".trapline.of-a-later-version", b"?"),
        (".comment", b"!"),
        (".comment", b"twice"),
        (&long, b"longer than any name of ours"),
    ]);
    let loaded = Image::parse(&file).unwrap();
    assert_eq!(loaded.text().len(), 16);
    let long = long.strip_prefix(".trapline.user.").unwrap();
    assert_eq!(loaded.section(long), None);
}

#[test]
fn a_section_without_bytes_in_the_file_or_compressed_is_an_error() {
    let file = built(&mut small());
    for name in [".text", ".trapline.traps"] {
        let (header, _) = find(&file, name);
        let mut no_bits = file.clone();
        no_bits[header + 4..header + 8].copy_from_slice(&elf::SHT_NOBITS.0.to_le_bytes());
        assert_error!(error(&no_bits), ImageError::SectionKind { section } if section.contains(name));
        let mut compressed = file.clone();
        compressed[header + 9] |= 0x8; // SHF_COMPRESSED
        assert_error!(error(&compressed), ImageError::SectionKind { section } if section.contains(name));
    }
}
