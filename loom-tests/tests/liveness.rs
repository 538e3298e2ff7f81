//! Everything that is retired is freed, within the documented number of writer calls.
#![cfg(trapline_loom)]

use loom_tests::{Arc, Registry, model, reader, spawn};

#[test]
fn one_reclaim_frees_everything_once_readers_are_gone() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let readers = [reader(&registry, 0, 5), reader(&registry, 1, 5)];
        registry.unregister(id).unwrap();
        for reader in readers {
            reader.join().unwrap();
        }
        registry.reclaim();
        assert_eq!(registry.stats().retired_nodes, 0);
        assert_eq!(census.dropped(), 1);
    });
}

#[test]
fn two_more_writes_free_everything_once_readers_are_gone() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        registry.unregister(id).unwrap();
        reader.join().unwrap();
        // A model collects whenever there is more garbage than the last collection left.
        let id = registry.register(0..10, census.code(2)).unwrap().leak().unwrap();
        registry.unregister(id).unwrap();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (2, 0));
    });
}

/// A reader inside the gate, until it is dropped.
trait Inside {}

impl<I> Inside for I {}

type Enter = fn(&Registry) -> Box<dyn Inside + '_>;

fn enter_blindly(registry: &Registry) -> Box<dyn Inside + '_> {
    Box::new(registry.enter_blindly())
}

fn enter(registry: &Registry) -> Box<dyn Inside + '_> {
    Box::new(registry.enter())
}

/// Readers that overlap without end, each leaving only after the next came in, over `writes` writes each.
fn endless_traffic(enter: Enter, writes: usize, stripes: usize, bound: usize) {
    loom_tests::sequential(move |census| {
        let registry = Registry::new();
        let mut inside: Vec<_> = (0..stripes)
            .map(|stripe| {
                loom_tests::use_stripe(stripe);
                enter(&registry)
            })
            .collect();
        let mut worst = 0;
        for i in 0..24 {
            let id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
            worst = worst.max(registry.stats().retired_ranges);
            if i % writes == 0 {
                for (stripe, reader) in inside.iter_mut().enumerate() {
                    loom_tests::use_stripe(stripe);
                    *reader = enter(&registry);
                }
            }
        }
        println!("at most {worst} ranges were waiting");
        assert!(worst <= bound, "{worst} ranges waiting under endless traffic");
        drop(inside);
    });
}

#[test]
fn endless_traffic_holds_up_two_generations() {
    endless_traffic(enter_blindly, 1, 1, 3);
}

#[test]
fn endless_traffic_of_slow_readers_holds_up_what_they_span() {
    endless_traffic(enter_blindly, 3, 1, 9);
}

#[test]
fn endless_traffic_on_all_stripes_holds_up_two_generations() {
    endless_traffic(enter_blindly, 1, 2, 3);
}

#[test]
fn endless_traffic_that_says_what_it_sees_holds_up_that() {
    endless_traffic(enter, 3, 2, 4);
}

#[test]
fn readers_that_follow_each_other_on_a_claim_are_not_taken_for_one() {
    loom_tests::sequential(|census| {
        let registry = Registry::new();
        let mut on_the_claim = registry.enter_blindly();
        for i in 0..24 {
            let id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
            assert!(registry.stats().retired_ranges <= 3, "{} ranges wait", registry.stats().retired_ranges);
            // Somebody is there at any moment, and at each look somebody else has the claim.
            let on_a_count = registry.enter_blindly();
            drop(on_the_claim);
            on_the_claim = registry.enter_blindly();
            drop(on_a_count);
        }
        drop(on_the_claim);
    });
}

#[test]
fn a_reader_that_never_leaves_keeps_what_it_sees_and_nothing_that_is_written_later() {
    loom_tests::sequential(|census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(0)).unwrap().leak().unwrap();
        let stuck = registry.enter();
        registry.unregister(id).unwrap();
        for i in 1..6 {
            let id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
        }
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (5, 1));
        drop(stuck);
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (6, 0));
    });
}

#[test]
fn a_blind_reader_that_never_leaves_costs_memory_and_nothing_else() {
    loom_tests::sequential(|census| {
        let registry = Registry::new();
        let stuck = registry.enter_blindly();
        for i in 0..6 {
            let id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.unregister(id).unwrap();
        }
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_ranges), (0, 6));
        drop(stuck);
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (6, 0));
    });
}

#[test]
fn traffic_hand_over_hand_beside_a_writer() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let traffic = {
            let registry = registry.clone();
            spawn(move || {
                let first = registry.enter_blindly();
                let second = registry.enter_blindly();
                drop(first);
                registry.with(5, |found| found.payload().run());
                drop(second);
            })
        };
        registry.unregister(id).unwrap();
        traffic.join().unwrap();
        registry.reclaim();
        assert_eq!(census.dropped(), 1);
    });
}

#[test]
fn a_registry_drops_with_garbage_pending() {
    model(5, |census| {
        let registry = Registry::new();
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        registry.register(10..20, census.code(2)).unwrap().leak();
        let stuck = registry.enter_blindly();
        registry.unregister(id).unwrap();
        assert_eq!(census.dropped(), 0);
        drop(stuck);
        drop(registry);
        assert_eq!(census.dropped(), 2);
    });
}
