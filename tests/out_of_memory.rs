//! When there is no memory: registering fails and changes nothing, removing succeeds all the same (P7).

#[path = "common/allocator.rs"]
mod allocator;

use allocator::{bytes_held, refused, with_allocations};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use trapline::{CodeId, CodeRegistry, Holder, RegisterError, Unregistered};

static ALIVE: AtomicIsize = AtomicIsize::new(0);

/// Counts itself while it is alive.
struct Payload {
    number: usize,
    alive: &'static AtomicIsize,
}

impl Payload {
    fn new(number: usize, alive: &'static AtomicIsize) -> Arc<Self> {
        alive.fetch_add(1, Ordering::SeqCst);
        Arc::new(Self { number, alive })
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn page(i: usize) -> Range<usize> {
    0x10_0000 + i * 0x1000..0x10_0800 + i * 0x1000
}

fn contents(registry: &CodeRegistry<Payload>) -> Vec<(Range<usize>, CodeId, usize)> {
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.len(), registry.stats().live_ranges);
    snapshot.iter().map(|found| (found.range(), found.id(), found.payload().number)).collect()
}

/// The thread's first use of arc-swap, which aborts without memory and is documented to, is past.
fn prepared(ranges: usize, alive: &'static AtomicIsize) -> CodeRegistry<Payload> {
    let registry = CodeRegistry::new();
    drop(registry.register(page(0), Payload::new(0, alive)).unwrap());
    let all = registry.register_all((0..ranges).map(|i| (page(2 * i), Payload::new(i, alive)))).unwrap();
    all.into_iter().for_each(|registration| {
        registration.leak();
    });
    registry.reclaim();
    registry
}

/// Registers what `ranges` says, with the k-th allocation failing for k = 1, 2, 3 and so on until none does; each time
/// on a registry of its own with so many ranges.
fn every_allocation_fails_once(standing: usize, ranges: &[Range<usize>], all_at_once: bool) -> usize {
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    for k in 0.. {
        let bytes_before = bytes_held();
        let alive_before = ALIVE.load(Ordering::SeqCst);
        let registry = prepared(standing, &ALIVE);
        let before = contents(&registry);
        let alive = ALIVE.load(Ordering::SeqCst);
        let codes: Vec<_> = ranges.iter().map(|range| (range.clone(), Payload::new(7, &ALIVE))).collect();
        let result = with_allocations(k, || {
            if all_at_once {
                registry.register_all(codes).map(|all| {
                    all.into_iter().for_each(|registration| {
                        registration.leak();
                    })
                })
            } else {
                let (range, code) = codes.into_iter().next().expect("a range");
                registry.register(range, code).map(|registration| {
                    registration.leak();
                })
            }
        });
        let done = match result {
            Ok(()) => true,
            Err(RegisterError::OutOfMemory { range, bytes }) => {
                assert!(ranges.contains(&range), "{range:x?}");
                assert_ne!(bytes, 0, "something was asked for");
                assert_eq!(contents(&registry), before, "allocation {k} failed, and the registry is another");
                assert_eq!(ALIVE.load(Ordering::SeqCst), alive, "allocation {k} failed, and payloads are left");
                // It is not worse for it.
                let again = registry.register(ranges[0].clone(), Payload::new(8, &ALIVE)).unwrap();
                assert_eq!(registry.with(ranges[0].start, |found| found.payload().number), Some(8));
                drop(again);
                assert!(contents(&registry).iter().map(|c| &c.0).eq(before.iter().map(|c| &c.0)));
                registry.reclaim();
                assert_eq!(registry.stats().retired_nodes, 0);
                false
            }
            Err(other) => panic!("{other}"),
        };
        if done {
            assert_eq!(contents(&registry).len(), before.len() + ranges.len());
        }
        drop(before);
        drop(registry);
        assert_eq!(ALIVE.load(Ordering::SeqCst), alive_before, "payloads leaked");
        if k > 0 {
            assert_eq!(bytes_held(), bytes_before, "allocation {k} failed, and memory leaked");
        }
        if done {
            return k;
        }
    }
    unreachable!()
}

/// These count bytes and payloads of their own, but share what fails.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn a_registration_that_finds_no_memory_changes_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A new leaf, a full leaf that splits, a second level, a full inner node that splits, a long tree.
    let mut failures = 0;
    for standing in [0, 1, 63, 64, 65, 640, 64 * 48, 64 * 64, 64 * 64 + 1] {
        for place in [1, standing | 1, 2 * standing + 1] {
            failures += every_allocation_fails_once(standing, &[page(place)], false);
        }
    }
    println!("{failures} failed allocations in registrations");
    assert!(failures > 0, "nothing was refused, so nothing was shown");
}

#[test]
fn the_first_registration_ever_that_finds_no_memory_is_an_error() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    // arc-swap's record of this thread stays, and is none of the registry's.
    drop(prepared(0, &ALIVE));
    let mut refused = 0;
    for k in 0.. {
        let bytes = bytes_held();
        let registry = CodeRegistry::new();
        let code = Payload::new(1, &ALIVE);
        match with_allocations(k, || registry.register(page(1), code).map(|registration| registration.leak())) {
            Ok(id) => {
                assert_eq!(registry.with(page(1).start, |found| found.id()), id);
                break;
            }
            Err(RegisterError::OutOfMemory { range, bytes }) => assert_eq!((range, bytes == 0), (page(1), false)),
            Err(other) => panic!("{other}"),
        }
        refused += 1;
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
        assert!(registry.with(page(1).start, |_| ()).is_none());
        drop(registry);
        assert_eq!(bytes_held(), bytes, "allocation {k} failed, and memory leaked");
    }
    println!("{refused} failed allocations in first registrations");
    assert!(refused >= 3, "the shared state, its watermark, and a leaf at least");
}

/// arc-swap has no record of the thread yet, and aborts if there is no memory for one.
#[test]
fn the_first_removal_of_a_thread_succeeds_without_any_memory() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(1, &ALIVE);
    let at = page(0).start;
    let id = registry.with(at, |found| found.id()).unwrap();
    // The records of threads that ended are used again: all of them are taken.
    thread::scope(|scope| {
        let others: Vec<_> = (0..64)
            .map(|_| {
                let (go, wait) = channel::<()>();
                let (ready, is_ready) = channel();
                let registry = &registry;
                scope.spawn(move || {
                    drop(registry.snapshot());
                    ready.send(()).unwrap();
                    _ = wait.recv();
                });
                is_ready.recv().unwrap();
                go
            })
            .collect();
        let removed = scope.spawn(|| with_allocations(0, || registry.unregister(id))).join().unwrap();
        assert_eq!(removed, Ok(Unregistered::Held(Holder::OutOfMemory)));
        drop(others);
    });
    assert!(registry.with(at, |_| ()).is_none());
    registry.reclaim();
    assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
}

#[test]
fn snapshots_take_no_memory() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(1, &ALIVE);
    let id = registry.register(page(1), Payload::new(1, &ALIVE)).unwrap().leak().unwrap();
    let (with, without) = with_allocations(0, || {
        let with = registry.snapshot();
        registry.unregister(id).unwrap();
        (with, registry.snapshot())
    });
    assert_eq!((with.len(), without.len()), (2, 1));
    assert!(with.get(page(1).start).is_some() && without.get(page(1).start).is_none());
}

/// What a registration sets aside is enough for a removal, though snapshots hold the roots of all trees before it.
#[test]
fn a_removal_after_a_registration_takes_no_memory_beside_any_number_of_snapshots() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(1, &ALIVE);
    let mut held = vec![registry.snapshot()];
    for _ in 0..20 {
        let id = registry.register(page(1), Payload::new(1, &ALIVE)).unwrap().leak().unwrap();
        held.push(registry.snapshot());
        let removed = with_allocations(0, || registry.unregister(id));
        assert_eq!(removed, Ok(Unregistered::Held(Holder::Snapshot)));
        held.push(registry.snapshot());
    }
}

#[test]
fn the_end_of_a_registry_takes_no_memory_beside_any_number_of_snapshots() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    for snapshots in 1..20 {
        let registry = prepared(1, &ALIVE);
        let mut held = Vec::new();
        for i in 1..=snapshots {
            registry.register(page(i), Payload::new(i, &ALIVE)).unwrap().leak();
            held.push(registry.snapshot());
        }
        // Takes what was set aside for a removal; what is left is for the end.
        let id = registry.with(page(0).start, |found| found.id()).unwrap();
        registry.unregister(id).unwrap();
        held.push(registry.snapshot());
        with_allocations(0, || drop(registry));
        for (i, snapshot) in held.iter().enumerate() {
            assert_eq!(snapshot.iter().count(), if i < snapshots { i + 2 } else { snapshots });
        }
        drop(held);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
    }
}

/// A superseded root is used again once nobody has it; what snapshots hold is not, and each takes one of its own.
#[test]
fn removals_without_any_memory_succeed_while_each_tree_is_held_by_a_snapshot() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(100, &ALIVE);
    let all = contents(&registry);
    let mut hidden = 0;
    let mut held = Vec::with_capacity(all.len());
    for (removed, (range, id, _)) in all.iter().enumerate() {
        let outcome = with_allocations(0, || {
            held.push(registry.snapshot());
            registry.unregister(*id)
        });
        hidden += usize::from(outcome == Ok(Unregistered::Held(Holder::OutOfMemory)));
        let now = registry.snapshot();
        assert!(now.get(range.start).is_none() && registry.with(range.start, |_| ()).is_none());
        assert_eq!((now.len(), now.iter().count()), (all.len() - removed - 1, all.len() - removed - 1));
    }
    assert!(0 < hidden && hidden < all.len(), "{hidden} of {} were hidden in place", all.len());
    drop(held);
    registry.reclaim();
    assert_eq!((ALIVE.load(Ordering::SeqCst), registry.stats().retired_nodes), (0, 0));
}

/// crossbeam-epoch takes memory for what is deferred, and aborts if there is none: a removal defers nothing.
#[test]
fn a_removal_without_any_memory_succeeds_under_guards_that_overlap() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(300, &ALIVE);
    let ids: Vec<_> = contents(&registry).into_iter().map(|(_, id, _)| id).collect();
    let guard = registry.pin();
    for id in ids {
        let removed = with_allocations(0, || registry.unregister(id));
        let held = [Holder::Guard, Holder::OutOfMemory].map(|holder| Ok(Unregistered::Held(holder)));
        assert!(held.contains(&removed), "{removed:?}");
    }
    assert_eq!(ALIVE.load(Ordering::SeqCst), 300);
    drop(guard);
    registry.reclaim();
    assert_eq!((ALIVE.load(Ordering::SeqCst), registry.stats().retired_nodes), (0, 0));
}

/// What the hidden range's leaf takes is there, but for the reader that held it up until a moment ago.
#[test]
fn a_removal_that_finds_garbage_leaves_older_snapshots_as_they_are() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(64, &ALIVE);
    let ids: Vec<_> = contents(&registry).into_iter().map(|(range, id, _)| (range, id)).collect();
    let guard = registry.pin();
    // Until nothing is left of what registrations set aside.
    let mut next = ids.iter();
    let last = loop {
        let (_, id) = next.next().expect("memory runs out before the ranges do");
        if with_allocations(0, || registry.unregister(*id)) == Ok(Unregistered::Held(Holder::OutOfMemory)) {
            break next.next().expect("there are more ranges than spare leaves");
        }
    };
    let snapshot = registry.snapshot();
    drop(guard);
    let removed = with_allocations(0, || registry.unregister(last.1));
    assert_eq!(removed, Ok(Unregistered::Held(Holder::Snapshot)), "there was room, once it was looked for");
    assert!(snapshot.get(last.0.start).is_some(), "the snapshot lost sight of the range");
    assert!(registry.with(last.0.start, |_| ()).is_none());
}

#[test]
fn a_batch_that_finds_no_memory_changes_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut failures = 0;
    for (standing, batch) in [(0, 1), (0, 70), (64, 64), (64, 200), (300, 50)] {
        let ranges: Vec<_> = (0..batch).map(|i| page(2 * i + 1)).collect();
        failures += every_allocation_fails_once(standing, &ranges, true);
    }
    println!("{failures} failed allocations in batches");
    assert!(failures > 50, "hardly anything was refused");
}

#[test]
fn removals_without_any_memory_succeed_under_a_handler_that_stays() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for ranges in [1, 64, 65, 700, 5_000] {
        let alive = &ALIVE;
        let registry: Arc<CodeRegistry<Payload>> = Arc::new(prepared(ranges, alive));
        let (leave, told) = channel::<()>();
        let (inside, wait) = channel();
        let theirs = registry.clone();
        let parked = thread::spawn(move || {
            let seen = theirs.with(page(0).start, |found| {
                inside.send(()).unwrap();
                told.recv().unwrap();
                // Removed long ago; alive because we look at it.
                (found.payload().number, found.payload().alive.load(Ordering::SeqCst) > 0)
            });
            assert_eq!(seen, Some((0, true)));
        });
        wait.recv().unwrap();

        let ids: Vec<_> = contents(&registry).into_iter().map(|(range, id, _)| (range, id)).collect();
        assert_eq!(ids.len(), ranges);
        let refused_before = refused();
        // From the middle outwards, so that leaves grow sparse in no particular order.
        let mut left = ids.len();
        for (n, i) in (0..ids.len()).map(|i| i * 7919 % ids.len()).enumerate() {
            let (range, id) = &ids[i];
            let removed = with_allocations(0, || registry.unregister(*id));
            assert!(matches!(removed, Ok(Unregistered::Held(_) | Unregistered::Gone)), "removal {n}: {removed:?}");
            left -= 1;
            assert!(registry.with(range.start, |_| ()).is_none(), "removal {n} is still found");
            assert!(registry.with(range.end - 1, |_| ()).is_none());
            assert_eq!(registry.stats().live_ranges, left);
            let neighbour = &ids[(i + 1) % ids.len()];
            let gone = (0..=n).any(|m| m * 7919 % ids.len() == (i + 1) % ids.len());
            assert_eq!(registry.with(neighbour.0.start, |_| ()).is_none(), gone);
            let again = with_allocations(0, || registry.unregister(*id));
            assert!(again.is_err(), "removed twice");
        }
        assert_eq!(left, 0);
        assert!(ranges < 100 || refused() > refused_before, "memory was never short");
        println!(
            "{ranges} ranges removed, {} allocations refused on the way, {} nodes wait",
            refused() - refused_before,
            registry.stats().retired_nodes
        );
        // Not even this may need memory.
        with_allocations(0, || registry.reclaim());
        assert_eq!(ALIVE.load(Ordering::SeqCst), ranges as isize, "nothing is freed under a handler");

        leave.send(()).unwrap();
        parked.join().unwrap();
        registry.reclaim();
        let stats = registry.stats();
        assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes, stats.retired_bytes), (0, 0, 0, 0));
        assert_eq!(stats.live_bytes, 0);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
        assert_eq!(contents(&registry), []);

        // The same addresses again: nothing hidden is in the way.
        let all = registry.register_all((0..ranges).map(|i| (page(2 * i), Payload::new(i, alive)))).unwrap();
        assert_eq!(contents(&registry).len(), ranges);
        drop(all);
        registry.reclaim();
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn ranges_removed_without_memory_make_way_for_new_ones_at_their_addresses() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static ALIVE: AtomicIsize = AtomicIsize::new(0);
    let registry = prepared(200, &ALIVE);
    // A snapshot holds up what is removed, so that no memory comes back.
    let before = contents(&registry);
    let mut held = Vec::new();
    for (i, (_, id, _)) in before.iter().enumerate().filter(|(i, _)| i % 3 == 0) {
        held.push(registry.snapshot());
        let removed = with_allocations(0, || registry.unregister(*id));
        assert!(matches!(removed, Ok(Unregistered::Held(Holder::Snapshot | Holder::OutOfMemory))), "{removed:?}");
        assert!(registry.with(page(2 * i).start, |_| ()).is_none());
        let now = registry.snapshot();
        assert_eq!((now.len(), now.iter().count()), (registry.stats().live_ranges, registry.stats().live_ranges));
    }
    // Some stay registered, at the old addresses with old ids; some are new.
    for i in (0..200).step_by(3) {
        registry.register(page(2 * i), Payload::new(1_000 + i, &ALIVE)).unwrap().leak();
    }
    for (i, (range, id, number)) in before.iter().enumerate() {
        let found = registry.with(range.start, |found| (found.id(), found.payload().number)).unwrap();
        if i % 3 == 0 {
            assert_eq!(found.1, 1_000 + i);
            assert_ne!(found.0, *id);
        } else {
            assert_eq!(found, (*id, *number));
        }
    }
    drop(held);
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
    assert_eq!(ALIVE.load(Ordering::SeqCst), 200);
    drop(registry);
    assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
}

#[test]
#[cfg(all(feature = "signal", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn installing_the_handlers_needs_no_memory() {
    use trapline::signal::{Signals, install, installed};
    for _ in 0..2 {
        // SAFETY: what is no trap goes to the handlers that were there.
        with_allocations(0, || unsafe { install(Signals::all()) }).unwrap();
        assert_eq!(installed(), Signals::all());
    }
}
