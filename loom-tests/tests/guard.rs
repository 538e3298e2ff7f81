//! Guards, over the real crossbeam-epoch, against writers.
#![cfg(trapline_loom)]

use loom::thread::yield_now;
use loom_tests::{Arc, Holder, Registry, Unregistered, model, sequential, spawn};

fn pinned_reader(registry: &Arc<Registry>) -> loom::thread::JoinHandle<Option<usize>> {
    let registry = registry.clone();
    spawn(move || {
        let guard = registry.pin();
        guard.get(5).map(|found| found.payload().run())
    })
}

#[test]
fn a_guard_against_unregister_and_free() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = pinned_reader(&registry);
        let outcome = registry.unregister(id).unwrap();
        assert!([Unregistered::Gone, Unregistered::Held(Holder::Guard)].contains(&outcome));
        assert_eq!(census.dropped(), usize::from(outcome == Unregistered::Gone));
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn two_guards_against_unregister_and_free() {
    model(2, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let readers = [pinned_reader(&registry), pinned_reader(&registry)];
        registry.unregister(id).unwrap();
        for reader in readers {
            assert!([None, Some(1)].contains(&reader.join().unwrap()));
        }
        // Both have left: nothing is counted any more.
        let id = registry.register(0..10, census.code(2)).unwrap().leak().unwrap();
        assert_eq!(registry.unregister(id), Ok(Unregistered::Gone));
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (2, 0));
    });
}

#[test]
fn a_guard_that_stays_keeps_what_it_may_see() {
    sequential(|census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let guard = registry.pin();
        let found = guard.get(5).unwrap();
        assert_eq!(registry.unregister(id), Ok(Unregistered::Held(Holder::Guard)));
        for _ in 0..3 {
            registry.reclaim();
        }
        assert_eq!(found.payload().run(), 1);
        drop(guard);
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn a_guard_keeps_nothing_of_another_registry() {
    sequential(|census| {
        let [registry, other] = [Registry::new(), Registry::new()];
        let _guard = other.pin();
        drop(registry.pin());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        assert_eq!(registry.unregister(id), Ok(Unregistered::Gone));
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn a_registry_drops_before_its_deferred_closure_ran() {
    sequential(|census| {
        let other = Registry::new();
        let guard = other.pin();
        let registry = Registry::new();
        let mine = registry.pin();
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        assert_eq!(registry.unregister(id), Ok(Unregistered::Held(Holder::Guard)));
        // Has crossbeam told, whose epoch is held up by both.
        registry.reclaim();
        drop(mine);
        drop(registry);
        assert_eq!(census.dropped(), 1);
        drop(guard);
        (0..4).for_each(|_| other.pin().flush());
    });
}

/// Guards of which there is always one: what each of them sees is freed when it has gone.
#[test]
fn guards_that_overlap_without_end_hold_up_what_they_span() {
    model(0, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let first = registry.pin();
        assert_eq!(registry.unregister(id), Ok(Unregistered::Held(Holder::Guard)));
        let told = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let other = {
            let (registry, told) = (registry.clone(), told.clone());
            spawn(move || {
                // There before the other one goes, and still there when everything has been freed. The first pin defers.
                let mut guard = registry.pin();
                told.store(true, std::sync::atomic::Ordering::SeqCst);
                while registry.stats().retired_ranges > 0 {
                    yield_now();
                    let next = registry.pin();
                    next.flush();
                    // One of its thread's guards at a time, or they count as one.
                    drop((guard, next));
                    guard = registry.pin();
                }
            })
        };
        while !told.load(std::sync::atomic::Ordering::SeqCst) {
            yield_now();
        }
        drop(first);
        for _ in 0..6 {
            registry.reclaim();
            yield_now();
        }
        other.join().unwrap();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn the_closure_runs_on_the_readers_thread() {
    model(3, |census| {
        // What the reader did with the code is ordered before the free by the watermark alone: the scan finds the
        // reader's guard still counted.
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                let guard = registry.pin();
                guard.get(5).map(|found| found.payload().run());
                yield_now();
                drop(guard);
                for _ in 0..4 {
                    drop(registry.pin());
                }
            })
        };
        yield_now();
        registry.unregister(id).unwrap();
        registry.collect_only();
        reader.join().unwrap();
    });
}
