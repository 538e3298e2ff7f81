//! When there is no memory: an error, whichever allocation it was for, and nothing is left behind.

use trapline::image::{Image, ImageBuilder, ImageError};

use crate::allocator::{every_allocation_fails, largest_of};
use crate::support::{Temporary, assert_error, built, elf_with, find, mappings, marker, only_publisher, small, words};

fn is_refusal(error: &ImageError) -> bool {
    matches!(error, ImageError::OutOfMemory { bytes } if *bytes > 0)
}

#[test]
fn parsing_without_memory_is_an_error() {
    let file = built(&mut small());
    assert!(every_allocation_fails(|| Image::parse(&file), is_refusal) >= 20);
    assert!(every_allocation_fails(|| Image::parse_verified(&file), is_refusal) >= 20);
    let plain = built(ImageBuilder::new().text([0x90; 16]).function(0..4, None));
    assert!(every_allocation_fails(|| Image::parse(&plain), is_refusal) >= 5);
}

#[test]
fn what_a_refused_parse_mapped_is_unmapped() {
    let _alone = only_publisher();
    let file = built(&mut small());
    let before = mappings().len();
    every_allocation_fails(|| Image::parse(&file), is_refusal);
    // Each run maps a text of its own at the end, and so does the allocator now and then.
    assert!(mappings().len() <= before + 4, "{before} mappings before, {} after", mappings().len());
}

#[test]
fn an_error_that_names_a_section_needs_memory_and_is_an_error_without_it() {
    let (marker, none) = (marker(), words(&[0]));
    let twice = elf_with(&[
        (".text", [0x90; 16].as_slice()),
        (".trapline.image", &marker),
        (".trapline.traps", &none),
        (".trapline.traps", &none),
    ]);
    let mut outside = built(&mut small());
    let (header, _) = find(&outside, ".trapline.funcs");
    outside[header + 24..header + 32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let mut shared = built(&mut small());
    let (header, _) = find(&shared, ".trapline.funcs");
    shared[header + 24..header + 32].copy_from_slice(&0_u64.to_le_bytes());
    for file in [twice, outside, shared] {
        let named = || match Image::parse(&file) {
            Err(error) if !is_refusal(&error) => Ok(error),
            Err(refusal) => Err(refusal),
            Ok(_) => panic!("the image was accepted"),
        };
        assert!(every_allocation_fails(named, is_refusal) >= 2);
    }
}

#[test]
fn building_without_memory_is_an_error() {
    let image = small();
    assert!(every_allocation_fails(|| image.finish(), is_refusal) >= 30);
    let mut wrong = small();
    wrong.section("what is this?", []);
    let named = || match wrong.finish() {
        Err(error) if !is_refusal(&error) => Ok(error),
        result => result.map(|_| panic!("a bad name was accepted")),
    };
    assert!(every_allocation_fails(named, is_refusal) > 10);
}

/// What callers convert to vectors they allocate themselves: nothing of it here.
#[test]
fn what_there_was_no_memory_to_add_is_an_error_of_the_builder() {
    let describe = || {
        let mut image = ImageBuilder::new();
        for index in 0..10 {
            image.trap(index, trapline::TrapCode::Unreachable).function(index..index + 1, Some("a name"));
            image.address(index, None).signature([]).patch(index, [], []).module(Default::default());
            image.section("name", []);
        }
        // Nothing else is wrong, except that memory was lacking.
        match image.finish() {
            Err(error) if is_refusal(&error) => Err(error),
            Err(_) => Ok(()),
            Ok(_) => panic!("an image with traps outside its text was accepted"),
        }
    };
    assert!(every_allocation_fails(describe, is_refusal) > 20);
}

#[test]
#[cfg(unix)]
fn loading_a_file_without_memory_is_an_error() {
    let aligned = Temporary::new("scarce", &built(small().text_align(0x1_0000)));
    let copied = Temporary::new("scarce-copied", &built(&mut small()));
    for temporary in [aligned, copied] {
        let file = temporary.open();
        // SAFETY: only this test knows the file.
        assert!(every_allocation_fails(|| unsafe { Image::from_file(&file) }, is_refusal) >= 20);
        // SAFETY: only this test knows the file.
        assert!(every_allocation_fails(|| unsafe { Image::from_file_verified(&file) }, is_refusal) >= 20);
        assert!(temporary.mappings().is_empty());
    }
}

#[test]
fn publishing_without_memory_succeeds() {
    let file = built(&mut small());
    let code = Image::parse(&file).unwrap();
    let code = crate::allocator::with_allocations(0, || code.publish());
    assert_eq!(code.unwrap().text().len(), 48);
}

/// A file of a few stored blocks whose length, and the size of one section, are a terabyte.
#[test]
#[cfg(unix)]
fn a_file_of_holes_allocates_nothing_of_its_length() {
    const HUGE: u64 = 1 << 40;
    for section in [".trapline.user.types", ".trapline.config", ".trapline.sigs", ".text"] {
        let mut file = built(&mut small());
        let (header, _) = find(&file, section);
        let offset = (file.len() as u64).next_multiple_of(1 << 16);
        file[header + 24..header + 32].copy_from_slice(&offset.to_le_bytes());
        file[header + 32..header + 40].copy_from_slice(&(HUGE - offset).to_le_bytes());
        let temporary = Temporary::new("sparse", &file);
        let sparse = std::fs::OpenOptions::new().write(true).read(true).open(&temporary.0).unwrap();
        if let Err(error) = sparse.set_len(HUGE) {
            eprintln!("no file of {HUGE} bytes here: {error}");
            return;
        }
        // SAFETY: only this test knows the file.
        let (result, largest) = largest_of(|| unsafe { Image::from_file(&sparse) });
        assert_error!(result, Err(ImageError::Sparse { len: HUGE, .. }));
        assert!(largest < 1 << 20, "{largest} bytes at once for section {section}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_with_a_few_holes_is_loaded() {
    // Zeros that a copying program may well leave out.
    let file = built(small().section("zeros", vec![0; 8 << 20]));
    let temporary = Temporary::new("holes", b"");
    let sparse = std::fs::OpenOptions::new().write(true).read(true).open(&temporary.0).unwrap();
    sparse.set_len(file.len() as u64).unwrap();
    for (at, page) in file.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, page, at as u64 * 4096).unwrap();
    }
    // SAFETY: only this test knows the file.
    let code = unsafe { Image::from_file_verified(&sparse) }.unwrap();
    assert_eq!(code.section("zeros").unwrap().len(), 8 << 20);
}
