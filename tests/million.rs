//! A million ranges.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use trapline::CodeRegistry;

/// The full million where it takes a second or two.
const RANGES: usize = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };

struct Payload {
    number: usize,
    alive: Arc<AtomicUsize>,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The tests take turns: a guard on one registry holds up the garbage of the other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn payload(number: usize, alive: &Arc<AtomicUsize>) -> Arc<Payload> {
    alive.fetch_add(1, Ordering::Relaxed);
    Arc::new(Payload { number, alive: alive.clone() })
}

/// Synthetic code of 1 to 2 KiB, with small gaps.
fn range(i: usize) -> Range<usize> {
    let start = 0x7000_0000_0000 + i * 0x840;
    start..start + 0x400 + ((i * 7919) & 0x3ff)
}

/// All numbers once, out of order.
fn shuffled() -> impl Iterator<Item = usize> {
    // 7,368,787 has no factor in common with either count.
    (0..RANGES).map(|i| i * 7_368_787 % RANGES)
}

fn spot_check(registry: &CodeRegistry<Payload>, present: impl Fn(usize) -> bool) -> usize {
    let snapshot = registry.snapshot();
    let guard = registry.pin();
    let mut found = 0;
    for i in shuffled().step_by(17) {
        let Range { start, end } = range(i);
        for (pc, inside) in [(start, true), (end - 1, true), (end, false), (start - 1, false)] {
            let wanted = (inside && present(i)).then_some(i);
            assert_eq!(registry.with(pc, |f| f.payload().number), wanted, "{pc:#x}");
            assert_eq!(guard.get(pc).map(|f| f.payload().number), wanted, "{pc:#x}, pinned");
            assert_eq!(snapshot.get(pc).map(|f| f.payload().number), wanted, "{pc:#x}, in a snapshot");
            found += usize::from(wanted.is_some());
        }
    }
    found
}

fn report(how: &str, registry: &CodeRegistry<Payload>, found: usize) {
    let stats = registry.stats();
    assert_eq!(stats.live_ranges, RANGES);
    assert_eq!(registry.snapshot().iter().count(), RANGES);
    let bytes = stats.live_bytes as f64 / RANGES as f64;
    println!("{RANGES} ranges {how}: {bytes:.1} bytes a range, {found} spot checks found theirs");
    assert!(bytes < 128.0, "nodes are far from full");
    if RANGES < 1_000_000 {
        println!("(a debug build: the full million is under --release)");
    }
}

fn empty(registry: CodeRegistry<Payload>, alive: &AtomicUsize) {
    registry.reclaim();
    let stats = registry.stats();
    assert_eq!((stats.live_ranges, stats.live_bytes), (0, 0));
    assert_eq!((stats.retired_ranges, stats.retired_nodes, stats.retired_bytes), (0, 0, 0));
    println!("all removed: 0 live, 0 retired, {} bytes spare", stats.spare_bytes);
    assert!(stats.spare_bytes < 1 << 20, "memory was not given back");
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn a_million_ranges_one_by_one() {
    let _alone = alone();
    let (registry, alive) = (CodeRegistry::new(), Arc::default());
    let mut ids = vec![None; RANGES];
    for i in shuffled() {
        ids[i] = registry.register(range(i), payload(i, &alive)).unwrap().leak();
    }
    assert_eq!(alive.load(Ordering::Relaxed), RANGES);
    report("one by one", &registry, spot_check(&registry, |_| true));
    for i in (0..RANGES).filter(|i| i % 2 == 0) {
        registry.unregister(ids[i].unwrap()).unwrap();
    }
    assert_eq!(registry.stats().live_ranges, RANGES / 2);
    spot_check(&registry, |i| i % 2 == 1);
    for i in shuffled().filter(|i| i % 2 == 1) {
        registry.unregister(ids[i].unwrap()).unwrap();
    }
    assert_eq!(spot_check(&registry, |_| false), 0);
    empty(registry, &alive);
}

#[test]
fn a_million_ranges_at_once() {
    let _alone = alone();
    let (registry, alive) = (CodeRegistry::new(), Arc::default());
    let all = registry.register_all(shuffled().map(|i| (range(i), payload(i, &alive)))).unwrap();
    report("in a batch", &registry, spot_check(&registry, |_| true));
    drop(all);
    assert_eq!(spot_check(&registry, |_| false), 0);
    empty(registry, &alive);
}
