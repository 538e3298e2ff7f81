//! Where to cut a full node, and what to call the cut.

/// Where a full node grew.
#[derive(Clone, Copy)]
pub(super) enum Growth {
    /// At the left end of the tree: ranges are registered in descending order.
    First,
    /// At the right end of the tree: in ascending order.
    Last,
    Inside,
}

/// Where to cut `len` slots in two: growth at either end of the tree leaves full nodes behind, any other leaves room
/// on both sides.
pub(super) fn split(len: usize, growth: Growth, fits: impl Fn(usize) -> bool) -> usize {
    let preferred = match growth {
        Growth::First => 1,
        Growth::Last => len - 1,
        Growth::Inside => len / 2,
    };
    if fits(preferred) { preferred } else { len / 2 }
}

/// The address in `low..=high` that is a multiple of the largest power of two: a key that needs the fewest bits.
pub(super) fn most_aligned(low: usize, high: usize) -> usize {
    if low >= high {
        return high;
    }
    // Everything below the highest bit in which the two differ can be zero in an address above `low`.
    let free = (low ^ high).ilog2();
    if low & ((1 << free) - 1) == 0 && low.trailing_zeros() > free { low } else { high >> free << free }
}

#[cfg(test)]
mod tests {
    use super::most_aligned;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_chosen_address_lies_between_others_that_are_aligned_no_better(low in 1_usize..10_000, gap in 0_usize..10_000) {
            let high = low + gap;
            let chosen = most_aligned(low, high);
            prop_assert!((low..=high).contains(&chosen));
            let most = (low..=high).map(usize::trailing_zeros).max().unwrap();
            prop_assert_eq!(chosen.trailing_zeros(), most);
        }
    }
}
