//! The comparison of one offset with the keys of a narrow node.

/// How many keys a narrow node has.
pub(crate) const KEYS: usize = 64;

/// Compares greater than every other offset: fills the unused slots.
pub(crate) const PAD: u32 = u32::MAX;

/// The largest offset that has a key.
pub(crate) const MAX_OFFSET: u32 = PAD - 1;

/// Numbers that are compared at once.
pub(crate) const SIXTEEN: usize = 16;

/// The index of the last key not above `wanted`, or 0: the first key counts as never above.
///
/// Keys ascend, and are [`PAD`] past the last one. Three independent comparisons pick sixteen keys, which are compared at
/// once: four cache lines, no unpredictable branch.
// In a debug build a frame has room for each copy: inlined four times over, it would fill a small alternate stack.
#[cfg_attr(debug_assertions, inline)]
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn rank(keys: &[u32; KEYS], wanted: u32) -> usize {
    let block = usize::from(keys[16] <= wanted) + usize::from(keys[32] <= wanted) + usize::from(keys[48] <= wanted);
    let (blocks, _) = keys.as_chunks::<SIXTEEN>();
    block * SIXTEEN + up_to(&blocks[block], wanted).max(1) - 1
}

/// How many of sixteen numbers, which ascend, are `wanted` or less.
///
/// Without vectors, a handler's lookup takes 1.45 times as long.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn up_to(numbers: &[u32; SIXTEEN], wanted: u32) -> usize {
    use core::arch::x86_64::{
        __m128i, _mm_cmpgt_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
        _mm_xor_si128,
    };
    // SAFETY: SSE2 is part of x86-64, and the four loads of four numbers are the sixteen numbers.
    let above = unsafe {
        // SSE2 compares signed numbers only: those are in the order of unsigned ones when the highest bit is flipped.
        let highest = _mm_set1_epi32(i32::MIN);
        let wanted = _mm_xor_si128(_mm_set1_epi32(wanted as i32), highest);
        let four = |i: usize| {
            let numbers = _mm_loadu_si128(numbers.as_ptr().cast::<__m128i>().add(i));
            _mm_cmpgt_epi32(_mm_xor_si128(numbers, highest), wanted)
        };
        let low = _mm_packs_epi32(four(0), four(1));
        let high = _mm_packs_epi32(four(2), four(3));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)) as u32
    };
    // A seventeenth number would be above.
    (above | 1 << SIXTEEN).trailing_zeros() as usize
}

/// How many of sixteen numbers, which ascend, are `wanted` or less.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn up_to(numbers: &[u32; SIXTEEN], wanted: u32) -> usize {
    // Counting has no branch to predict, and becomes vector code where there are vectors.
    numbers.iter().map(|number| u32::from(*number <= wanted)).sum::<u32>() as usize
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
                *slot = *o;
            }
            let wide: Vec<usize> = offsets.iter().map(|o| *o as usize).collect();
            for wanted in [wanted, offsets[exact.index(offsets.len())], 0, MAX_OFFSET] {
                let naive = offsets.iter().rposition(|o| *o <= wanted).unwrap_or(0);
                prop_assert_eq!(rank(&keys, wanted), naive);
                prop_assert_eq!(rank_wide(&wide, wanted as usize), naive);
            }
        }
    }
}
