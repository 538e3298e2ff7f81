//! Tables that break their rules, in the builder and in the parser.

use std::ops::Range;

use trapline::TrapCode;
use trapline::image::{Image, ImageBuilder, ImageError, Section};

use crate::support::{assert_error, built, small, trap_bytes, with_tables, words};

#[test]
fn trap_sites_out_of_order_twice_or_outside_are_refused_by_the_builder() {
    let unreachable = TrapCode::Unreachable;
    let sites =
        |a: usize, b: usize| ImageBuilder::new().text([0x90; 16]).trap(a, unreachable).trap(b, unreachable).finish();
    assert!(sites(0, 15).is_ok());
    assert_error!(
        sites(9, 4),
        Err(ImageError::OutOfOrder { previous: Range { start: 9, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(
        sites(4, 4),
        Err(ImageError::OutOfOrder { previous: Range { start: 4, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(sites(4, 16), Err(ImageError::OutsideText { range: Range { start: 16, .. }, text_len: 16, .. }));
}

#[test]
fn trap_sites_out_of_order_twice_outside_or_of_no_meaning_are_refused_by_the_parser() {
    let table = |offsets: &[u32], codes: &[u8]| {
        let file = with_tables(&trap_bytes(offsets, codes), &words(&[0]), None);
        Image::parse(&file)
    };
    assert!(table(&[0, 15], &[1, 255]).is_ok());
    assert_error!(
        table(&[9, 4], &[1, 1]),
        Err(ImageError::OutOfOrder { previous: Range { start: 9, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(
        table(&[4, 4], &[1, 1]),
        Err(ImageError::OutOfOrder { previous: Range { start: 4, .. }, range: Range { start: 4, .. }, .. })
    );
    assert_error!(table(&[4, 16], &[1, 1]), Err(ImageError::OutsideText { range: Range { start: 16, .. }, .. }));
    assert_error!(table(&[4], &[63]), Err(ImageError::UnknownTrapCode { offset: 4, code: 63 }));
    assert_error!(table(&[4, 5], &[1]), Err(ImageError::TableLength { .. }));
    assert_error!(table(&[4], &[1, 1]), Err(ImageError::TableLength { .. }));
}

#[test]
fn functions_out_of_order_overlapping_empty_or_outside_are_refused_by_the_builder() {
    let functions = |a: Range<usize>, b: Range<usize>| {
        ImageBuilder::new().text([0x90; 16]).function(a, None).function(b, None).finish()
    };
    assert!(functions(0..4, 4..16).is_ok());
    assert_error!(functions(8..12, 0..4), Err(ImageError::OutOfOrder { .. }));
    assert_error!(functions(0..4, 0..4), Err(ImageError::OutOfOrder { .. }));
    assert_error!(functions(0..5, 4..8), Err(ImageError::OutOfOrder { .. }));
    assert_error!(functions(0..4, 4..4), Err(ImageError::FunctionEmpty { start: 4 }));
    #[expect(clippy::reversed_empty_ranges)]
    let inverted = 9..4;
    assert_error!(functions(0..4, inverted), Err(ImageError::FunctionEmpty { start: 9 }));
    assert_error!(functions(0..4, 4..17), Err(ImageError::OutsideText { range: Range { start: 4, end: 17 }, .. }));
    assert_error!(functions(0..4, 20..24), Err(ImageError::OutsideText { .. }));
}

#[test]
fn functions_out_of_order_overlapping_empty_or_outside_are_refused_by_the_parser() {
    let table = |starts: [u32; 2], lens: [u32; 2]| {
        let bytes = words(&[2, starts[0], starts[1], lens[0], lens[1]]);
        Image::parse(&with_tables(&words(&[0]), &bytes, None))
    };
    assert!(table([0, 4], [4, 12]).is_ok());
    assert_error!(table([8, 0], [4, 4]), Err(ImageError::OutOfOrder { .. }));
    assert_error!(table([0, 0], [4, 4]), Err(ImageError::OutOfOrder { .. }));
    assert_error!(table([0, 4], [5, 4]), Err(ImageError::OutOfOrder { .. }));
    assert_error!(table([0, 4], [4, 0]), Err(ImageError::FunctionEmpty { start: 4 }));
    assert_error!(table([0, 4], [4, 13]), Err(ImageError::OutsideText { .. }));
    assert_error!(table([0, 4], [4, u32::MAX]), Err(ImageError::OutsideText { .. }));
    assert_error!(table([0, u32::MAX], [4, 1]), Err(ImageError::OutsideText { .. }));
}

#[test]
fn names_that_are_not_utf8_or_out_of_bounds_are_refused() {
    let names = |ends: [u32; 2], text: &[u8]| {
        let functions = words(&[2, 0, 4, 4, 4]);
        let mut names = words(&[2, ends[0], ends[1]]);
        names.extend(text);
        Image::parse(&with_tables(&words(&[0]), &functions, Some(&names)))
    };
    let named = names([1, 3], "aé".as_bytes()).unwrap();
    assert_eq!(named.functions().get(1).unwrap().name(), Some("é"));
    assert_error!(
        names([1, 3], b"a\xff\xff"),
        Err(ImageError::BadName { section: Section { name: ".trapline.names", .. }, index: None })
    );
    assert_error!(names([2, 3], "aé".as_bytes()), Err(ImageError::BadName { index: Some(0), .. }));
    assert_error!(names([3, 1], b"abc"), Err(ImageError::EndsOutOfOrder { index: 1, .. }));
    assert_error!(names([1, 4], b"abc"), Err(ImageError::TableLength { .. }));
    assert_error!(names([1, u32::MAX], b"abc"), Err(ImageError::TableLength { .. }));
    assert_error!(names([1, 2], b"abc"), Err(ImageError::TableLength { .. }));
}

#[test]
fn settings_that_no_image_can_have_are_refused_by_the_builder() {
    for align in [0, 3, ImageBuilder::MAX_TEXT_ALIGN * 2, u64::MAX] {
        assert_error!(small().text_align(align).finish(), Err(ImageError::BadAlignment { .. }));
    }
    for name in ["", "a b", "a\0", "é", &"x".repeat(241)] {
        assert_error!(small().section(name, []).finish(), Err(ImageError::BadSectionName { .. }));
    }
    let longest = "x".repeat(240);
    let file = built(small().section(&longest, *b"yes"));
    let loaded = Image::parse_verified(&file).unwrap();
    assert_eq!(loaded.section(&longest), Some(b"yes".as_slice()));
    assert_error!(small().section("types", []).finish(), Err(ImageError::DuplicateSection { .. }));
}

#[test]
#[cfg(target_pointer_width = "64")]
fn an_offset_that_does_not_fit_in_32_bits_is_refused_with_its_number() {
    let far = (1 << 32) + 4;
    let refused = |change: &dyn Fn(&mut ImageBuilder)| {
        let mut image = ImageBuilder::new();
        change(image.text([0x90; 16]));
        let error = image.finish().unwrap_err();
        assert!(matches!(&error, ImageError::OffsetTooLarge { offset, .. } if *offset == far), "{error:?}");
        assert!(error.to_string().contains("0x100000004"), "{error}");
    };
    refused(&|image| _ = image.trap(far, TrapCode::Unreachable));
    refused(&|image| _ = image.function(far..far + 8, None));
    refused(&|image| _ = image.function(4..far, None));
    refused(&|image| _ = image.address(far, None));
    refused(&|image| _ = image.patch(far, [1], [2]));
    let image = Image::parse(&built(&mut small())).unwrap();
    assert_eq!(image.traps().get((1 << 32) + 3), None, "a site at 3 is not one at 2^32 + 3");
    assert_eq!(image.functions().by_offset((1 << 32) + 4), None);
    assert_eq!(image.address_map().source_offset(1 << 32), image.address_map().source_offset(1 << 31));
}
