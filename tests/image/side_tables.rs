//! Modules, signatures, addresses, patches and the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;
use trapline::image::{
    Image, ImageBuilder, ImageError, ModuleDescription, ModuleIndex, Patch, Section, SignatureIndex, Unpublished,
};

use crate::allocator::largest_of;
use crate::sound::check_unpublished;
use crate::support::{
    SECTIONS, assert_error, built, defined, into_guest, only_publisher, section, small, small_with, words,
};

fn parse_with(name: &str, bytes: &[u8]) -> Result<Unpublished, ImageError> {
    Image::parse(&small_with(&[(name, bytes)]))
}

/// The sections that begin with a count.
fn tables() -> impl Iterator<Item = &'static str> {
    SECTIONS
        .into_iter()
        .filter(|name| ![".text", ".trapline.image", ".trapline.config", ".trapline.user.types"].contains(name))
}

#[test]
fn what_an_image_says_of_its_modules_and_settings_comes_back() {
    let _alone = only_publisher();
    let code = Image::parse_verified(&built(&mut small())).unwrap().publish().unwrap();
    let [main, other] = [0, 1].map(|index| code.modules().get(ModuleIndex::new(index)).unwrap());
    assert_eq!((main.name(), main.imported_functions()), (Some("main"), 3));
    assert!(main.has_unparsed_debug_info() && !main.debug_info_depends_on_environment());
    assert_eq!((other.name(), other.imported_functions()), (None, 0));
    assert!(!other.has_unparsed_debug_info() && other.debug_info_depends_on_environment());
    assert_eq!(code.modules().len(), 2);
    assert!(code.modules().iter().eq([main, other]));
    assert_eq!(code.signatures().get(SignatureIndex::new(0)), Some(b"i32".as_slice()));
    assert_eq!(code.signatures().get(SignatureIndex::new(1)), Some([].as_slice()));
    assert_eq!(code.signatures().get(SignatureIndex::new(2)), None);
    let map = code.address_map();
    assert_eq!(
        [0, 9, 10, 19, 20, 1000].map(|offset| map.source_offset(offset)),
        [Some(70), Some(70), None, None, Some(90), Some(90)]
    );
    assert_eq!(map.source_offset_from(1, 9), None);
    let (index, patch) = code.patches().next_from(5).unwrap();
    assert_eq!((index, patch.offset(), patch.enabled(), patch.disabled()), (1, 20, &[0xce][..], &[20][..]));
    assert_eq!(code.patches().next_from(21), None);
    assert_eq!(code.patches().in_range(4..21), 0..2);
    assert_eq!(code.patches().in_range(5..20), 1..1);
    assert_eq!(code.configuration(), b"settings");
}

#[test]
fn an_image_that_says_nothing_has_one_module_and_no_tables() {
    let file = built(ImageBuilder::new().text([0x90; 4]).module(ModuleDescription::default()));
    assert_eq!(built(ImageBuilder::new().text([0x90; 4])), file);
    let loaded = Image::parse_verified(&file).unwrap();
    assert_eq!(loaded.modules().len(), 1);
    let module = loaded.modules().iter().next().unwrap();
    assert_eq!((module.name(), module.imported_functions()), (None, 0));
    assert!(loaded.signatures().is_empty() && loaded.patches().is_empty() && loaded.address_map().is_empty());
    assert_eq!(loaded.configuration(), b"");
}

#[test]
fn an_image_may_have_no_modules() {
    let loaded = Image::parse_verified(&built(ImageBuilder::new().without_modules())).unwrap();
    assert!(loaded.modules().is_empty());
    assert_eq!(loaded.modules().get(ModuleIndex::new(0)), None);
    let file = built(ImageBuilder::new().without_modules().module(ModuleDescription::default()));
    assert_eq!(Image::parse_verified(&file).unwrap().modules().len(), 1);
}

#[test]
fn a_table_that_was_cut_off_or_grew_is_an_error() {
    for name in tables() {
        let bytes = section(name);
        assert!(parse_with(name, &bytes).is_ok(), "{name}");
        for len in 0..bytes.len() {
            assert_error!(parse_with(name, &bytes[..len]), Err(ImageError::TableLength { section, .. }) if section.name == name);
        }
        let longer = [bytes, vec![0]].concat();
        assert_error!(parse_with(name, &longer), Err(ImageError::TableLength { section, .. }) if section.name == name);
    }
}

#[test]
fn a_table_with_an_absurd_count_is_an_error_and_allocates_nothing_of_its_size() {
    for name in tables() {
        let original = section(name);
        for count in [1 << 20, 1 << 30, u32::MAX] {
            let mut absurd = original.clone();
            absurd[..4].copy_from_slice(&u32::to_le_bytes(count));
            let file = small_with(&[(name, &absurd)]);
            let (result, peak) = largest_of(|| Image::parse(&file));
            assert_error!(result, Err(ImageError::TableLength { section, .. }) if section.name == name);
            assert!(peak < 8 * file.len(), "{peak} bytes at once for {name} in a file of {}", file.len());
        }
    }
}

#[test]
fn module_names_and_flags_that_make_no_sense_are_refused() {
    let modules = |flags: [u32; 2], ends: [u32; 2], names: &[u8]| {
        let mut bytes = words(&[2, 3, 0]);
        bytes.extend(words(&flags));
        bytes.extend(words(&ends));
        bytes.extend(names);
        parse_with(".trapline.modules", &bytes)
    };
    assert!(modules([3, 0], [1, 3], "aé".as_bytes()).is_ok());
    assert_error!(modules([0, 4], [1, 3], b"abc"), Err(ImageError::UnknownModuleFlags { module: 1, flags: 4 }));
    assert_error!(
        modules([1 << 31, 0], [1, 3], b"abc"),
        Err(ImageError::UnknownModuleFlags { module: 0, flags: 0x8000_0000 })
    );
    assert_error!(
        modules([0, 0], [3, 2], b"ab"),
        Err(ImageError::EndsOutOfOrder { section: Section { name: ".trapline.modules", .. }, index: 1 })
    );
    assert_error!(
        modules([0, 0], [1, 2], b"a\xff"),
        Err(ImageError::BadName { section: Section { name: ".trapline.modules", .. }, index: None })
    );
    assert_error!(
        modules([0, 0], [2, 3], "aé".as_bytes()),
        Err(ImageError::BadName { section: Section { name: ".trapline.modules", .. }, index: Some(0) })
    );
}

#[test]
fn signatures_that_are_the_same_or_out_of_order_are_refused() {
    let twice = small().signature(*b"i32").finish();
    assert_error!(
        twice,
        Err(ImageError::DuplicateSignature { first, second }) if (first.as_u32(), second.as_u32()) == (0, 2)
    );
    let signatures = |ends: [u32; 3], bytes: &[u8]| {
        let mut section = words(&[3]);
        section.extend(words(&ends));
        section.extend(bytes);
        parse_with(".trapline.sigs", &section)
    };
    assert!(signatures([2, 2, 3], b"aba").is_ok());
    assert_error!(
        signatures([1, 2, 3], b"aba"),
        Err(ImageError::DuplicateSignature { first, second }) if (first.as_u32(), second.as_u32()) == (0, 2)
    );
    assert_error!(signatures([2, 1, 3], b"aba"), Err(ImageError::EndsOutOfOrder { index: 1, .. }));
}

#[test]
fn addresses_out_of_order_twice_outside_or_too_large_are_refused() {
    let built = |a: (usize, Option<u32>), b: (usize, Option<u32>)| {
        ImageBuilder::new().text([0x90; 16]).address(a.0, a.1).address(b.0, b.1).finish()
    };
    assert!(built((0, None), (15, Some(u32::MAX - 1))).is_ok());
    assert_error!(
        built((9, None), (4, None)),
        Err(ImageError::OutOfOrder { previous: Range { start: 9, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(built((4, None), (4, None)), Err(ImageError::OutOfOrder { .. }));
    assert_error!(
        built((4, None), (16, None)),
        Err(ImageError::OutsideText { range: Range { start: 16, .. }, text_len: 16, .. })
    );
    assert_error!(built((4, Some(u32::MAX)), (5, None)), Err(ImageError::SourceOffsetTooLarge { offset: 4 }));
    let parsed = |a: u32, b: u32| parse_with(".trapline.addrs", &words(&[2, a, b, 7, u32::MAX]));
    assert!(parsed(0, 47).is_ok());
    assert_error!(
        parsed(9, 4),
        Err(ImageError::OutOfOrder { previous: Range { start: 9, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(parsed(4, 4), Err(ImageError::OutOfOrder { .. }));
    assert_error!(parsed(4, 48), Err(ImageError::OutsideText { range: Range { start: 48, .. }, .. }));
    assert_error!(parsed(4, u32::MAX), Err(ImageError::OutsideText { .. }));
    assert!(parse_with(".trapline.addrs", &words(&[0])).unwrap().address_map().is_empty());
}

#[test]
fn patches_that_break_a_rule_are_refused_by_the_builder() {
    let image = || {
        let mut image = ImageBuilder::new();
        image.text((0..40).collect::<Vec<u8>>());
        image.function(0..20, None).function(20..30, None).compiled(30..35, into_guest(0, 0), None);
        image
    };
    let bytes = |range: std::ops::Range<u8>| range.collect::<Vec<u8>>();
    let one = |offset: usize, len: usize| {
        let disabled: Vec<u8> = (0..len).map(|at| (offset as u8).wrapping_add(at as u8)).collect();
        image().patch(offset, vec![0xcc; len], disabled).finish()
    };
    assert!(one(0, Patch::MAX_LEN).is_ok());
    assert!(one(19, 1).is_ok());
    assert!(one(25, 5).is_ok());
    for (offset, len) in [(0, 0), (0, Patch::MAX_LEN + 1), (0, 300)] {
        assert_error!(one(offset, len), Err(ImageError::PatchLength { enabled, .. }) if enabled == len);
    }
    let uneven = image().patch(3, [0xcc], bytes(3..5)).finish();
    assert_error!(uneven, Err(ImageError::PatchLength { offset: 3, enabled: 1, disabled: 2 }));
    assert_error!(image().patch(3, [3], [3]).finish(), Err(ImageError::PatchWithoutEffect { offset: 3 }));
    assert_error!(image().patch(3, [0xcc], [4]).finish(), Err(ImageError::PatchNotInText { range }) if range == (3..4));
    // Across two functions, in a trampoline, in no function, out of a function.
    for (offset, len) in [(19, 2), (30, 1), (36, 1), (29, 2)] {
        assert_error!(one(offset, len), Err(ImageError::PatchOutsideFunction { range }) if range.start == offset);
    }
    for (offset, len) in [(39, 2), (40, 1), (u32::MAX as usize, 1), (u32::MAX as usize - 1, 1)] {
        assert_error!(one(offset, len), Err(ImageError::OutsideText { text_len: 40, .. }));
    }
    let two = |a: usize, b: usize| {
        let disabled = |offset: usize| bytes(offset as u8..offset as u8 + 4);
        image().patch(a, [0xcc; 4], disabled(a)).patch(b, [0xcc; 4], disabled(b)).finish()
    };
    assert!(two(4, 8).is_ok());
    for (a, b) in [(4, 7), (4, 4), (8, 4), (9, 0)] {
        assert_error!(
            two(a, b),
            Err(ImageError::OutOfOrder { previous, range, .. }) if previous == (a..a + 4) && range == (b..b + 4)
        );
    }
}

#[test]
fn patches_that_break_a_rule_are_refused_by_the_parser() {
    // Functions of the guest at 0..10 and 16..48, a trampoline at 10..12; each byte of the text is its own offset.
    let two = |offsets: [u32; 2], ends: [u32; 2], enabled: &[u8], disabled: &[u8]| {
        let mut section = words(&[2]);
        section.extend(words(&offsets));
        section.extend(words(&ends));
        section.extend([enabled, disabled].concat());
        parse_with(".trapline.patches", &section)
    };
    let ones = |a: u32, b: u32| two([a, b], [1, 2], &[0xcc, 0xcc], &[a as u8, b as u8]);
    assert!(ones(0, 47).is_ok());
    assert_error!(ones(5, 4), Err(ImageError::OutOfOrder { .. }));
    assert_error!(ones(4, 4), Err(ImageError::OutOfOrder { .. }));
    assert_error!(two([4, 5], [2, 3], &[9; 3], &[4, 5, 5]), Err(ImageError::OutOfOrder { .. }));
    assert_error!(ones(4, 48), Err(ImageError::OutsideText { range: Range { start: 48, end: 49 }, text_len: 48, .. }));
    assert_error!(ones(4, u32::MAX), Err(ImageError::OutsideText { .. }));
    assert_error!(ones(4, 10), Err(ImageError::PatchOutsideFunction { range }) if range == (10..11));
    assert_error!(ones(4, 13), Err(ImageError::PatchOutsideFunction { .. }));
    assert_error!(two([4, 9], [1, 3], &[9; 3], &[4, 9, 10]), Err(ImageError::PatchOutsideFunction { .. }));
    assert_error!(two([4, 5], [0, 1], &[9], &[5]), Err(ImageError::PatchLength { offset: 4, enabled: 0, .. }));
    let many: Vec<u8> = (17..34).collect();
    let (enabled, disabled) = ([&[9], [0xcc; 17].as_slice()].concat(), [&[4], many.as_slice()].concat());
    assert_error!(
        two([4, 17], [1, 18], &enabled, &disabled),
        Err(ImageError::PatchLength { offset: 17, enabled: 17, disabled: 17 })
    );
    assert_error!(two([4, 5], [1, 2], &[9, 5], &[4, 5]), Err(ImageError::PatchWithoutEffect { offset: 5 }));
    assert_error!(two([4, 5], [1, 2], &[9, 9], &[4, 6]), Err(ImageError::PatchNotInText { range }) if range == (5..6));
    assert_error!(two([4, 5], [2, 1], &[9], &[4]), Err(ImageError::EndsOutOfOrder { index: 1, .. }));
}

#[test]
fn relocations_may_change_the_bytes_of_a_patch() {
    let _alone = only_publisher();
    let mut unpublished = Image::parse_verified(&built(&mut small())).unwrap();
    unpublished.text_mut()[4..6].fill(0x90);
    let code = unpublished.publish().unwrap();
    assert_eq!(code.patches().get(0).unwrap().disabled(), [4, 5]);
    assert_eq!(code.text()[4..6], [0x90, 0x90]);
}

proptest! {
    #[test]
    fn any_side_tables_come_back_as_they_were(
        modules in prop::collection::vec((prop::option::of("\\PC{0,6}"), any::<u16>(), any::<bool>(), any::<bool>()), 0..6),
        signatures in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..6), 0..8),
        addresses in prop::collection::btree_map(0_usize..200, prop::option::of(0_u32..u32::MAX), 0..30),
        patches in prop::collection::btree_map(0_usize..200, 1_usize..17, 0..30),
        text in prop::collection::vec(any::<u8>(), 200),
        split in 1_usize..200,
        configuration in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut image = ImageBuilder::new();
        image.text(text.clone()).text_align(16).without_modules().configuration(configuration.clone());
        if !modules.is_empty() {
            image.compiled(0..split, defined(modules.len() as u32 - 1, 1), None);
            image.compiled(split..200, defined(0, 0), None);
        }
        for (name, imports, unparsed, environment) in modules.clone() {
            let module = ModuleDescription::new().name(name.unwrap_or_default()).imported_functions(imports.into());
            image.module(module.unparsed_debug_info(unparsed).debug_info_from_environment(environment));
        }
        // In the order in which they are given, not in their own.
        let signatures: Vec<_> = signatures.into_iter().rev().collect();
        for signature in &signatures {
            image.signature(signature.clone());
        }
        for (&offset, &source) in &addresses {
            image.address(offset, source);
        }
        let mut given = Vec::new();
        let mut end = 0;
        for (offset, len) in patches {
            let inside = offset + len <= if offset < split { split } else { 200 };
            if offset >= end && inside && !modules.is_empty() {
                end = offset + len;
                let disabled = text[offset..end].to_vec();
                let enabled: Vec<u8> = disabled.iter().map(|byte| !byte).collect();
                image.patch(offset, enabled.clone(), disabled.clone());
                given.push((offset, enabled, disabled));
            }
        }
        let file = built(&mut image);
        let loaded = Image::parse_verified(&file).unwrap();
        let found: Vec<_> = loaded
            .modules()
            .iter()
            .map(|m| {
                (m.name().map(str::to_owned), m.imported_functions() as u16, m.has_unparsed_debug_info(), m.debug_info_depends_on_environment())
            })
            .collect();
        let named = |name: Option<String>| name.filter(|name| !name.is_empty());
        let expected: Vec<_> = modules.into_iter().map(|(name, a, b, c)| (named(name), a, b, c)).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(loaded.signatures().iter().eq(signatures.iter().map(Vec::as_slice)));
        prop_assert_eq!(loaded.address_map().iter().collect::<BTreeMap<_, _>>(), addresses);
        let found: Vec<_> =
            loaded.patches().iter().map(|p| (p.offset(), p.enabled().to_vec(), p.disabled().to_vec())).collect();
        prop_assert_eq!(found, given);
        prop_assert_eq!(loaded.configuration(), configuration);
        prop_assert_eq!(loaded.signatures().iter().collect::<BTreeSet<_>>().len(), signatures.len());
        check_unpublished(&loaded);
    }
}
