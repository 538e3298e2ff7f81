//! The section that tells an image from any other ELF file.

use crate::image::error::ImageError;

const MAGIC: [u8; 12] = *b"\x7ftrapline\r\n\x1a";

/// The one version of the format so far.
const VERSION: u32 = 1;

pub(super) fn encode() -> [u8; 16] {
    let mut marker = [0; 16];
    marker[..12].copy_from_slice(&MAGIC);
    marker[12..].copy_from_slice(&VERSION.to_le_bytes());
    marker
}

pub(super) fn check(section: &[u8]) -> Result<(), ImageError> {
    let version = section.strip_prefix(&MAGIC).ok_or(ImageError::NotAnImage)?;
    let version = version.try_into().map_err(|_| ImageError::NotAnImage)?;
    match u32::from_le_bytes(version) {
        VERSION => Ok(()),
        found => Err(ImageError::UnsupportedVersion { found, supported: VERSION }),
    }
}
