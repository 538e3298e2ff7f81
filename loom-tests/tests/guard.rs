//! Guards, over the real crossbeam-epoch, against writers.
#![cfg(trapline_loom)]

use loom::thread::yield_now;
use loom_tests::{Arc, Registry, model, sequential, spawn};

fn pinned_reader(registry: &Arc<Registry>) -> loom::thread::JoinHandle<Option<usize>> {
    let registry = registry.clone();
    spawn(move || {
        let guard = registry.pin();
        guard.get(5).map(|found| found.payload().run())
    })
}

#[test]
fn first_pin_against_unregister_and_free() {
    model(2, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = pinned_reader(&registry);
        registry.unregister(id).unwrap();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn later_pin_against_unregister_and_free() {
    model(1, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        drop(registry.pin());
        let reader = pinned_reader(&registry);
        registry.unregister(id).unwrap();
        registry.reclaim();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn a_pin_that_saw_another_first_pin() {
    model(1, |census| {
        // The second reader does not go through the gate: it relies on having seen that somebody pinned before.
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let readers = [pinned_reader(&registry), pinned_reader(&registry)];
        registry.unregister(id).unwrap();
        for reader in readers {
            assert!([None, Some(1)].contains(&reader.join().unwrap()));
        }
    });
}

#[test]
fn a_guard_that_stays_keeps_what_it_may_see() {
    sequential(|census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let guard = registry.pin();
        let found = guard.get(5).unwrap();
        registry.unregister(id).unwrap();
        registry.reclaim();
        assert_eq!(found.payload().run(), 1);
        drop(guard);
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn a_registry_drops_before_its_deferred_closures_ran() {
    sequential(|census| {
        let other = Registry::new();
        let guard = other.pin();
        let registry = Registry::new();
        drop(registry.pin());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        registry.unregister(id).unwrap();
        // A guard anywhere in the process holds up the epoch.
        assert_eq!(registry.stats().retired_ranges, 1);
        drop(registry);
        assert_eq!(census.dropped(), 1);
        drop(guard);
        other.pin();
    });
}

#[test]
fn the_closure_runs_on_the_readers_thread() {
    model(2, |census| {
        // What the reader did with the code is ordered before the free by the watermark alone: the writer's own
        // crossbeam calls are over by then.
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                registry.pin().get(5).map(|found| found.payload().run());
                yield_now();
                for _ in 0..3 {
                    registry.pin().flush();
                }
            })
        };
        drop(registry.pin());
        yield_now();
        registry.unregister(id).unwrap();
        yield_now();
        registry.collect();
        reader.join().unwrap();
    });
}
