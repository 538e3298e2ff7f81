//! Mode A: ordinary code is interrupted after each of its instructions, by a handler that looks up.
//!
//! An operation prepares what it needs, says what lookups must answer before, during and after ([`Watch`]), and steps
//! the part that is to be interrupted with [`step`]. Each runs on a new thread, so that whatever is set up once a
//! thread is interrupted too, and over and over until its share of the points is reached. The registry it prepares is
//! fresh each time; every other time freed nodes and payloads become inaccessible.

use super::page::page;
use super::stack::Painted;
use super::watch::{self, Change, Watch};
use super::world::{self, Payload};
use super::{memory, step};
use std::hint::black_box;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use trapline::{CodeRegistry, RegisterError, Registration};

/// A name that completes "interrupted at every instruction: ...", and what is done.
pub type Operation = (&'static str, fn());

pub const OPERATIONS: &[Operation] = &[
    ("the first registration ever", first_registration),
    ("a registration in a node with room", registration_with_room),
    ("a registration that splits a node", registration_that_splits),
    ("a registration that adds a level", registration_that_adds_a_level),
    ("a registration that changes a node's shape", registration_far_away),
    ("a rejected registration", rejected_registration),
    ("a batch of registrations", batch),
    ("a removal", removal),
    ("a removal that merges nodes", removal_that_merges),
    ("the removal of the last range", last_removal),
    ("a removal that waits until nobody looks", removal_that_waits),
    ("a write that frees a backlog", write_that_collects),
    ("reclaiming a backlog", reclaim),
    ("pinning, and lookups under the guard", pin),
    ("writing and reclaiming where guards are used", write_beside_guards),
    ("taking, using and dropping a snapshot", snapshot),
    ("the end of a registry and of its last snapshot", end_of_another),
];

/// A round may take so many times its share of the points; then the rest of the operation is not interrupted. No
/// operation of an optimised build takes as many in a full run.
const PATIENCE: u64 = 12;

/// Runs `operation` until `points` interruption points were checked.
pub fn run(operation: fn(), points: u64) {
    let end = page().points() + points;
    step::limit(end.saturating_add(points * PATIENCE));
    let mut round = 0_u64;
    // Both kinds of memory have their turn.
    while page().points() < end || round < 2 && !page().is_cut() {
        memory::quarantine(round % 2 == 1);
        std::thread::spawn(move || {
            let _stack = Painted::install();
            operation();
        })
        .join()
        .expect("an operation does not panic");
        page().count_round();
        round += 1;
    }
}

/// Runs `f`, interrupted after each instruction by a handler that checks what is watched.
pub fn step<R>(watch: &Watch, f: impl FnOnce() -> R) -> R {
    watch.during(|| step::stepped(watch::check, f))
}

const BASE: usize = 0x4000_0000;

pub fn range(i: usize) -> Range<usize> {
    BASE + i * 0x1000..BASE + i * 0x1000 + 0x800
}

/// Registers ranges 0..n, range i as i, for good.
pub fn fill(registry: &'static CodeRegistry<Payload>, n: usize) {
    leak(registry.register_all((0..n).map(|i| (range(i), Payload::new(i as u64)))));
}

pub fn leak(registrations: Result<Vec<Registration<'static, Payload>>, RegisterError>) {
    for registration in registrations.expect("disjoint ranges") {
        registration.leak();
    }
}

/// A fresh registry with ranges 0..n, registered one after the other.
fn filled_one_by_one(n: usize) -> &'static CodeRegistry<Payload> {
    let registry = world::fresh_registry();
    for i in 0..n {
        registry.register(range(i), Payload::new(i as u64)).expect("disjoint ranges").leak();
    }
    registry
}

/// The first, an inner and the last pc of ranges 0..n, and the pcs beside them.
pub fn answers(n: usize) -> impl Iterator<Item = (usize, Option<u64>)> {
    (0..n).flat_map(|i| {
        let Range { start, end } = range(i);
        let who = Some(i as u64);
        [(start, who), (start + 0x123, who), (end - 1, who), (end, None), (start - 1, None)]
    })
}

fn watch_all(n: usize) -> Watch {
    Watch::new(world::local, answers(n))
}

/// Registers n ranges, with room for another one between any two.
fn fill_even(registry: &'static CodeRegistry<Payload>, n: usize) {
    leak(registry.register_all((0..n).map(|i| (range(2 * i), Payload::new(2 * i as u64)))));
}

fn watch_even(n: usize) -> Watch {
    Watch::new(world::local, (0..n).map(|i| (range(2 * i).start, Some(2 * i as u64))))
}

/// Range i is about to be registered as `who`; its neighbours stay.
fn appears(i: usize, who: u64) -> [Change; 2] {
    let Range { start, end } = range(i);
    [(start, None, Some(who)), (end - 1, None, Some(who))]
}

/// Range i is about to be removed.
fn vanishes(i: usize) -> [Change; 2] {
    appears(i, i as u64).map(|(pc, before, after)| (pc, after, before))
}

/// What is next to range i, and asked for at every point: it never changes.
fn neighbours(i: usize, n: usize) -> impl Iterator<Item = Change> {
    let beside = [i.wrapping_sub(1), i + 1].into_iter().filter(move |j| *j < n && *j != i);
    beside.map(|j| (range(j).start + 5, Some(j as u64), Some(j as u64)))
}

/// Registers range i as `who` with everything before, during and after interrupted.
fn register_stepped(registry: &'static CodeRegistry<Payload>, i: usize, who: u64, watch: &Watch) {
    let registration = step(watch, || {
        let payload = Payload::new(who);
        let registration = watch.change(|| registry.register(range(i), payload));
        black_box(registration)
    });
    registration.expect("a free range").leak();
}

fn unregister_stepped(registration: Registration<'static, Payload>, watch: &Watch) {
    step(watch, || {
        black_box(&registration);
        watch.change(|| drop(registration));
    });
}

fn first_registration() {
    let registry = world::fresh_registry();
    let watch = Watch::new(world::local, answers(0).chain([(range(1).start, None), (0, None), (usize::MAX, None)]))
        .changing(appears(0, 7));
    register_stepped(registry, 0, 7, &watch);
    assert_eq!(registry.stats().live_ranges, 1);
}

fn registration_with_room() {
    let registry = world::fresh_registry();
    fill_even(registry, 40);
    let bytes = registry.stats().live_bytes;
    let watch = watch_even(40).changing(appears(21, 21)).changing(neighbours(21, 80));
    register_stepped(registry, 21, 21, &watch);
    assert_eq!(registry.stats().live_bytes, bytes, "no node was split");
}

/// How many ranges there are before the next registration adds a leaf and `inners` inner nodes.
fn before_growth(inners: usize) -> usize {
    let registry = CodeRegistry::<()>::new();
    let mut sizes = vec![0];
    let mut inner_bytes = 0;
    loop {
        let i = sizes.len() - 1;
        let nothing = std::sync::Arc::new(());
        registry.register(range(i), nothing).expect("disjoint ranges").leak();
        let bytes = registry.stats().live_bytes;
        let growth = bytes - sizes[i];
        sizes.push(bytes);
        let leaf_bytes = sizes[1];
        if growth > leaf_bytes && inner_bytes == 0 {
            inner_bytes = growth - leaf_bytes;
            if inners == 1 {
                return i;
            }
        }
        if i > 0 && inner_bytes > 0 && growth == leaf_bytes + inners * inner_bytes {
            return i;
        }
        assert!(i < 100_000, "no registration adds {inners} inner nodes");
    }
}

fn registration_that_splits() {
    static FULL: OnceLock<usize> = OnceLock::new();
    let n = *FULL.get_or_init(|| before_growth(1));
    grow(n);
}

fn registration_that_adds_a_level() {
    static FULL: OnceLock<usize> = OnceLock::new();
    let n = *FULL.get_or_init(|| before_growth(2));
    grow(n);
}

fn grow(n: usize) {
    let registry = filled_one_by_one(n);
    let bytes = registry.stats().live_bytes;
    let watch = watch_all(n).changing(appears(n, n as u64)).changing(neighbours(n, n));
    register_stepped(registry, n, n as u64, &watch);
    assert!(registry.stats().live_bytes > bytes, "nodes were split");
}

fn registration_far_away() {
    let registry = world::fresh_registry();
    fill(registry, 30);
    let far = 0x7000_0000_0000..0x7100_0000_0000;
    let watch = watch_all(30).changing([(far.end - 1, None, Some(77))]);
    let registration = step(&watch, || {
        let payload = Payload::new(77);
        watch.change(|| registry.register(far, payload))
    });
    registration.expect("a free range").leak();
}

fn rejected_registration() {
    let registry = world::fresh_registry();
    fill(registry, 100);
    let watch = watch_all(100);
    let result = step(&watch, || registry.register(range(50).start - 1..range(50).end, Payload::new(0)).map(drop));
    assert!(result.is_err());
}

/// Into several nodes: lookups find all of it or none.
fn batch() {
    let registry = world::fresh_registry();
    fill_even(registry, 100);
    let batch = [1, 51, 53, 101, 151];
    let watch = watch_even(100).changing(batch.into_iter().flat_map(|i| appears(i, i as u64)));
    let registrations = step(&watch, || {
        let payloads: Vec<_> = batch.into_iter().map(|i| (range(i), Payload::new(i as u64))).collect();
        watch.change(|| registry.register_all(payloads))
    });
    leak(registrations);
}

/// A registry of ranges 0..n, of which range i has its registration returned.
fn filled_but_for(n: usize, i: usize) -> (&'static CodeRegistry<Payload>, Registration<'static, Payload>) {
    let registry = world::fresh_registry();
    let all = (0..n).map(|i| (range(i), Payload::new(i as u64)));
    let mut kept = None;
    for (j, registration) in registry.register_all(all).expect("disjoint ranges").into_iter().enumerate() {
        if i == j {
            kept = Some(registration);
        } else {
            registration.leak();
        }
    }
    (registry, kept.expect("i is below n"))
}

fn removal() {
    let (registry, registration) = filled_but_for(1000, 500);
    let stable = answers(1000).filter(|(pc, _)| !range(500).contains(pc));
    let watch = Watch::new(world::local, stable).changing(vanishes(500)).changing(neighbours(500, 1000));
    unregister_stepped(registration, &watch);
    assert_eq!(registry.stats().live_ranges, 999);
}

fn removal_that_merges() {
    const N: usize = 200;
    let registry = world::fresh_registry();
    let all = (0..N).map(|i| (range(i), Payload::new(i as u64)));
    let mut registrations = registry.register_all(all).expect("disjoint ranges");
    // How many removals from the end until nodes are merged, found out in a copy.
    static MERGES: OnceLock<usize> = OnceLock::new();
    let n = *MERGES.get_or_init(|| {
        let copy = Box::leak(Box::new(CodeRegistry::<()>::new()));
        let all = (0..N).map(|i| (range(i), std::sync::Arc::new(())));
        let mut registrations = copy.register_all(all).expect("disjoint ranges");
        let bytes = copy.stats().live_bytes;
        while copy.stats().live_bytes == bytes {
            drop(registrations.pop());
        }
        registrations.len()
    });
    registrations.truncate(n + 1);
    let bytes = registry.stats().live_bytes;
    let watch = watch_all(n).changing(vanishes(n)).changing(neighbours(n, n));
    unregister_stepped(registrations.pop().expect("n + 1 of them"), &watch);
    assert!(registry.stats().live_bytes < bytes, "nodes were merged");
}

fn last_removal() {
    let (registry, registration) = filled_but_for(1, 0);
    let watch = Watch::new(world::local, [(range(0).end, None)]).changing(vanishes(0));
    unregister_stepped(registration, &watch);
    assert_eq!(registry.stats().live_ranges, 0);
}

/// Removes and registers ranges behind the first 100 of a registry, so that garbage waits.
fn make_garbage(registry: &'static CodeRegistry<Payload>, writes: usize) {
    for i in 0..writes {
        drop(registry.register(range(200 + i), Payload::new(0)).expect("a free range"));
    }
}

/// A registry with garbage that only a snapshot kept, which is gone: the ranges and nodes that wait.
fn with_a_backlog() -> (&'static CodeRegistry<Payload>, usize) {
    let registry = world::fresh_registry();
    fill(registry, 100);
    make_garbage(registry, 1);
    assert_eq!(registry.stats().retired_nodes, 0, "a write leaves nothing behind");
    let registrations: Vec<_> =
        (200..212).map(|i| registry.register(range(i), Payload::new(i as u64)).expect("a free range")).collect();
    let snapshot = registry.snapshot();
    drop(registrations);
    drop(snapshot);
    let waiting = registry.stats().retired_ranges;
    assert_eq!(waiting, 12);
    (registry, waiting)
}

fn write_that_collects() {
    let (registry, waiting) = with_a_backlog();
    let dropped = world::dropped();
    let watch = watch_all(100);
    step(&watch, || make_garbage(registry, 1));
    assert_eq!((registry.stats().retired_ranges, registry.stats().retired_nodes), (0, 0));
    assert_eq!(world::dropped(), dropped + waiting + 1, "the writes freed the garbage, and their own");
}

fn reclaim() {
    let (registry, waiting) = with_a_backlog();
    let dropped = world::dropped();
    let watch = watch_all(100);
    step(&watch, || registry.reclaim());
    assert_eq!((registry.stats().retired_ranges, world::dropped()), (0, dropped + waiting));
}

fn pin() {
    let registry = world::fresh_registry();
    fill(registry, 1000);
    let watch = watch_all(1000);
    let found = step(&watch, || {
        let guard = registry.pin();
        let again = registry.pin();
        let found = guard.get(range(3).start).map(|found| found.payload().who());
        let owned = again.get_owned(range(4).start).map(|(payload, _)| payload.who());
        (found, owned)
    });
    assert_eq!(found, (Some(3), Some(4)));
}

fn write_beside_guards() {
    let registry = world::fresh_registry();
    fill(registry, 100);
    let watch = watch_all(100);
    let guard = registry.pin();
    step(&watch, || {
        make_garbage(registry, 1);
        // Has crossbeam told of the garbage.
        drop(registry.pin());
        registry.reclaim();
        drop(guard);
        registry.reclaim();
    });
    assert_eq!((registry.stats().retired_ranges, registry.stats().retired_nodes), (0, 0));
}

fn removal_that_waits() {
    let registry = world::fresh_registry();
    fill(registry, 100);
    let id = registry.register(range(200), Payload::new(7)).expect("a free range").leak().expect("not empty");
    let watch = watch_all(100);
    let payload = step(&watch, || registry.unregister_and_wait(id).expect("it was registered"));
    assert_eq!((payload.who(), Arc::strong_count(&payload)), (7, 1));
}

fn snapshot() {
    let registry = world::fresh_registry();
    fill(registry, 1000);
    let watch = watch_all(1000);
    let found = step(&watch, || {
        let snapshot = registry.snapshot();
        let copy = snapshot.clone();
        drop(snapshot);
        copy.get(range(3).start).map(|found| found.payload().who())
    });
    assert_eq!(found, Some(3));
}

/// Handlers ask one registry while another one goes.
fn end_of_another() {
    let asked = world::fresh_registry();
    fill(asked, 100);
    let ended = CodeRegistry::new();
    for i in 0..20 {
        ended.register(range(i), Payload::new(1000 + i as u64)).expect("disjoint ranges").leak();
    }
    let snapshot = ended.snapshot();
    let dropped = world::dropped();
    let watch = watch_all(100);
    step(&watch, || {
        drop(ended);
        black_box(snapshot.get(range(3).start).map(|found| found.payload().who()));
        drop(snapshot);
    });
    assert_eq!(world::dropped(), dropped + 20);
}
