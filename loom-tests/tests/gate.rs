//! Handlers against writers: what is found is right and alive, whatever the interleaving.
#![cfg(trapline_loom)]

use loom_tests::{Arc, Registry, free_nothing_in_writes, model, reader, spawn, use_stripe};

#[test]
fn reader_against_publication() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        registry.register(0..10, census.code(1)).unwrap().leak();
        let reader = reader(&registry, 0, 15);
        registry.register(10..20, census.code(2)).unwrap().leak();
        assert!([None, Some(2)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn reader_against_first_publication_ever() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let reader = reader(&registry, 0, 5);
        registry.register(0..10, census.code(1)).unwrap().leak();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn reader_against_unregister_and_free() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        registry.unregister(id).unwrap();
        registry.reclaim();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
        registry.reclaim();
        assert_eq!(census.dropped(), 1);
    });
}

#[test]
fn a_removal_that_waits_has_the_payload_to_itself() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        let payload = registry.unregister_and_wait(id).unwrap();
        // Unmaps: a reader that loom does not see ordered before would be noticed.
        drop(payload);
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (1, 0));
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn reader_against_a_range_that_stays_while_its_neighbour_goes() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        registry.register(0..10, census.code(1)).unwrap().leak();
        let id = registry.register(10..20, census.code(2)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        registry.unregister(id).unwrap();
        assert_eq!(reader.join().unwrap(), Some(1));
    });
}

#[test]
fn two_readers_on_one_stripe() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let readers = [reader(&registry, 0, 5), reader(&registry, 0, 5)];
        registry.unregister(id).unwrap();
        registry.reclaim();
        for reader in readers {
            assert!([None, Some(1)].contains(&reader.join().unwrap()));
        }
    });
}

#[test]
fn two_readers_on_one_count_whose_claim_is_taken() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let claims = registry.enter_blindly();
        let readers = [reader(&registry, 0, 5), reader(&registry, 0, 5)];
        registry.unregister(id).unwrap();
        drop(claims);
        registry.reclaim();
        for reader in readers {
            assert!([None, Some(1)].contains(&reader.join().unwrap()));
        }
        registry.reclaim();
        assert_eq!(census.dropped(), 1, "everybody has left");
    });
}

#[test]
fn two_readers_on_two_stripes() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let readers = [reader(&registry, 0, 5), reader(&registry, 1, 5)];
        registry.unregister(id).unwrap();
        registry.reclaim();
        for reader in readers {
            assert!([None, Some(1)].contains(&reader.join().unwrap()));
        }
    });
}

#[test]
fn a_reader_that_left_is_remembered_by_the_one_that_came_after() {
    model(3, |census| {
        // The writer may see only the second reader's value of the counter: the release sequence has to carry the
        // first one's accesses.
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let first = reader(&registry, 0, 5);
        let second = {
            let registry = registry.clone();
            spawn(move || {
                registry.with(5, |_| ());
                registry.with(5, |_| ());
            })
        };
        registry.unregister(id).unwrap();
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Publications go by while the reader comes in, and what they replaced is freed.
fn reader_while_trees_come_and_go(writes: usize) {
    model(3, move |census| {
        let registry = Arc::new(Registry::new());
        let mut id = registry.register(0..10, census.code(0)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        for i in 1..=writes {
            registry.unregister(id).unwrap();
            registry.reclaim();
            id = registry.register(0..10, census.code(i)).unwrap().leak().unwrap();
            registry.reclaim();
        }
        assert!(reader.join().unwrap().is_none_or(|number| number <= writes));
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (writes, 0));
    });
}

#[test]
fn reader_while_one_tree_comes_and_goes() {
    reader_while_trees_come_and_go(1);
}

#[test]
fn reader_while_two_trees_come_and_go() {
    reader_while_trees_come_and_go(2);
}

#[test]
fn a_reader_of_a_tick_finds_no_tree_from_long_before_it() {
    model(3, |census| {
        // Nothing is freed until all is written: the reader may announce any tick, and has to find a tree of about then.
        free_nothing_in_writes();
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        registry.unregister(id).unwrap();
        for i in 2..=3 {
            registry.register(i * 10..i * 10 + 10, census.code(i)).unwrap().leak();
        }
        registry.reclaim();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
    });
}

#[test]
fn a_reader_finds_at_least_what_was_there_when_it_announced_itself() {
    model(3, |census| {
        // Whoever knows that the first range is gone must not be handed a tree from before, nor the freed range.
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = {
            let registry = registry.clone();
            spawn(move || {
                let new = registry.with(15, |found| found.payload().run());
                let old = registry.with(5, |found| found.payload().run());
                assert!(new.is_none() || old.is_none(), "a lookup went back in time");
            })
        };
        registry.unregister(id).unwrap();
        registry.register(10..20, census.code(2)).unwrap().leak();
        registry.reclaim();
        reader.join().unwrap();
    });
}

/// A handler that interrupts a handler's lookup, on its own stack or on another one.
fn nested(inner_stripe: usize) {
    model(5, move |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let nested = {
            let registry = registry.clone();
            spawn(move || {
                registry.with(5, |outer| {
                    use_stripe(inner_stripe);
                    let inner = registry.with(5, |inner| inner.payload().run());
                    assert!([None, Some(1)].contains(&inner));
                    // Still alive after the inner one left.
                    assert_eq!(outer.payload().run(), 1);
                })
            })
        };
        registry.unregister(id).unwrap();
        registry.reclaim();
        nested.join().unwrap();
    });
}

#[test]
fn nested_reader_on_the_same_stripe() {
    nested(0);
}

#[test]
fn nested_reader_on_another_stripe() {
    nested(1);
}

#[test]
fn two_writers_and_a_reader() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        let writer = {
            let (registry, code) = (registry.clone(), census.code(2));
            spawn(move || {
                registry.register(10..20, code).unwrap().leak();
            })
        };
        registry.unregister(id).unwrap();
        assert!([None, Some(1)].contains(&reader.join().unwrap()));
        writer.join().unwrap();
        assert_eq!(registry.with(15, |found| found.payload().run()), Some(2));
    });
}

#[test]
fn two_writers_remove_one_id() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        let other = {
            let registry = registry.clone();
            spawn(move || registry.unregister(id).is_ok())
        };
        let mine = registry.unregister(id).is_ok();
        assert!(mine ^ other.join().unwrap());
    });
}

#[test]
fn first_registrations_by_two_threads() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let other = {
            let (registry, code) = (registry.clone(), census.code(2));
            spawn(move || {
                registry.register(10..20, code).unwrap().leak();
            })
        };
        registry.register(0..10, census.code(1)).unwrap().leak();
        other.join().unwrap();
        for (pc, number) in [(5, 1), (15, 2)] {
            assert_eq!(registry.with(pc, |found| found.payload().run()), Some(number));
        }
    });
}

#[test]
fn who_registered_finds_it_and_so_does_who_was_told() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let other = {
            let (registry, code) = (registry.clone(), census.code(1));
            spawn(move || {
                registry.register(0..10, code).unwrap().leak();
                assert_eq!(registry.with(5, |found| found.payload().run()), Some(1));
            })
        };
        other.join().unwrap();
        assert_eq!(registry.with(5, |found| found.payload().run()), Some(1));
    });
}

#[test]
fn a_batch_is_seen_as_a_whole() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let both = {
            let registry = registry.clone();
            spawn(move || {
                let first = registry.with(5, |found| found.payload().run());
                let second = registry.with(15, |found| found.payload().run());
                // The second lookup begins later: it may see more, never less.
                assert!(first.is_none() || second.is_some());
            })
        };
        for registration in registry.register_all([(0..10, census.code(1)), (10..20, census.code(2))]).unwrap() {
            registration.leak();
        }
        both.join().unwrap();
    });
}

#[test]
fn late_reader_with_an_old_phase() {
    model(5, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        // Readers that stay over one write each make the writer flip the phase; the late one may have read any.
        let stays = registry.enter_blindly();
        let late = reader(&registry, 0, 5);
        registry.unregister(id).unwrap();
        let stays_too = registry.enter_blindly();
        drop(stays);
        let id = registry.register(0..10, census.code(2)).unwrap().leak().unwrap();
        drop(stays_too);
        registry.unregister(id).unwrap();
        late.join().unwrap();
        registry.reclaim();
        assert_eq!(census.dropped(), 2);
    });
}

#[test]
fn readers_on_either_count_of_a_stripe() {
    model(3, |census| {
        let registry = Arc::new(Registry::new());
        let id = registry.register(0..10, census.code(1)).unwrap().leak().unwrap();
        // One has the claim, and one stays on the first count over a write: that sends newcomers to the other one.
        let has_the_claim = registry.enter_blindly();
        let stays = registry.enter_blindly();
        registry.unregister(id).unwrap();
        let id = registry.register(0..10, census.code(2)).unwrap().leak().unwrap();
        let reader = reader(&registry, 0, 5);
        drop(stays);
        registry.unregister(id).unwrap();
        drop(has_the_claim);
        registry.reclaim();
        assert!([None, Some(2)].contains(&reader.join().unwrap()));
        registry.reclaim();
        assert_eq!((census.dropped(), registry.stats().retired_nodes), (2, 0));
    });
}
