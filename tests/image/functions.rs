//! Keys: what each function is, and finding it by that.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use trapline::image::{
    DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ImageError, ModuleDescription, ModuleIndex, Section,
};

use crate::sound::check_unpublished;
use crate::support::{
    assert_error, built, defined, elf_with, find, into_guest, marker, out_of_guest, section, small_with, words,
};

#[test]
fn keys_are_ordered_by_kind_module_and_index() {
    let ascending = [
        defined(0, 0),
        defined(0, u32::MAX),
        defined(1, 0),
        into_guest(0, 5),
        into_guest(3, 4),
        out_of_guest(0),
        FunctionKey::Builtin { index: 0 },
        FunctionKey::Builtin { index: 7 },
        FunctionKey::Adapter { index: 0 },
    ];
    assert!(ascending.is_sorted_by(|a, b| a < b));
    assert_eq!(ascending.map(|key| key.is_defined()), [true, true, true, false, false, false, false, false, false]);
    assert_eq!(ascending[4].module(), Some(ModuleIndex::new(3)));
    assert_eq!(ascending[5].module(), None);
    assert_eq!(BTreeSet::from(ascending.map(|key| key.to_string())).len(), ascending.len());
}

#[test]
fn without_keys_functions_are_those_of_one_module_in_order() {
    let mut image = ImageBuilder::new();
    image.text([0x90; 16]).function(0..4, None).function(4..8, None).function(9..16, Some("c"));
    let file = built(&mut image);
    assert!(!contains_section(&file, ".trapline.keys"), "the section would say nothing");
    let mut explicit = ImageBuilder::new();
    explicit.text([0x90; 16]).compiled(0..4, defined(0, 0), None).compiled(4..8, defined(0, 1), None);
    explicit.compiled(9..16, defined(0, 2), Some("c"));
    assert_eq!(built(&mut explicit), file);

    let loaded = Image::parse_verified(&file).unwrap();
    let functions = loaded.functions();
    assert!(functions.iter().map(|function| function.key()).eq((0..3).map(|index| defined(0, index))));
    assert_eq!(functions.by_key(defined(0, 2)).unwrap().name(), Some("c"));
    for absent in [defined(0, 3), defined(1, 0), into_guest(0, 0), defined(u32::MAX, 0)] {
        assert_eq!(functions.by_key(absent), None);
    }
    assert_eq!(functions.defined(ModuleIndex::new(0)).count(), 3);
    check_unpublished(&loaded);
}

#[test]
fn keys_that_say_what_their_absence_says_are_the_same_table() {
    let functions = words(&[2, 0, 4, 4, 4]);
    let file = |keys: Option<&[u8]>| {
        let (marker, none) = (marker(), words(&[0]));
        let mut sections: Vec<(&str, &[u8])> = vec![
            (".text", &[0x90; 16]),
            (".trapline.image", &marker),
            (".trapline.traps", &none),
            (".trapline.funcs", &functions),
        ];
        sections.extend(keys.map(|keys| (".trapline.keys", keys)));
        elf_with(&sections)
    };
    let absent = Image::parse(&file(None)).unwrap();
    let explicit = Image::parse(&file(Some(&words(&[2, 0, 0, 0, 1])))).unwrap();
    let other = Image::parse(&file(Some(&words(&[2, 0, 0, 1, 0])))).unwrap();
    assert_eq!(absent.functions(), explicit.functions());
    assert_ne!(absent.functions(), other.functions());
    check_unpublished(&other);
}

#[test]
fn functions_without_a_key_are_numbered_apart_from_those_with_one() {
    let mut image = ImageBuilder::new();
    image.text([0x90; 16]).function(0..4, None).compiled(4..8, into_guest(0, 0), None).function(8..12, None);
    let loaded = Image::parse_verified(&built(&mut image)).unwrap();
    let keys: Vec<_> = loaded.functions().iter().map(|function| function.key()).collect();
    assert_eq!(keys, [defined(0, 0), into_guest(0, 0), defined(0, 1)]);
    image.compiled(12..16, defined(0, 1), None);
    assert_error!(
        image.finish(),
        Err(ImageError::DuplicateFunctionKey { key, first: 8, second: 12 }) if key == defined(0, 1)
    );
}

#[test]
fn a_module_has_its_functions_of_the_lowest_and_the_highest_number_and_no_others() {
    let mut image = ImageBuilder::new();
    image.text([0x90; 16]).module(ModuleDescription::default()).module(ModuleDescription::default());
    image.compiled(0..2, into_guest(0, 0), None).compiled(2..4, defined(1, u32::MAX), None);
    image.compiled(4..6, defined(1, 0), None).compiled(6..8, defined(0, u32::MAX), None);
    let loaded = Image::parse_verified(&built(&mut image)).unwrap();
    let of = |module| {
        let functions = loaded.functions().defined(ModuleIndex::new(module));
        functions.map(|function| function.key()).collect::<Vec<_>>()
    };
    assert_eq!(of(0), [defined(0, u32::MAX)]);
    assert_eq!(of(1), [defined(1, 0), defined(1, u32::MAX)]);
    for module in [2, (1 << 24) - 1, 1 << 24, u32::MAX] {
        assert_eq!(of(module), []);
    }
}

#[test]
fn keys_that_name_what_is_not_there_are_refused_by_the_builder() {
    let one = |key: FunctionKey| {
        let mut image = ImageBuilder::new();
        image.text([0x90; 4]).compiled(0..4, key, None);
        image
    };
    assert!(one(defined(0, 9)).finish().is_ok());
    assert_error!(one(defined(1, 0)).finish(), Err(ImageError::NoSuchModule { modules: 1, .. }));
    assert_error!(one(into_guest(1, 0)).finish(), Err(ImageError::NoSuchModule { modules: 1, .. }));
    assert_error!(one(defined(0, 0)).without_modules().finish(), Err(ImageError::NoSuchModule { modules: 0, .. }));
    let two = [ModuleDescription::default(), ModuleDescription::default()];
    let [first, second] = two;
    assert!(one(defined(1, 0)).module(first).module(second).finish().is_ok());
    assert_error!(one(out_of_guest(0)).finish(), Err(ImageError::NoSuchSignature { signatures: 0, .. }));
    assert_error!(one(out_of_guest(1)).signature([]).finish(), Err(ImageError::NoSuchSignature { .. }));
    assert!(one(out_of_guest(0)).signature([]).finish().is_ok());
    assert_error!(one(defined(1 << 24, 0)).finish(), Err(ImageError::ModuleIndexTooLarge { .. }));
    let importing = |count| ModuleDescription::new().imported_functions(count);
    assert!(one(defined(0, 5)).module(importing(u32::MAX - 5)).finish().is_ok());
    for key in [defined(0, 5), into_guest(0, 5)] {
        assert_error!(
            one(key).module(importing(u32::MAX - 4)).finish(),
            Err(ImageError::FunctionIndexOverflow { key: found, .. }) if found == key
        );
    }
}

#[test]
fn keys_that_break_a_rule_are_refused_by_the_parser() {
    // The small image has three functions, at 0, 10 and 16, two modules and two signatures.
    let keys = |spaces: [u32; 3], indices: [u32; 3]| {
        let mut keys = words(&[3]);
        keys.extend(words(&spaces));
        keys.extend(words(&indices));
        Image::parse(&small_with(&[(".trapline.keys", &keys), (".trapline.patches", &words(&[0]))]))
    };
    let kind = |kind: u32| kind << 24;
    assert!(keys([0, 1, kind(1)], [0; 3]).is_ok());
    assert!(keys([kind(2), kind(3), kind(4)], [1, u32::MAX, u32::MAX]).is_ok());
    for space in [kind(6), kind(255), kind(2) | 1, kind(3) | 1, kind(4) | 0xff_ffff, kind(5) | 1] {
        assert_error!(
            keys([0, space, 0], [0, 0, 1]),
            Err(ImageError::UnknownFunctionKey { start: 10, space: found }) if found == space
        );
    }
    assert_error!(keys([0, 1, 0], [3; 3]), Err(ImageError::DuplicateFunctionKey { first: 0, second: 16, .. }));
    assert_error!(keys([0, 2, 1], [0; 3]), Err(ImageError::NoSuchModule { modules: 2, .. }));
    assert_error!(keys([0, kind(1) | 2, 1], [0; 3]), Err(ImageError::NoSuchModule { modules: 2, .. }));
    assert_error!(keys([0, kind(2), 1], [0, 2, 0]), Err(ImageError::NoSuchSignature { signatures: 2, .. }));
    // Module 0 imports three functions.
    assert!(keys([0, 1, 1], [u32::MAX - 3, u32::MAX, 0]).is_ok());
    assert_error!(
        keys([0, 1, 1], [u32::MAX - 2, 1, 0]),
        Err(ImageError::FunctionIndexOverflow { imported_functions: 3, .. })
    );
    let two = words(&[2, 0, 0, 0, 1]);
    assert_error!(
        Image::parse(&small_with(&[(".trapline.keys", &two)])),
        Err(ImageError::EntryCount { section: Section { name: ".trapline.keys", .. }, expected: 3, found: 2 })
    );
    let mut two_names = words(&[2, 0, 0]);
    assert_error!(
        Image::parse(&small_with(&[(".trapline.names", &two_names)])),
        Err(ImageError::EntryCount { section: Section { name: ".trapline.names", .. }, expected: 3, found: 2 })
    );
    two_names.extend(section(".trapline.names"));
    assert_error!(Image::parse(&small_with(&[(".trapline.names", &two_names)])), Err(ImageError::EntryCount { .. }));
}

fn contains_section(file: &[u8], name: &str) -> bool {
    std::panic::catch_unwind(|| find(file, name)).is_ok()
}

fn any_key() -> impl Strategy<Value = FunctionKey> {
    prop_oneof![
        6 => (0..3_u32, 0..12_u32).prop_map(|(module, function)| defined(module, function)),
        2 => (0..3_u32, 0..12_u32).prop_map(|(module, function)| into_guest(module, function)),
        1 => (0..4_u32).prop_map(out_of_guest),
        1 => (0..6_u32).prop_map(|index| FunctionKey::Builtin { index }),
        1 => (0..6_u32).prop_map(|index| FunctionKey::Adapter { index }),
    ]
}

proptest! {
    #[test]
    fn functions_are_found_by_offset_and_by_key_as_in_a_naive_table(
        keys in prop::collection::vec(any_key(), 0..40),
        gaps in prop::collection::vec((0..4_usize, 1..9_usize), 40),
        unique: bool,
        sorted: bool,
    ) {
        let mut keys = keys;
        if unique {
            let mut seen = BTreeSet::new();
            keys.retain(|key| seen.insert(*key));
        }
        if sorted {
            keys.sort();
        }
        let mut image = ImageBuilder::new();
        for _ in 0..3 {
            image.module(ModuleDescription::default());
        }
        for signature in 0..4_u8 {
            image.signature([signature]);
        }
        let mut naive = Vec::new();
        let mut end = 0;
        for (&key, &(gap, len)) in keys.iter().zip(&gaps) {
            let range = end + gap..end + gap + len;
            end = range.end;
            image.compiled(range.clone(), key, None);
            naive.push((key, range));
        }
        image.text(vec![0x90; end + 5]);
        let by_key: BTreeMap<_, _> = naive.iter().cloned().collect();
        if by_key.len() != naive.len() {
            assert_error!(image.finish(), Err(ImageError::DuplicateFunctionKey { .. }));
            return Ok(());
        }
        let loaded = Image::parse_verified(&built(&mut image)).unwrap();
        let table = loaded.functions();
        for offset in 0..end + 6 {
            let expected = naive.iter().find(|function| function.1.contains(&offset));
            prop_assert_eq!(table.by_offset(offset).map(|function| (function.key(), function.range())), expected.cloned());
        }
        let probes = (0..4).flat_map(|module| (0..13).flat_map(move |index| {
            [defined(module, index), into_guest(module, index), out_of_guest(index),
                FunctionKey::Builtin { index }, FunctionKey::Adapter { index }]
        }));
        for key in probes {
            let found = table.by_key(key);
            prop_assert_eq!(found.as_ref().map(|function| function.range()), by_key.get(&key).cloned());
            if let Some(function) = found {
                prop_assert_eq!(function.key(), key);
                prop_assert_eq!(table.get(function.index()), Some(function));
            }
        }
        for module in 0..4 {
            let first = FunctionKey::Defined { module: ModuleIndex::new(module), function: DefinedFunctionIndex::new(0) };
            let last = defined(module, u32::MAX);
            let expected: Vec<_> = by_key.range(first..=last).map(|(key, range)| (*key, range.clone())).collect();
            let found: Vec<_> =
                table.defined(ModuleIndex::new(module)).map(|function| (function.key(), function.range())).collect();
            prop_assert_eq!(found, expected);
        }
        check_unpublished(&loaded);
    }
}
