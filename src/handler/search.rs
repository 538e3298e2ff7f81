//! The comparison of one offset with the keys of a narrow node.

/// How many keys a narrow node has.
pub(crate) const KEYS: usize = 64;

/// Compares greater than every offset that [`key`] makes: fills the unused slots.
pub(crate) const PAD: i32 = i32::MAX;

/// The largest offset that has a key.
pub(crate) const MAX_OFFSET: u32 = u32::MAX - 1;

/// An offset as a key: shifted so that signed comparison, the only one that SSE2 has, orders it.
#[inline(always)]
pub(crate) const fn key(offset: u32) -> i32 {
    (offset ^ 0x8000_0000) as i32
}

/// The offset behind a key.
#[inline(always)]
pub(crate) const fn offset(key: i32) -> u32 {
    key as u32 ^ 0x8000_0000
}

/// The index of the last key not above `wanted`, or 0: the first key counts as never above.
///
/// Keys ascend, and are [`PAD`] past the last one; `wanted` is not [`PAD`]. Three independent comparisons pick sixteen
/// keys, which are compared at once: four cache lines, no unpredictable branch.
#[inline(always)]
pub(crate) fn rank(keys: &[i32; KEYS], wanted: i32) -> usize {
    let block = usize::from(keys[16] <= wanted) + usize::from(keys[32] <= wanted) + usize::from(keys[48] <= wanted);
    // SAFETY: `block` is at most 3, and 3 * 16 + 16 is KEYS.
    let sixteen = unsafe { &*keys.as_ptr().add(block * 16).cast::<[i32; 16]>() };
    block * 16 + rank_in_sixteen(sixteen, wanted)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rank_in_sixteen(keys: &[i32; 16], wanted: i32) -> usize {
    use core::arch::x86_64::{
        __m128i, _mm_cmpgt_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
    };
    // SAFETY: SSE2 is part of x86-64, and the four loads of four keys are the sixteen keys.
    let above = unsafe {
        let wanted = _mm_set1_epi32(wanted);
        let four = |i: usize| _mm_cmpgt_epi32(_mm_loadu_si128(keys.as_ptr().cast::<__m128i>().add(i)), wanted);
        let low = _mm_packs_epi32(four(0), four(1));
        let high = _mm_packs_epi32(four(2), four(3));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)) as u32
    };
    // The first key never counts as above; a seventeenth always does.
    ((above & !1) | 1 << 16).trailing_zeros() as usize - 1
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn rank_in_sixteen(keys: &[i32; 16], wanted: i32) -> usize {
    // Counting has no branch to predict, and becomes vector code where there are vectors.
    keys.iter().skip(1).map(|key| usize::from(*key <= wanted)).sum()
}

/// The index of the last of `keys` not above `wanted`, or 0; for wide nodes, whose keys are addresses.
#[inline(always)]
pub(crate) fn rank_wide(keys: &[usize], wanted: usize) -> usize {
    let mut first = 0;
    let mut left = keys.len();
    while left > 1 {
        let half = left / 2;
        // SAFETY: `first + left` is never above `keys.len()`, and `half < left`.
        let middle = unsafe { *keys.get_unchecked(first + half) };
        first = if middle <= wanted { first + half } else { first };
        left -= half;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rank_is_the_last_key_not_above(
            mut offsets in proptest::collection::btree_set(0..=MAX_OFFSET, 1..=KEYS).prop_map(Vec::from_iter),
            wanted in 0..=MAX_OFFSET,
            exact in any::<proptest::sample::Index>(),
        ) {
            offsets.sort_unstable();
            let mut keys = [PAD; KEYS];
            for (slot, o) in keys.iter_mut().zip(&offsets) {
                *slot = key(*o);
            }
            let wide: Vec<usize> = offsets.iter().map(|o| *o as usize).collect();
            for wanted in [wanted, offsets[exact.index(offsets.len())], 0, MAX_OFFSET] {
                let naive = offsets.iter().rposition(|o| *o <= wanted).unwrap_or(0);
                prop_assert_eq!(rank(&keys, key(wanted)), naive);
                prop_assert_eq!(rank_wide(&wide, wanted as usize), naive);
                prop_assert_eq!(offset(key(wanted)), wanted);
            }
        }
    }
}
