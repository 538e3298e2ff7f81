//! The search of a sorted column.

/// Probes of one step. They do not wait for each other, so that a step takes little longer than one of a binary search
/// and leaves an eighth instead of a half.
const PROBES: usize = 7;
const WAYS: usize = PROBES + 1;

/// How many numbers of `sorted`, which ascends, are `key` or less.
///
/// O(log n), without a branch that depends on the numbers.
#[inline]
pub(super) fn rank(sorted: &[u32], key: u32) -> usize {
    // All numbers before `base` are `key` or less, none from `base + left` on is.
    let (mut base, mut left) = (0, sorted.len());
    while left > WAYS {
        let step = left / WAYS;
        let Some(window) = sorted.get(base..base + left) else { break };
        let mut below = 0;
        for probe in 1..=PROBES {
            below += usize::from(window[probe * step - 1] <= key);
        }
        base += below * step;
        // Between the last probe that was below and the first that was not; or behind the last probe.
        left = if below == PROBES { left - PROBES * step } else { step - 1 };
    }
    let below = match sorted.get(base..).and_then(|rest| rest.first_chunk::<WAYS>()) {
        // What is there beyond `left` is above `key`, and not counted.
        Some(chunk) => chunk.iter().map(|&number| u32::from(number <= key)).sum::<u32>() as usize,
        None => sorted.iter().skip(base).filter(|number| **number <= key).count(),
    };
    base + below
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
