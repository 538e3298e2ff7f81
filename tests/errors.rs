//! What the registry refuses, and that refusing changes nothing.

use std::ops::Range;
use std::sync::Arc;
use trapline::{CodeId, CodeRegistry, RegisterError, UnregisterError};

type Contents = Vec<(Range<usize>, CodeId, u32)>;

fn contents(registry: &CodeRegistry<u32>) -> Contents {
    // What these tests have standing lies below, and starts at such addresses.
    let starts = (0..0x10_0000).step_by(0x100);
    let all: Contents = registry.view(|view| {
        let found = starts.filter_map(|start| view.get(start).filter(|found| found.offset() == 0));
        found.map(|found| (found.range(), found.id(), *found.payload())).collect()
    });
    assert_eq!(all.len(), registry.stats().live_ranges);
    all
}

/// Registers what must be refused, alone and as the last of a batch, and returns why.
fn refused(registry: &CodeRegistry<u32>, range: Range<usize>) -> RegisterError {
    let before = contents(registry);
    let payload = Arc::new(99);
    let error = registry.register(range.clone(), payload.clone()).map(|_| ()).unwrap_err();
    assert_eq!(Arc::strong_count(&payload), 1, "the payload of a refused registration is let go");
    assert_eq!(contents(registry), before);
    let batch = [(0x10..0x20, payload.clone()), (range, payload.clone())];
    assert_eq!(registry.register_all(batch).map(|_| ()).unwrap_err(), error);
    assert_eq!(Arc::strong_count(&payload), 1, "the payloads of a refused batch are let go");
    assert_eq!(contents(registry), before);
    assert!(registry.with(0x10, |_| ()).is_none());
    error
}

fn two_ranges() -> CodeRegistry<u32> {
    let registry = CodeRegistry::new();
    registry.register(0x1000..0x2000, Arc::new(1)).unwrap().leak();
    registry.register(0x3000..0x4000, Arc::new(2)).unwrap().leak();
    registry
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
fn an_inverted_range_is_refused_and_named() {
    let registry = two_ranges();
    for range in [0x6000..0x5000, 0x1800..0x1000, usize::MAX..0] {
        let error = refused(&registry, range.clone());
        assert_eq!(error, RegisterError::Inverted { range: range.clone() });
        let text = error.to_string();
        assert!(text.contains(&format!("{:#x}..{:#x}", range.start, range.end)), "{text}");
    }
}

#[test]
fn an_overlapping_range_is_refused_and_both_are_named() {
    let registry = two_ranges();
    let first = 0x1000..0x2000;
    for (range, existing) in [
        (0x0800..0x1001, first.clone()),
        (0x1fff..0x2800, first.clone()),
        (0x1400..0x1800, first.clone()),
        (0x0800..0x2800, first.clone()),
        (0x1000..0x2000, first.clone()),
        (0x1000..0x1001, first.clone()),
        (0x1fff..0x2000, first),
        (0x2000..0x3001, 0x3000..0x4000),
    ] {
        let error = refused(&registry, range.clone());
        assert_eq!(error, RegisterError::Overlap { range: range.clone(), existing: existing.clone() });
        let text = error.to_string();
        for r in [range, existing] {
            assert!(text.contains(&format!("{:#x}..{:#x}", r.start, r.end)), "{text}");
        }
    }
}

#[test]
fn ranges_that_touch_do_not_overlap() {
    let registry = two_ranges();
    registry.register(0x2000..0x3000, Arc::new(3)).unwrap().leak();
    registry.register(0x0fff..0x1000, Arc::new(4)).unwrap().leak();
    registry.register(0x4000..0x4001, Arc::new(5)).unwrap().leak();
    let found = [0xfff, 0x1000, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x4000].map(|pc| registry.with(pc, |f| *f.payload()));
    assert_eq!(found, [4, 1, 1, 3, 3, 2, 5].map(Some));
    assert!(registry.with(0x4001, |_| ()).is_none());
}

#[test]
fn ranges_of_one_batch_may_not_overlap_each_other() {
    let registry = two_ranges();
    let before = contents(&registry);
    let batch = [(0x5000..0x6000, Arc::new(5)), (0x7000..0x8000, Arc::new(6)), (0x5800..0x6800, Arc::new(7))];
    let error = registry.register_all(batch).map(|_| ()).unwrap_err();
    assert_eq!(error, RegisterError::OverlapInBatch { range: 0x5800..0x6800, other: 0x5000..0x6000 });
    let text = error.to_string();
    assert!(text.contains("0x5800..0x6800") && text.contains("0x5000..0x6000"), "{text}");
    assert!(text.contains("of the same batch"), "neither of the two is registered: {text}");
    assert_eq!(contents(&registry), before);
    let twice = [(0x5000..0x6000, Arc::new(5)), (0x5000..0x5001, Arc::new(6))];
    let error = registry.register_all(twice).map(|_| ()).unwrap_err();
    assert_eq!(error, RegisterError::OverlapInBatch { range: 0x5000..0x5001, other: 0x5000..0x6000 });
    assert_eq!(contents(&registry), before);
}

#[test]
fn an_empty_range_is_neither_registered_nor_an_error() {
    let registry = two_ranges();
    let before = contents(&registry);
    for at in [0, 0x1000, 0x1800, 0x2000, usize::MAX] {
        let payload = Arc::new(9);
        let registration = registry.register(at..at, payload.clone()).unwrap();
        assert_eq!(registration.id(), None);
        assert_eq!(Arc::strong_count(&payload), 1);
        assert_eq!(contents(&registry), before);
    }
    assert_eq!(contents(&registry), before, "dropping the registration of an empty range changes nothing");
    assert!(registry.register_all([(0x1800..0x1800, Arc::new(9))]).unwrap()[0].id().is_none());
    assert!(registry.register_all([]).unwrap().is_empty());
    assert_eq!(contents(&registry), before);
}

fn not_registered(registry: &CodeRegistry<u32>, id: CodeId) {
    let before = contents(registry);
    let error = registry.unregister(id).unwrap_err();
    assert_eq!(error, UnregisterError::NotRegistered { id });
    assert!(error.to_string().contains(&format!("code {id} ")), "{error}");
    assert_eq!(contents(registry), before);
}

#[test]
fn unregistering_twice_is_an_error_that_names_the_address() {
    let registry = two_ranges();
    let id = registry.register(0xabc000..0xabd000, Arc::new(3)).unwrap().leak().unwrap();
    registry.unregister(id).unwrap();
    not_registered(&registry, id);
    assert!(registry.unregister(id).unwrap_err().to_string().contains("0xabc000"));
}

#[test]
fn a_stale_id_does_not_remove_the_code_that_reuses_its_addresses() {
    let registry = two_ranges();
    let old = registry.register(0x5000..0x6000, Arc::new(3)).unwrap();
    let stale = old.id().unwrap();
    registry.unregister(stale).unwrap();
    let new = registry.register(0x5000..0x6000, Arc::new(4)).unwrap();
    assert_ne!(new.id(), Some(stale));
    not_registered(&registry, stale);
    drop(old);
    assert_eq!(registry.with(0x5800, |found| *found.payload()), Some(4), "nor does its registration");
    drop(new);
    assert!(registry.with(0x5800, |_| ()).is_none());
    not_registered(&registry, stale);
}

#[test]
fn an_id_of_another_registry_is_unknown() {
    let other = CodeRegistry::new();
    other.register(0x1..0x2, Arc::new(0)).unwrap().leak();
    other.register(0x3..0x4, Arc::new(0)).unwrap().leak();
    let foreign = other.register(0x1000..0x2000, Arc::new(0)).unwrap().leak().unwrap();
    let nowhere = other.register(0x9000..0x9001, Arc::new(0)).unwrap().leak().unwrap();
    not_registered(&two_ranges(), foreign);
    not_registered(&two_ranges(), nowhere);
    not_registered(&CodeRegistry::new(), foreign);
}

/// Registries that were written to in the same way: only what an id is of tells their ids apart.
#[test]
fn ids_of_two_registries_are_never_taken_for_each_other() {
    let [ours, theirs] = [two_ranges(), two_ranges()];
    for i in 0..100 {
        let range = 0x1_0000 + i * 0x1000..0x1_1000 + i * 0x1000;
        let mine = ours.register(range.clone(), Arc::new(0)).unwrap().leak().unwrap();
        let foreign = theirs.register(range, Arc::new(0)).unwrap().leak().unwrap();
        assert_ne!(mine, foreign);
        not_registered(&ours, foreign);
        not_registered(&theirs, mine);
    }
}

#[test]
fn an_id_is_a_number_that_no_other_has() {
    let registries = [two_ranges(), two_ranges()];
    let batch = |registry: &CodeRegistry<u32>| {
        let all = registry.register_all((0..200).rev().map(|i| (0x8000 + 2 * i..0x8001 + 2 * i, Arc::new(1)))).unwrap();
        all.into_iter().map(|one| one.leak().unwrap().as_u64()).collect::<Vec<_>>()
    };
    let mut numbers: Vec<u64> = registries.iter().flat_map(batch).collect();
    for registry in &registries {
        for pc in [0x1000, 0x3000].into_iter().chain((0x8000..0x8190).step_by(2)) {
            let number = registry.with(pc, |found| found.id().as_u64()).unwrap();
            assert_ne!(number, 0);
            assert!(pc < 0x8000 || numbers.contains(&number));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 400);
}

#[test]
fn ids_of_a_batch_come_in_the_order_of_its_ranges() {
    let registry = two_ranges();
    let ranges = [0x9000..0x9100, 0x5000..0x5000, 0x7000..0x7001, 0x5000..0x6000];
    let all = registry.register_all(ranges.clone().map(|range| (range, Arc::new(1)))).unwrap();
    for (range, registration) in ranges.into_iter().zip(all) {
        let found = registry.with(range.start, |found| found.id()).filter(|_| !range.is_empty());
        assert_eq!(registration.id(), found);
    }
}

#[test]
fn errors_are_errors_of_the_standard_library() {
    fn is_error(_: &(impl std::error::Error + Clone + PartialEq + Send + Sync + 'static)) {}
    let forked = RegisterError::Forked;
    is_error(&forked);
    is_error(&UnregisterError::Forked);
    assert_eq!(forked.to_string(), UnregisterError::Forked.to_string());
    let text = RegisterError::OutOfMemory { range: 0x1000..0x2000, bytes: 1216 }.to_string();
    assert!(text.contains("0x1000..0x2000") && text.contains("1216 bytes"), "{text}");
}
