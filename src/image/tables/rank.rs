//! The search of a sorted column.

use crate::handler::search::{self, SIXTEEN as LAST};

/// How many numbers of `sorted`, which ascends, are `key` or less.
///
/// O(log n), without a branch that depends on the numbers.
#[inline]
pub(super) fn rank(sorted: &[u32], key: u32) -> usize {
    let Some(last) = sorted.len().checked_sub(LAST) else {
        return sorted.iter().filter(|number| **number <= key).count();
    };
    let mut window = Window { sorted, base: 0, left: sorted.len() };
    while window.left > 4 * LAST {
        window.narrow::<7>(key);
    }
    if window.left > LAST {
        window.narrow::<3>(key);
    }
    // Of the sixteen, those before the window are `<= key`, and those after it are `> key`.
    let first = window.base.min(last);
    let sixteen = sorted.get(first..).and_then(|rest| rest.first_chunk());
    first + sixteen.map_or(0, |sixteen| search::up_to(sixteen, key))
}

/// Numbers `base..base + left` of `sorted`. Elements before the window are `<= key`; those after it are `> key`.
struct Window<'s> {
    sorted: &'s [u32],
    base: usize,
    left: usize,
}

impl Window<'_> {
    /// Leaves one part of `PROBES` + 1, rounded up, of a window of at least `PROBES * PROBES` numbers.
    ///
    /// The probes do not wait for each other, so that a step takes little longer than one of a binary search.
    #[inline]
    fn narrow<const PROBES: usize>(&mut self, key: u32) {
        // `PROBES` steps, rounded up, fit into a window of `PROBES * PROBES` numbers or more.
        debug_assert!(self.left >= PROBES * PROBES && self.sorted.len() - self.base >= self.left);
        let step = self.left.div_ceil(PROBES + 1);
        let mut below = 0;
        for probe in 1..=PROBES {
            let at = self.base + probe * step - 1;
            debug_assert!(at < self.sorted.len());
            // SAFETY: `probe * step` is at least 1 and at most `left`, and the window lies in the column.
            below += usize::from(unsafe { *self.sorted.get_unchecked(at) } <= key);
        }
        self.base += below * step;
        // Between the last probe `<= key` and the first one above; or after the last probe.
        self.left = if below == PROBES { self.left - PROBES * step } else { step - 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn agrees_with_partition_point_for_every_length_and_key() {
        for len in (0..300).chain([1000, 4095, 4096, 4097, 10_000]) {
            let sorted: Vec<u32> = (0..len).map(|i| 3 * i + 1).collect();
            let keys = (0..3 * len + 3).step_by(if len > 300 { 7 } else { 1 }).chain([u32::MAX]);
            for key in keys {
                assert_eq!(rank(&sorted, key), sorted.partition_point(|number| *number <= key), "{len}, {key}");
            }
        }
    }

    #[test]
    fn equal_and_extreme_numbers_are_counted() {
        for len in 0..80 {
            for (sorted, key) in
                [(vec![7; len], 7), (vec![7; len], 6), (vec![u32::MAX; len], u32::MAX), (vec![0; len], 0)]
            {
                assert_eq!(rank(&sorted, key), sorted.partition_point(|number| *number <= key));
            }
        }
    }
}
