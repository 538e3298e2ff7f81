//! Files that were cut off or changed.

use trapline::image::{Image, ImageError, Section};

use crate::sound::check_unpublished;
use crate::support::{assert_error, built, find, small, trap_bytes, with_tables, words};

#[test]
fn an_image_cut_off_anywhere_is_an_error_or_keeps_its_tables_inside() {
    let file = built(&mut small());
    for len in 0..file.len() {
        if let Ok(image) = Image::parse(&file[..len]) {
            check_unpublished(&image);
        }
        assert!(Image::parse_verified(&file[..len]).is_err(), "cut off at {len}");
    }
}

#[test]
fn an_image_that_grew_does_not_verify() {
    let mut file = built(&mut small());
    file.push(0);
    assert!(Image::parse(&file).is_ok());
    assert_error!(Image::parse_verified(&file), Err(ImageError::WrongLength { .. }));
}

#[test]
fn no_flipped_bit_gets_past_verification_or_panics_the_parser() {
    let mut file = built(&mut small());
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(image) = Image::parse(&file) {
            check_unpublished(&image);
        }
        assert!(Image::parse_verified(&file).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        file[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Image::parse_verified(&file).is_ok());
}

#[test]
fn only_a_verified_parse_looks_at_the_checksum() {
    let mut file = built(&mut small());
    let (_, text) = find(&file, ".text");
    file[text.start] ^= 1;
    assert!(Image::parse(&file).is_ok());
    assert_error!(Image::parse_verified(&file), Err(ImageError::WrongChecksum { .. }));
}

#[test]
fn an_image_without_its_checksum_loads_but_does_not_verify() {
    let file = with_tables(&trap_bytes(&[], &[]), &words(&[0]), None);
    assert!(Image::parse(&file).is_ok());
    assert_error!(
        Image::parse_verified(&file),
        Err(ImageError::MissingSection { section: Section { name: ".trapline.check", .. } })
    );
}

#[test]
fn a_checksum_without_its_magic_bytes_is_none_even_if_it_is_right() {
    let mut file = built(&mut small());
    let (_, check) = find(&file, ".trapline.check");
    let crc = check.end - 4..check.end;
    let mut seal = |at: usize, bit: u8| {
        file[at] ^= bit;
        file[crc.clone()].fill(0);
        let checksum = crc32fast::hash(&file);
        file[crc.clone()].copy_from_slice(&checksum.to_le_bytes());
        Image::parse_verified(&file)
    };
    assert!(seal(check.start, 0).is_ok());
    assert_error!(seal(check.start, 1), Err(ImageError::BadCheckSection));
}
