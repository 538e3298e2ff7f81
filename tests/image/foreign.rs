//! Files that are something else.

use std::fs::File;

use trapline::image::{Image, ImageError, Target};

use crate::support::{assert_error, built, elf_with, error, find, small};

#[test]
fn an_elf_file_for_something_else_is_refused_by_what_it_is_for() {
    let file = built(&mut small());
    let changed = |at: usize, byte: u8| {
        let mut file = file.clone();
        file[at] = byte;
        error(&file)
    };
    assert_error!(changed(0, 0), ImageError::NotElf);
    assert_error!(changed(4, 1), ImageError::ForeignClass { found: 1 });
    assert_error!(changed(5, 2), ImageError::ForeignEndianness { found: 2, expected: 1 });
    assert_error!(changed(6, 2), ImageError::MalformedHeaders { .. });
    assert_error!(changed(18, 3), ImageError::ForeignMachine { found: 3, .. });
    assert_error!(changed(16, 3), ImageError::NotRelocatable { found: 3 });
    assert_error!(Image::parse(b"MZ\x90\0\x03\0\0\0"), Err(ImageError::NotElf));
    assert_error!(Image::parse(b""), Err(ImageError::NotElf));
}

#[test]
fn an_image_for_another_machine_builds_and_is_refused() {
    for target in [Target::X86_64, Target::Aarch64, Target::Riscv64, Target::S390x] {
        let result = Image::parse(&built(small().target(target)));
        match target {
            _ if Some(target) == Target::host() => assert!(result.is_ok()),
            Target::S390x => assert_error!(result, Err(ImageError::ForeignEndianness { .. })),
            _ => assert_error!(result, Err(ImageError::ForeignMachine { .. })),
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_program_is_no_image() {
    let file = File::open("/proc/self/exe").unwrap();
    // SAFETY: nobody rewrites a running program.
    let result = unsafe { Image::from_file(&file) };
    assert_error!(result, Err(ImageError::NotAnImage));
    assert_error!(error(&elf_with(&[(".text", b"")])), ImageError::NotAnImage);
}

#[test]
fn a_marker_of_another_kind_or_version_is_refused() {
    let file = built(&mut small());
    let (_, range) = find(&file, ".trapline.image");
    let mut newer = file.clone();
    newer[range.end - 4] = 2;
    assert_error!(error(&newer), ImageError::UnsupportedVersion { found: 2, supported: 1 });
    let mut other = file;
    other[range.start] ^= 1;
    assert_error!(error(&other), ImageError::NotAnImage);
}
