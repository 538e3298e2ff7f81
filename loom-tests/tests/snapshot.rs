//! Owned snapshots against writers.
#![cfg(trapline_loom)]

use loom_tests::{Arc, Registry, model, sequential, spawn};

#[test]
fn snapshot_against_unregister_and_free() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                let snapshot = registry.snapshot();
                snapshot.get(5).map(|found| found.payload().run())
            })
        };
        registry.unregister(id).unwrap();
        registry.reclaim();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn a_snapshot_taken_after_a_lookup_is_not_older_than_what_that_found() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        registry.register(0..10, census.code(1)).unwrap().leak();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                if registry.with(15, |_| ()).is_some() {
                    assert!(registry.snapshot().get(15).is_some(), "a snapshot is behind a lookup");
                }
            })
        };
        registry.register(10..20, census.code(2)).unwrap().leak();
        reader.join().unwrap();
    });
}

/// Writes use two roots in turns, but for what snapshots hold.
#[test]
fn a_root_that_a_snapshot_holds_is_not_used_again() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        registry.register(0..10, census.code(1)).unwrap().leak();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                let snapshot = registry.snapshot();
                let seen = (snapshot.len(), snapshot.get(15).map(|found| found.payload().run()));
                assert!([(1, None), (2, Some(2)), (2, Some(3))].contains(&seen), "{seen:?}");
                assert_eq!(snapshot.get(5).map(|found| found.payload().run()), Some(1));
                assert_eq!((snapshot.len(), snapshot.get(15).map(|found| found.payload().run())), seen);
            })
        };
        for number in 2..4 {
            let id = registry.register(10..20, census.code(number)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
        }
        reader.join().unwrap();
    });
}

#[test]
fn the_end_of_a_snapshot_against_reclaim() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let snapshot = registry.snapshot();
        registry.unregister(id).unwrap();
        let reader = spawn(move || assert_eq!(snapshot.get(5).unwrap().payload().run(), 1));
        registry.reclaim();
        reader.join().unwrap();
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
    });
}

#[test]
fn a_clone_outlives_the_first_snapshot() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let snapshot = registry.snapshot();
        registry.unregister(id).unwrap();
        let clone = snapshot.clone();
        let reader = spawn(move || assert_eq!(clone.get(5).unwrap().payload().run(), 1));
        drop(snapshot);
        registry.reclaim();
        reader.join().unwrap();
    });
}

#[test]
fn the_end_of_a_snapshot_against_the_end_of_the_registry() {
    model(5, |census| {
        let registry = Registry::new();
        registry.register(0..10, census.code(1)).unwrap().leak();
        let snapshot = registry.snapshot();
        let reader = spawn(move || assert_eq!(snapshot.get(5).unwrap().payload().run(), 1));
        drop(registry);
        reader.join().unwrap();
    });
}

#[test]
fn two_snapshots_of_a_registry_that_is_gone() {
    model(5, |census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let old = registry.snapshot();
        registry.unregister(id).unwrap();
        registry.register(0..10, census.code(2)).unwrap().leak();
        let new = registry.snapshot();
        drop(registry);
        let reader = spawn(move || assert_eq!(old.get(5).unwrap().payload().run(), 1));
        assert_eq!(new.get(5).unwrap().payload().run(), 2);
        drop(new);
        reader.join().unwrap();
    });
}

#[test]
fn a_snapshot_keeps_what_it_sees_and_nothing_that_is_written_later() {
    sequential(|census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(0)).unwrap().leak().unwrap();
        let snapshot = registry.snapshot();
        registry.unregister(id).unwrap();
        for i in 1..20 {
            let id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
        }
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (19, 1));
        assert_eq!(snapshot.get(5).unwrap().payload().run(), 0);
        drop(snapshot);
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (20, 0));
    });
}
