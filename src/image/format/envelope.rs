//! The two sections about the file as a whole: a marker that tells an image from any other ELF file, and a checksum.
//!
//! The checksum's section holds `magic: 8 bytes | length of the file: u64 | CRC-32: u32`. The CRC covers every byte of the
//! file, headers and padding included, with its own four bytes taken as zero. It finds accidents, such as any flipped
//! bit or a burst of up to 32; it is no signature.

use std::ops::Range;

use super::Target;
use super::sections::{Found, Sections};
use crate::image::error::ImageError;
use crate::image::section::CHECK;

const MARKER: [u8; 12] = *b"\x7ftrapline\r\n\x1a";

/// The one version of the format so far.
const VERSION: u32 = 1;

pub(super) fn marker() -> [u8; 16] {
    let mut marker = [0; 16];
    marker[..12].copy_from_slice(&MARKER);
    marker[12..].copy_from_slice(&VERSION.to_le_bytes());
    marker
}

pub(super) fn check_marker(section: &[u8]) -> Result<(), ImageError> {
    let version = section.strip_prefix(&MARKER).ok_or(ImageError::NotAnImage)?;
    let version = version.try_into().map_err(|_| ImageError::NotAnImage)?;
    match u32::from_le_bytes(version) {
        VERSION => Ok(()),
        found => Err(ImageError::UnsupportedVersion { found, supported: VERSION }),
    }
}

/// Keeps a damaged header from presenting other bytes as the checksum.
const MAGIC: [u8; 8] = *b"CRC-32/1";
const LEN: usize = 20;
const CRC: Range<usize> = 16..20;

/// The section before the file around it exists.
pub(super) fn placeholder() -> [u8; LEN] {
    let mut section = [0; LEN];
    section[..MAGIC.len()].copy_from_slice(&MAGIC);
    section
}

/// Fills in the section of a file that is otherwise complete.
pub(super) fn seal(file: &mut [u8], target: Target) -> Result<(), ImageError> {
    let at = Sections::read(file, target)?.require(CHECK)?.range.start;
    let length = (file.len() as u64).to_le_bytes();
    let section = &mut file[at..at + LEN];
    section[MAGIC.len()..CRC.start].copy_from_slice(&length);
    let crc = at + CRC.start..at + CRC.end;
    let checksum = compute(file, crc.clone());
    file[crc].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Checks that `file` is byte for byte what the builder made.
///
/// O(n).
pub(super) fn verify(file: &[u8], target: Target) -> Result<(), ImageError> {
    let sections = Sections::read(file, target)?;
    let Found { range, bytes, .. } = sections.require(CHECK)?;
    let Some((length, stored)) = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.split_first_chunk()) else {
        return Err(ImageError::BadCheckSection);
    };
    let stored = stored.try_into().map_err(|_| ImageError::BadCheckSection)?;
    let stored = u32::from_le_bytes(stored);
    let length = u64::from_le_bytes(*length);
    if length != file.len() as u64 {
        return Err(ImageError::WrongLength { stored: length, found: file.len() as u64 });
    }
    let computed = compute(file, range.start + CRC.start..range.start + CRC.end);
    if computed != stored {
        return Err(ImageError::WrongChecksum { stored, computed });
    }
    Ok(())
}

fn compute(file: &[u8], crc: Range<usize>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..crc.start]);
    hasher.update(&[0; CRC.end - CRC.start]);
    hasher.update(&file[crc.end..]);
    hasher.finalize()
}
