//! The registry against a naive one.

mod oracle;

use oracle::{Op, Oracle};
use proptest::prelude::*;
use std::ops::Range;

/// Ranges of many sizes, near and far, aligned and not, so that nodes of every shape come up.
fn range() -> impl Strategy<Value = Range<usize>> {
    let place = prop_oneof![
        8 => (0..600_usize).prop_map(|i| 0x7f00_0000_0000 + i * 0x1000),
        6 => (0..600_usize).prop_map(|i| 0x5555_0000_0000 + i * 40),
        4 => (0..200_usize).prop_map(|i| 0x1000_0000_0000 + i * 0x2_0000_0000),
        // The same low bits in windows one after the other, at and about where they end.
        4 => (0..4_usize, 0..40_usize).prop_map(|(window, i)| 0x7f00_0000_0000 + (window << 32) + i * 0x1000),
        4 => (-4_isize..5, 1..4_usize).prop_map(|(off, window)| {
            (0x7f00_0000_0000 + (window << 32)).wrapping_add_signed(off)
        }),
        // Around every power of two.
        3 => (4..usize::BITS, -40_isize..41).prop_map(|(power, off)| (1_usize << power).wrapping_add_signed(off)),
        1 => (0..50_usize).prop_map(|i| i * 7),
        1 => (0..50_usize).prop_map(|i| usize::MAX - 2000 + i * 40),
    ];
    let len = prop_oneof![
        10 => 1..41_usize,
        10 => Just(0x1000_usize),
        3 => 41..0x5000_usize,
        1 => Just(0),
        1 => Just(0x1_8000_0000),
        2 => (0..usize::BITS - 1).prop_map(|power| 1_usize << power),
        1 => Just(0xffff_ffff),
    ];
    (place, len).prop_map(|(start, len)| start..start.saturating_add(len))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => range().prop_map(Op::Register),
        1 => range().prop_map(|r| Op::Register(r.end..r.start)),
        4 => proptest::collection::vec(range(), 0..40).prop_map(Op::RegisterAll),
        25 => any::<usize>().prop_map(Op::Unregister),
        3 => any::<usize>().prop_map(Op::UnregisterStale),
        5 => range().prop_map(|r| Op::Lookup(r.end)),
        2 => Just(Op::TakeSnapshot),
        2 => any::<usize>().prop_map(Op::DropSnapshot),
        3 => Just(Op::Reclaim),
        2 => Just(Op::CompareAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_give_the_same_answers(ops in proptest::collection::vec(op(), 1..700), pins: bool) {
        let mut oracle = Oracle::new(pins);
        for op in &ops {
            oracle.apply(op);
        }
        oracle.end();
    }
}

/// A cheap generator: these runs are long, and need no shrinking.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Grows to `n` ranges and shrinks to none, in an order given by `index`.
fn grow_and_shrink(n: usize, index: impl Fn(&mut Random, usize) -> usize, place: impl Fn(usize) -> Range<usize>) {
    let mut oracle = Oracle::new(false);
    let mut random = Random(0x9e37_79b9);
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n {
        let j = index(&mut random, n - i) + i;
        order.swap(i, j);
    }
    for (i, k) in order.iter().enumerate() {
        oracle.apply(&Op::Register(place(*k)));
        if i % (n / 8) == 0 {
            oracle.apply(&Op::TakeSnapshot);
        }
    }
    oracle.apply(&Op::CompareAll);
    for i in 0..n {
        oracle.apply(&Op::Unregister(random.below(n)));
        if i % (n / 4) == 0 {
            oracle.apply(&Op::CompareAll);
            oracle.apply(&Op::DropSnapshot(random.below(n)));
        }
    }
    oracle.apply(&Op::Reclaim);
    oracle.end();
}

/// Whose low bits are those of ranges in the leaf that it would belong to: it has to be told from them all the same.
#[test]
fn a_range_above_the_window_of_a_leaf_is_not_taken_for_one_inside() {
    const START: usize = 0x7f00_0000_0000;
    for inside in [1, 2, 40, 63] {
        for turns in [1, 2, 0x100] {
            for low in (0..inside * 0x1000).step_by(0x800) {
                let mut oracle = Oracle::new(false);
                for i in 0..inside {
                    oracle.apply(&Op::Register(START + i * 0x1000..START + i * 0x1000 + 0x800));
                }
                let above = START + (turns << 32) + low;
                oracle.apply(&Op::Register(above..above + 0x800));
                oracle.apply(&Op::Register(above + 0x400..above + 0x1000));
                oracle.apply(&Op::CompareAll);
                oracle.end();
            }
        }
    }
}

#[test]
fn pages_in_random_order() {
    grow_and_shrink(6_000, |r, left| r.below(left), |k| 0x7f00_0000_0000 + k * 0x2000..0x7f00_0000_1000 + k * 0x2000);
}

#[test]
fn touching_ranges_in_ascending_order() {
    grow_and_shrink(6_000, |_, _| 0, |k| 0x1003 + k * 33..0x1003 + (k + 1) * 33);
}

#[test]
fn touching_ranges_in_descending_order() {
    grow_and_shrink(6_000, |_, left| left - 1, |k| 0x1003 + k * 33..0x1003 + (k + 1) * 33);
}

#[test]
fn touching_ranges_in_random_order() {
    grow_and_shrink(6_000, |r, left| r.below(left), |k| 0x1003 + k * 33..0x1003 + (k + 1) * 33);
}

#[test]
fn ranges_gibibytes_apart_in_random_order() {
    grow_and_shrink(3_000, |r, left| r.below(left), |k| 0x10_0001 + k * 0x2_0000_0000..0x10_4001 + k * 0x2_0000_0000);
}

#[test]
fn clusters_of_touching_ranges_far_from_each_other() {
    // Boundaries within a cluster are odd addresses, and inner nodes span more than their narrow keys can count.
    let place = |k: usize| {
        let start = (k % 40 + 1) * 0x2f_1234_5671 + k / 40 * 33;
        start..start + 33
    };
    grow_and_shrink(8_000, |r, left| r.below(left), place);
}

#[test]
fn gaps_filled_towards_a_full_neighbour() {
    // Splits at the ends of nodes inside the tree.
    let place = |k: usize| {
        let slot = if k.is_multiple_of(2) { k / 64 } else { 5_000 - k / 64 };
        let start = 0x10_0000_0000 + (k % 64) * 0x100_0000 + slot * 64;
        start..start + 64
    };
    grow_and_shrink(8_000, |_, _| 0, place);
}

#[test]
fn ranges_of_gibibytes_that_touch() {
    grow_and_shrink(1_500, |r, left| r.below(left), |k| k * 0x1_0000_1000..(k + 1) * 0x1_0000_1000);
}

#[test]
fn ranges_take_few_bytes_in_any_order() {
    const N: usize = 20_000;
    let bytes = |order: &[usize]| {
        let registry: trapline::CodeRegistry<()> = trapline::CodeRegistry::new();
        let payload = std::sync::Arc::new(());
        for i in order {
            let start = 0x7f00_0000_0000 + i * 0x1000;
            registry.register(start..start + 0x800, payload.clone()).unwrap().leak();
        }
        registry.stats().live_bytes as f64 / N as f64
    };
    let mut order: Vec<usize> = (0..N).collect();
    let ascending = bytes(&order);
    order.reverse();
    let descending = bytes(&order);
    let mut random = Random(0x2545_f491);
    for i in (1..N).rev() {
        order.swap(i, random.below(i + 1));
    }
    let shuffled = bytes(&order);
    println!("bytes a range: {ascending:.1} ascending, {descending:.1} descending, {shuffled:.1} at random");
    assert!(ascending < 22.0, "{ascending} bytes a range in ascending order");
    assert!(descending < 22.0, "{descending} bytes a range in descending order");
    assert!(shuffled < 28.0, "{shuffled} bytes a range in random order");
}
