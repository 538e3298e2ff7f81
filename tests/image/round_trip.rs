//! What goes in comes out.

use proptest::prelude::*;
use trapline::TrapCode;
use trapline::image::{Image, ImageBuilder, TrapTable};

use crate::sound::{check_functions, check_traps, check_unpublished};
use crate::support::{built, only_publisher, small, trap_bytes};

#[test]
fn more_sections_than_sixteen_bits_can_count_are_all_there() {
    const COUNT: usize = 70_000;
    let mut image = small();
    for number in 0..COUNT {
        image.section(&number.to_string(), number.to_le_bytes());
    }
    let code = Image::parse_verified(&built(&mut image)).unwrap();
    for number in (0..COUNT).step_by(997).chain([COUNT - 1]) {
        assert_eq!(code.section(&number.to_string()), Some(number.to_le_bytes().as_slice()));
    }
    assert_eq!(code.section("types"), Some(b"signatures".as_slice()));
}

#[test]
fn what_was_built_is_what_is_loaded() {
    let _alone = only_publisher();
    let code = Image::parse_verified(&built(&mut small())).unwrap().publish().unwrap();
    assert_eq!(code.text(), (0..48).collect::<Vec<u8>>());
    assert_eq!(code.text_range().len(), 48);
    assert_eq!(code.text_range().start, code.text().as_ptr() as usize);
    assert_eq!(code.trap_code(3), Some(TrapCode::IntegerDivisionByZero));
    assert_eq!(code.trap_code(17), TrapCode::user(7));
    assert_eq!(code.trap_code(47), Some(TrapCode::Unreachable));
    assert_eq!(code.trap_code(4), None);
    assert_eq!(code.trap_code((1 << 32) + 3), None);
    let function = code.functions().by_offset(9).unwrap();
    assert_eq!((function.index(), function.range(), function.name()), (0, 0..10, Some("first")));
    assert_eq!(code.functions().by_offset(10).unwrap().name(), None);
    assert_eq!(code.functions().by_offset(12), None);
    assert_eq!(code.functions().by_offset(47).unwrap().name(), Some("last"));
    assert_eq!(code.functions().by_offset(48), None);
    assert_eq!(code.functions().by_offset((1 << 32) + 9), None);
    assert_eq!(code.section("types"), Some(b"signatures".as_slice()));
    assert_eq!(code.section("other"), None);
    check_traps(48, code.traps());
    check_functions(48, code.functions());
}

#[test]
fn the_same_content_gives_the_same_file() {
    assert_eq!(built(&mut small()), built(&mut small()));
    let [ab, ba] =
        [["a", "b"], ["b", "a"]].map(|[first, second]| built(small().section(first, []).section(second, [])));
    assert_eq!(ab, ba);
}

#[test]
fn an_image_at_an_odd_address_loads() {
    let file = built(&mut small());
    for shift in 0..16 {
        let mut shifted = vec![0; shift];
        shifted.extend(&file);
        check_unpublished(&Image::parse_verified(&shifted[shift..]).unwrap());
    }
}

prop_compose! {
    fn any_code()(byte in any::<u8>()) -> TrapCode {
        TrapCode::from_u8(byte).unwrap_or(TrapCode::StackOverflow)
    }
}

/// Functions as (gap before, length, name).
type Layout = Vec<(usize, usize, Option<String>)>;

proptest! {
    #[test]
    fn any_image_comes_back_as_it_was(
        text in prop::collection::vec(any::<u8>(), 0..300),
        traps in prop::collection::btree_map(0_usize..300, any_code(), 0..40),
        layout in prop::collection::vec((0_usize..5, 1_usize..20, prop::option::of("\\PC{0,8}")), 0..20),
        sections in prop::collection::btree_map("[a-z.]{1,8}", prop::collection::vec(any::<u8>(), 0..20), 0..4),
        align in 0_u32..13,
    ) {
        let layout: Layout = layout;
        let traps: Vec<_> = traps.into_iter().filter(|site| site.0 < text.len()).collect();
        let mut image = ImageBuilder::new();
        image.text(text.clone()).text_align(1 << align);
        for &(offset, code) in &traps {
            image.trap(offset, code);
        }
        let mut functions = Vec::new();
        let mut at = 0;
        for (gap, len, name) in layout {
            let range = at + gap..at + gap + len;
            at = range.end;
            if range.end <= text.len() {
                image.function(range.clone(), name.as_deref());
                functions.push((range, name.filter(|name| !name.is_empty())));
            }
        }
        for (name, bytes) in &sections {
            image.section(name, bytes.clone());
        }
        let loaded = Image::parse_verified(&built(&mut image)).unwrap();
        prop_assert_eq!(loaded.text(), &text);
        prop_assert_eq!(loaded.traps().iter().collect::<Vec<_>>(), traps);
        let found: Vec<_> =
            loaded.functions().iter().map(|f| (f.range(), f.name().map(str::to_owned))).collect();
        prop_assert_eq!(found, functions);
        for (name, bytes) in &sections {
            prop_assert_eq!(loaded.section(name), Some(bytes.as_slice()));
        }
        check_unpublished(&loaded);
    }

    #[test]
    fn random_bytes_are_no_image(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Image::parse(&bytes).is_err());
        prop_assert!(Image::parse_verified(&bytes).is_err());
        let _ = TrapTable::parse(&bytes, 100);
    }

    #[test]
    fn overwritten_bytes_never_put_a_table_outside_the_text(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let original = built(&mut small());
        let mut file = original.clone();
        for (at, byte) in changes {
            file[at.index(original.len())] = byte;
        }
        if let Ok(image) = Image::parse(&file) {
            check_unpublished(&image);
        }
        prop_assert!(file == original || Image::parse_verified(&file).is_err());
    }

    #[test]
    fn any_bytes_are_a_sound_trap_table_or_an_error(
        offsets in prop::collection::vec(0_u32..40, 0..8),
        codes in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let bytes = trap_bytes(&offsets, &codes);
        let sound = codes.len() == offsets.len()
            && offsets.is_sorted_by(|a, b| a < b)
            && offsets.iter().all(|&offset| offset < 32)
            && codes.iter().all(|&code| TrapCode::from_u8(code).is_some());
        let table = TrapTable::parse(&bytes, 32);
        prop_assert_eq!(table.is_ok(), sound);
        if let Ok(table) = table {
            check_traps(32, &table);
            prop_assert_eq!(&TrapTable::from_sorted(table.iter(), 32).unwrap(), &table);
            prop_assert_eq!(table.as_bytes(), bytes);
        }
    }
}

#[test]
fn tables_are_iterated_from_both_ends_with_known_lengths() {
    fn check<'t, T>(table: &'t T, len: usize)
    where
        &'t T: IntoIterator<IntoIter: ExactSizeIterator + DoubleEndedIterator, Item: PartialEq + std::fmt::Debug>,
    {
        let forward: Vec<_> = table.into_iter().collect();
        let mut backward: Vec<_> = table.into_iter().rev().collect();
        backward.reverse();
        assert_eq!(forward, backward);
        let mut entries = table.into_iter();
        assert_eq!((entries.len(), forward.len()), (len, len));
        entries.next();
        assert_eq!(entries.len(), len.saturating_sub(1));
    }
    let image = Image::parse(&built(&mut small())).unwrap();
    check(image.traps(), 3);
    check(image.functions(), 3);
    check(image.modules(), 2);
    check(image.signatures(), 2);
    check(image.address_map(), 3);
    check(image.patches(), 2);
}
