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
//! that a table that breaks the rules gives a wrong answer or none, and never a panic or a read outside. Nor does it
//! matter where they lie: the interrupted code may have had alignment checked (`EFLAGS.AC` of x86-64), and the kernel
//! leaves that on in handlers.

use core::ptr;

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
    let bytes = table.get(at..)?.first_chunk::<{ size_of::<u32>() }>()?;
    let word = bytes.as_ptr().cast::<u32>();
    if word.is_aligned() {
        // SAFETY: aligned, and four bytes of the table.
        return Some(u32::from_le(unsafe { word.read() }));
    }
    let mut number = 0_u32;
    for byte in bytes.iter().rev() {
        // SAFETY: a byte of the table. Volatile: the compiler would make one access of the four.
        number = number << 8 | u32::from(unsafe { ptr::from_ref(byte).read_volatile() });
    }
    Some(number)
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

    /// Where it is not, the processor faults, and this test dies of SIGBUS.
    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn every_access_is_aligned_wherever_the_table_lies() {
        use std::arch::asm;
        let mut table = 3_u32.to_le_bytes().to_vec();
        for offset in [1_u32, 5, 0x1234_5678] {
            table.extend(offset.to_le_bytes());
        }
        table.extend([1, 2, 3]);
        for shift in 0..8 {
            let mut room = [0_u64; 4];
            let start = room.as_mut_ptr().cast::<u8>().wrapping_add(shift);
            // SAFETY: 19 bytes of 32, from at most the eighth on, which nothing else refers to; alignment is checked
            // between the two changes of the flag only.
            let found = unsafe {
                start.copy_from_nonoverlapping(table.as_ptr(), table.len());
                let table = std::slice::from_raw_parts(start, table.len());
                asm!("pushfq", "or dword ptr [rsp], 0x40000", "popfq");
                let found = [search(table, 0x1234_5678), search(table, 1), search(table, 6)];
                asm!("pushfq", "and dword ptr [rsp], ~0x40000", "popfq");
                found
            };
            assert_eq!(found, [Some(3), Some(1), None], "{shift} bytes from an aligned address");
        }
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
