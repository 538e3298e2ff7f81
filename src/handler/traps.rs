//! The search over an encoded trap table, as a signal handler runs it.
//!
//! The encoding, all little-endian:
//!
//! ```text
//! count: u32 | offsets: [u32; count], strictly ascending | codes: [u8; count]
//! ```
//!
//! Keys lie apart from codes, so that a search of n sites touches only the lines its comparisons need and one more.
//!
//! Nothing here trusts the bytes. Every read is a `get`, every sum is checked, and the loop halves its interval, so
//! that a table that breaks the rules gives a wrong answer or none, and never a panic or a read outside.

/// Bytes before the first offset: the count.
const HEADER: usize = size_of::<u32>();

/// The encoded code of the trap site at exactly `offset` bytes into the text.
///
/// O(log n); no allocation, no lock, no panic, no thread-local.
#[inline]
pub(crate) fn search(table: &[u8], offset: u32) -> Option<u8> {
    let count = count(table)?;
    let mut low = 0_usize;
    let mut high = count;
    while low < high {
        let middle = low.wrapping_add(high.wrapping_sub(low) / 2);
        let found = offset_at(table, middle)?;
        if found == offset {
            return code_at(table, count, middle);
        } else if found < offset {
            low = middle.wrapping_add(1);
        } else {
            high = middle;
        }
    }
    None
}

/// The number of sites that the table claims to have.
#[inline]
pub(crate) fn count(table: &[u8]) -> Option<usize> {
    usize::try_from(read_u32(table, 0)?).ok()
}

/// The text offset of site `index`.
#[inline]
pub(crate) fn offset_at(table: &[u8], index: usize) -> Option<u32> {
    read_u32(table, index.checked_mul(size_of::<u32>())?.checked_add(HEADER)?)
}

/// The encoded code of site `index` in a table of `count` sites.
#[inline]
pub(crate) fn code_at(table: &[u8], count: usize, index: usize) -> Option<u8> {
    let codes = count.checked_mul(size_of::<u32>())?.checked_add(HEADER)?;
    table.get(codes.checked_add(index)?).copied()
}

#[inline]
fn read_u32(table: &[u8], at: usize) -> Option<u32> {
    let (bytes, _) = table.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::search;

    #[test]
    fn a_table_that_lies_about_its_length_finds_nothing_and_does_not_panic() {
        for claimed in [1, 2, 3, 1 << 30, u32::MAX] {
            for length in 4..20 {
                let mut table = u32::to_le_bytes(claimed).to_vec();
                table.resize(length, 0);
                for offset in [0, 1, u32::MAX] {
                    let _ = search(&table, offset);
                }
            }
        }
        assert_eq!(search(&[], 0), None);
        assert_eq!(search(&[0xff; 4], 0), None);
        assert_eq!(search(&[1, 0, 0, 0, 7, 0, 0, 0], 7), None);
    }

    #[test]
    fn a_table_out_of_order_ends_the_search() {
        let mut table = 3_u32.to_le_bytes().to_vec();
        for offset in [9_u32, 5, 1] {
            table.extend(offset.to_le_bytes());
        }
        table.extend([1, 2, 3]);
        assert_eq!(search(&table, 5), Some(2));
        assert_eq!(search(&table, 9), None);
    }
}
