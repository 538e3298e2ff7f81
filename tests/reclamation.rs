//! Who frees, when, and how much may wait: promises P4, P5 and P6.
#![cfg_attr(
    not(all(feature = "snapshot", feature = "guard")),
    allow(dead_code, unused_imports, reason = "for tests of what is not in this build")
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use trapline::{CodeRegistry, Holder, RegisterError, Registration, Unregistered};

/// Counts its drops, which may be one for each payload only.
struct Payload {
    drops: Arc<AtomicUsize>,
    dropped: bool,
}

impl Payload {
    fn new(drops: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { drops: drops.clone(), dropped: false })
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        assert!(!std::mem::replace(&mut self.dropped, true), "dropped twice");
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

fn page(i: usize) -> std::ops::Range<usize> {
    0x10_0000 + i * 0x1000..0x10_0800 + i * 0x1000
}

/// A thread that stays inside a lookup's closure until it is told to leave.
struct Parked {
    leave: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Parked {
    fn leave(self) {
        self.leave.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn park(lookup: impl FnOnce(&dyn Fn()) + Send + 'static) -> Parked {
    let (leave, told): (_, Receiver<()>) = channel();
    let (inside, wait) = channel();
    let thread = thread::spawn(move || {
        lookup(&|| {
            inside.send(()).unwrap();
            told.recv().unwrap();
        });
    });
    wait.recv().unwrap();
    Parked { leave, thread }
}

/// How many levels of nodes a tree of so many pages may have at most: nodes are at least a quarter full.
fn levels(ranges: usize) -> usize {
    (1..).find(|levels| 16_usize.pow(*levels as u32) >= ranges).unwrap()
}

/// How many ranges stay registered while others come and go.
const STANDING: usize = 1_000;

fn standing(registry: &CodeRegistry<Payload>, drops: &Arc<AtomicUsize>) {
    let all = registry.register_all((0..STANDING).map(|i| (page(2 * i), Payload::new(drops)))).unwrap();
    all.into_iter().for_each(|registration| {
        registration.leak();
    });
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
}

/// Registers and unregisters pages between the standing ones; says after each write how many nodes wait.
fn churn(registry: &CodeRegistry<Payload>, drops: &Arc<AtomicUsize>, times: usize, mut after: impl FnMut(usize)) {
    for i in 0..times {
        let id = registry.register(page(2 * (i * 7 % STANDING) + 1), Payload::new(drops)).unwrap().leak().unwrap();
        after(registry.stats().retired_nodes);
        registry.unregister(id).unwrap();
        after(registry.stats().retired_nodes);
    }
}

/// For readers that do not say what they see: all that is retired while they are there may be it.
fn a_parked_reader_costs_memory_but_no_progress(
    lookup: impl FnOnce(&CodeRegistry<Payload>, &dyn Fn()) + Send + 'static,
) {
    let registry: Arc<CodeRegistry<Payload>> = Arc::default();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let theirs = registry.clone();
    let parked = park(move |stay| lookup(&theirs, stay));

    let per_write = levels(STANDING * 2) + 2;
    let mut waiting = registry.stats().retired_nodes;
    let mut worst = 0;
    const TIMES: usize = 2_000;
    churn(&registry, &drops, TIMES, |now| {
        let grown = now.saturating_sub(waiting);
        worst = worst.max(grown);
        assert!(grown <= per_write, "one write left {grown} nodes, {per_write} are allowed");
        waiting = now;
    });
    assert!(waiting >= 2 * TIMES, "what the reader may see is kept");
    let bytes = registry.stats().retired_bytes;
    println!(
        "a parked reader: {waiting} nodes, {bytes} bytes wait after {} writes, at most {worst} nodes a write",
        2 * TIMES
    );
    // Of a leaf and the root above it; the figures in the documentation of `CodeRegistry` are rounded to 0.1 KiB.
    const LEAF: usize = 1_382; // 1.35 KiB
    const INNER: usize = 870; // 0.85 KiB
    assert!(bytes <= 2 * TIMES * (LEAF + INNER), "{bytes} bytes wait, more than documented");
    registry.reclaim();
    assert_eq!(drops.load(Ordering::SeqCst), 0, "nothing is freed under a reader");
    assert_eq!(registry.stats().retired_ranges, TIMES);

    parked.leave();
    assert_eq!(drops.load(Ordering::SeqCst), 0, "readers do not free (P5)");
    registry.reclaim();
    let stats = registry.stats();
    assert_eq!((stats.retired_nodes, stats.retired_bytes, stats.retired_ranges), (0, 0, 0));
    assert_eq!(drops.load(Ordering::SeqCst), TIMES);
    drop(registry);
    assert_eq!(drops.load(Ordering::SeqCst), TIMES + STANDING);
}

#[test]
fn a_reader_that_never_leaves_its_closure_keeps_what_it_sees_and_nothing_that_is_written_later() {
    let registry: Arc<CodeRegistry<Payload>> = Arc::default();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let seen_by_it = registry.register(page(1), Payload::new(&drops)).unwrap();
    let theirs = registry.clone();
    let parked = park(move |stay| {
        theirs.with(page(1).start, |found| {
            stay();
            assert!(!found.payload().dropped, "the code was unregistered meanwhile, but is still looked at");
        });
    });
    drop(seen_by_it);

    const TIMES: usize = 5_000;
    // The nodes that it sees: leaves at least a quarter full, and few inner ones.
    let seen = STANDING / 16 + STANDING / 256 + 2;
    let mut most = 0;
    churn(&registry, &drops, TIMES, |now| most = most.max(now));
    println!("a parked reader of at most {seen} nodes: at most {most} nodes wait");
    assert!(most <= seen, "{most} nodes waited");
    let stats = registry.stats();
    assert!(stats.retired_nodes > 0 && stats.retired_nodes <= seen, "{} nodes kept", stats.retired_nodes);
    assert_eq!((stats.retired_ranges, drops.load(Ordering::SeqCst)), (1, TIMES), "what came later is not kept");

    parked.leave();
    assert_eq!(drops.load(Ordering::SeqCst), TIMES, "readers do not free (P5)");
    registry.reclaim();
    let stats = registry.stats();
    assert_eq!((stats.retired_nodes, stats.retired_bytes, stats.retired_ranges), (0, 0, 0));
    assert_eq!(drops.load(Ordering::SeqCst), TIMES + 1);
}

fn nested(registry: &CodeRegistry<Payload>, depth: usize, stay: &dyn Fn()) {
    registry.view(|_| if depth == 0 { stay() } else { nested(registry, depth - 1, stay) });
}

/// As many lookups inside each other as take all claims of a stripe and more, wherever the stack's pages end.
#[test]
fn lookups_nested_beyond_the_claims_cost_memory_but_no_progress() {
    a_parked_reader_costs_memory_but_no_progress(|registry, stay| nested(registry, 8, stay));
}

#[test]
#[cfg(feature = "guard")]
fn a_guard_that_is_never_dropped_costs_memory_but_no_progress() {
    a_parked_reader_costs_memory_but_no_progress(|registry, stay| {
        let guard = registry.pin();
        assert!(guard.get(page(0).start).is_some());
        stay();
    });
}

#[test]
fn a_write_leaves_nothing_behind_when_nobody_is_inside() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let mut writes = 0;
    churn(&registry, &drops, 10_000, |now| {
        assert_eq!(now, 0, "nodes wait");
        writes += 1;
        assert_eq!((drops.load(Ordering::SeqCst), registry.stats().retired_ranges), (writes / 2, 0));
    });
}

#[test]
#[cfg(feature = "guard")]
fn guards_that_were_dropped_leave_nothing_behind() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let another = CodeRegistry::<()>::new();
    let _guard_of_another = another.pin();
    churn(&registry, &drops, 10_000, |now| {
        assert_eq!(now, 0, "nodes wait");
        assert!(registry.pin().get(page(0).start).is_some());
    });
    assert_eq!(drops.load(Ordering::SeqCst), 10_000);
}

#[test]
#[cfg(all(feature = "snapshot", feature = "guard"))]
fn a_removal_says_who_holds_the_payload() {
    let registry: Arc<CodeRegistry<Payload>> = Arc::default();
    let drops = Arc::new(AtomicUsize::new(0));
    let register = || registry.register(page(0), Payload::new(&drops)).unwrap();

    assert_eq!(register().unregister(), Ok(Unregistered::Gone));
    assert_eq!(drops.load(Ordering::SeqCst), 1);

    let registration = register();
    let snapshot = registry.snapshot();
    assert_eq!(registration.unregister(), Ok(Unregistered::Held(Holder::Snapshot)));
    drop(snapshot);

    let registration = register();
    let guard = registry.pin();
    assert_eq!(registration.unregister(), Ok(Unregistered::Held(Holder::Guard)));
    drop(guard);

    let registration = register();
    let theirs = registry.clone();
    let parked = park(move |stay| _ = theirs.with(page(0).start, |_| stay()));
    assert_eq!(registration.unregister(), Ok(Unregistered::Held(Holder::Lookup)));
    parked.leave();

    // One that says nothing of what it sees.
    let registration = register();
    let theirs = registry.clone();
    let parked = park(move |stay| nested(&theirs, 8, stay));
    assert_eq!(registration.unregister(), Ok(Unregistered::Held(Holder::Lookup)));
    parked.leave();

    // Who came later does not see it.
    let registration = register();
    let id = registration.id().unwrap();
    registration.leak();
    let other = registry.register(page(7), Payload::new(&drops)).unwrap();
    assert_eq!(registry.unregister(id), Ok(Unregistered::Gone));
    let snapshot = registry.snapshot();
    assert_eq!(other.unregister(), Ok(Unregistered::Held(Holder::Snapshot)));
    assert_eq!(drops.load(Ordering::SeqCst), 6);
    drop(snapshot);
    registry.reclaim();
    assert_eq!((drops.load(Ordering::SeqCst), registry.stats().retired_nodes), (7, 0));
}

/// The range is in a leaf older than the one that it is removed from: the snapshot has the older one.
#[test]
#[cfg(feature = "snapshot")]
fn a_snapshot_holds_a_payload_whose_leaf_has_changed_since() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let registration = registry.register(page(0), Payload::new(&drops)).unwrap();
    let snapshot = registry.snapshot();
    let _neighbour = registry.register(page(1), Payload::new(&drops)).unwrap();
    assert_eq!(registration.unregister(), Ok(Unregistered::Held(Holder::Snapshot)));
    assert!(!snapshot.get(page(0).start).unwrap().payload().dropped);
    assert_eq!(drops.load(Ordering::SeqCst), 0);
}

/// Removes while `reader` is there, lets that go meanwhile, and looks whether the removal waited for it.
fn a_removal_that_waits_waits_for<R>(reader: impl FnOnce(&'static CodeRegistry<Payload>) -> R, leave: impl FnOnce(R)) {
    let registry: &'static CodeRegistry<Payload> = Box::leak(Box::default());
    let drops = Arc::new(AtomicUsize::new(0));
    let id = registry.register(page(0), Payload::new(&drops)).unwrap().leak().unwrap();
    let reader = reader(registry);
    let gone = Arc::new(AtomicBool::new(false));
    let waiting = {
        let gone = gone.clone();
        thread::spawn(move || {
            let payload = registry.unregister_and_wait(id).unwrap();
            assert!(gone.load(Ordering::SeqCst), "it did not wait");
            assert_eq!(Arc::strong_count(&payload), 1, "nobody else has it");
        })
    };
    // It is found no more from early on, and others write meanwhile.
    while registry.with(page(0).start, |_| ()).is_some() {
        thread::yield_now();
    }
    for _ in 0..100 {
        drop(registry.register(page(0), Payload::new(&drops)).unwrap());
        registry.reclaim();
        thread::yield_now();
    }
    assert!(!waiting.is_finished());
    gone.store(true, Ordering::SeqCst);
    leave(reader);
    waiting.join().unwrap();
    registry.reclaim();
    assert_eq!((drops.load(Ordering::SeqCst), registry.stats().retired_ranges), (101, 0));
}

#[test]
#[cfg(feature = "snapshot")]
fn a_removal_that_waits_waits_for_snapshots() {
    a_removal_that_waits_waits_for(|registry| registry.snapshot(), drop);
}

#[test]
#[cfg(feature = "guard")]
fn a_removal_that_waits_waits_for_guards() {
    a_removal_that_waits_waits_for(|registry| registry.pin(), drop);
}

#[test]
fn a_removal_that_waits_waits_for_lookups() {
    let park_inside = |registry: &'static CodeRegistry<Payload>| {
        park(move |stay| {
            _ = registry.with(page(0).start, |found| {
                stay();
                assert!(!found.payload().dropped);
            })
        })
    };
    a_removal_that_waits_waits_for(park_inside, Parked::leave);
}

#[test]
fn a_removal_that_waits_refuses_what_is_not_registered() {
    let [registry, other] = [CodeRegistry::new(), CodeRegistry::new()];
    let drops = Arc::new(AtomicUsize::new(0));
    let id = registry.register(page(0), Payload::new(&drops)).unwrap().leak().unwrap();
    assert!(other.unregister_and_wait(id).is_err());
    let foreign = other.register(page(0), Payload::new(&drops)).unwrap();
    assert!(registry.unregister_and_wait(foreign.id().unwrap()).is_err());
    drop(registry.unregister_and_wait(id).unwrap());
    assert!(registry.unregister_and_wait(id).is_err());
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
#[cfg(feature = "snapshot")]
fn a_snapshot_held_for_ten_thousand_writes_keeps_only_what_it_sees() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    // The nodes that the snapshot sees: leaves at least a quarter full, and few inner ones.
    let seen = STANDING / 16 + STANDING / 256 + 2;
    let snapshot = registry.snapshot();
    let mut most = 0;
    churn(&registry, &drops, 5_000, |now| most = most.max(now));
    println!("a snapshot of at most {seen} nodes: at most {most} nodes wait");
    assert!(most <= seen, "{most} nodes waited");
    let kept = registry.stats().retired_nodes;
    assert!(kept > 0 && kept <= seen, "{kept} nodes kept");
    assert_eq!(drops.load(Ordering::SeqCst), 5_000, "what came after the snapshot is not kept");
    assert_eq!(snapshot.iter().map(|found| found.range()).collect::<Vec<_>>(), {
        (0..STANDING).map(|i| page(2 * i)).collect::<Vec<_>>()
    });
    drop(snapshot);
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
}

#[test]
#[cfg(feature = "snapshot")]
fn many_snapshots_keep_what_each_of_them_sees_and_no_more() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let mut held = Vec::new();
    for i in 0..100 {
        let id = registry.register(page(i), Payload::new(&drops)).unwrap().leak().unwrap();
        held.push(registry.snapshot());
        registry.unregister(id).unwrap();
    }
    registry.reclaim();
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    // Every other one first, then the rest, newest first.
    let mut left = 100;
    let (odd, even): (Vec<_>, Vec<_>) = held.into_iter().enumerate().partition(|(i, _)| i % 2 == 1);
    for (i, snapshot) in odd.into_iter().chain(even.into_iter().rev()) {
        assert_eq!(snapshot.iter().map(|found| found.range()).collect::<Vec<_>>(), [page(i)]);
        drop(snapshot);
        registry.reclaim();
        left -= 1;
        assert_eq!(drops.load(Ordering::SeqCst), 100 - left);
    }
    assert_eq!(registry.stats().retired_nodes, 0);
}

#[test]
fn what_a_view_found_stays_alive_and_found_until_its_closure_returns() {
    let drops = Arc::new(AtomicUsize::new(0));
    let registry: CodeRegistry<Payload> = CodeRegistry::new();
    let registration = registry.register(page(0), Payload::new(&drops)).unwrap();
    registry.view(|view| {
        let found = view.get(page(0).start).unwrap();
        drop(registration);
        registry.reclaim();
        assert!(registry.with(page(0).start, |_| ()).is_none());
        let _later = registry.register(page(0), Payload::new(&drops)).unwrap();
        assert_eq!(view.get(page(0).start).unwrap().id(), found.id(), "one moment");
        assert!(!found.payload().dropped);
        assert_eq!(drops.load(Ordering::SeqCst), 0);
    });
    registry.reclaim();
    assert_eq!(drops.load(Ordering::SeqCst), 2);
}

#[test]
#[cfg(feature = "std")]
fn a_closure_that_unwinds_leaves_the_gate() {
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let registration = registry.register(page(0), Payload::new(&drops)).unwrap();
        let result =
            catch_unwind(AssertUnwindSafe(|| registry.with(page(0).start, |_| std::panic::resume_unwind(Box::new(7)))));
        assert_eq!(result.map(|_: Option<()>| ()).unwrap_err().downcast_ref(), Some(&7));
        drop(registration);
    }
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
    assert_eq!(drops.load(Ordering::SeqCst), 10);
}

/// Does something when dropped.
struct Last<F: Fn() + Send + Sync + 'static>(F);

impl<F: Fn() + Send + Sync + 'static> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

type Boxed = Last<Box<dyn Fn() + Send + Sync>>;

#[test]
#[cfg(feature = "snapshot")]
fn a_payload_that_panics_when_dropped_panics_in_reclaim_and_the_rest_is_freed() {
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let register = |i: usize| {
        let dropped = dropped.clone();
        let last: Box<dyn Fn() + Send + Sync> = Box::new(move || {
            dropped.fetch_add(1, Ordering::SeqCst);
            if i % 10 == 3 {
                std::panic::resume_unwind(Box::new("one of them"));
            }
        });
        registry.register(page(i), Arc::new(Last(last))).unwrap().leak().unwrap()
    };
    let ids: Vec<_> = (0..20).map(register).collect();
    let hold = registry.snapshot();
    ids.iter().for_each(|id| _ = registry.unregister(*id).unwrap());
    drop(hold);
    let payload = catch_unwind(AssertUnwindSafe(|| registry.reclaim())).expect_err("the panic gets through");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"one of them"));
    assert_eq!(dropped.load(Ordering::SeqCst), 20, "the rest is freed");
    assert_eq!(registry.stats().retired_nodes, 0);
    assert_eq!(registry.stats().retired_ranges, 0);
    let id = register(0);
    assert!(registry.with(page(0).start, |_| ()).is_some(), "the registry is as good as ever");
    registry.unregister(id).unwrap();
    registry.reclaim();
    assert_eq!(dropped.load(Ordering::SeqCst), 21);
}

#[test]
#[cfg(feature = "std")]
fn a_payload_that_panics_when_a_removal_frees_it_panics_in_that_removal_which_is_done_nevertheless() {
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let last: Box<dyn Fn() + Send + Sync> = Box::new(|| std::panic::resume_unwind(Box::new("it")));
    let id = registry.register(page(0), Arc::new(Last(last))).unwrap().leak().unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| registry.unregister(id))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"it"));
    assert!(registry.with(page(0).start, |_| ()).is_none());
    assert!(registry.unregister(id).is_err(), "it is removed already");
    let stats = registry.stats();
    assert_eq!((stats.live_ranges, stats.retired_nodes, stats.retired_ranges), (0, 0, 0));
}

/// What it panics with panics when dropped, unless another panic is under way.
struct Thrown;

impl Drop for Thrown {
    fn drop(&mut self) {
        assert!(thread::panicking(), "what was thrown panics");
    }
}

#[test]
#[cfg(feature = "snapshot")]
fn payloads_whose_panics_panic_are_all_freed() {
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let payload = |i: usize| {
        let dropped = dropped.clone();
        let last = move || {
            dropped.fetch_add(1, Ordering::SeqCst);
            match i {
                0 => std::panic::resume_unwind(Box::new("the first")),
                1..5 => std::panic::resume_unwind(Box::new(Thrown)),
                _ => (),
            }
        };
        Arc::new(Last(Box::new(last) as Box<dyn Fn() + Send + Sync>))
    };
    let all = registry.register_all((0..20).map(|i| (page(i), payload(i)))).unwrap();
    let snapshot = registry.snapshot();
    drop(all);
    drop(snapshot);
    let panic = catch_unwind(AssertUnwindSafe(|| registry.reclaim())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the first"));
    let stats = registry.stats();
    assert_eq!((dropped.load(Ordering::SeqCst), stats.retired_ranges, stats.retired_nodes), (20, 0, 0));
}

/// Two ranges that are not registered, whose payloads panic, among others that are.
#[test]
#[cfg(feature = "std")]
fn a_batch_whose_rejected_payloads_panic_leaves_the_registry_its_own() {
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let payload = |panics: bool| {
        let dropped = dropped.clone();
        let last = move || {
            dropped.fetch_add(1, Ordering::SeqCst);
            assert!(!panics, "a payload panics");
        };
        Arc::new(Last(Box::new(last) as Box<dyn Fn() + Send + Sync>))
    };
    let (kept, seen) = (payload(false), page(2));
    let weak = Arc::downgrade(&kept);
    let batch = [(0x10..0x10, payload(true)), (page(2), kept), (0x20..0x20, payload(true))];
    let unwound = catch_unwind(AssertUnwindSafe(|| registry.register_all(batch).map(|all| all.len())));
    assert!(unwound.is_err(), "the panic gets through");
    assert_eq!(dropped.load(Ordering::SeqCst), 3, "nothing leaks, and nothing goes twice");
    assert!(weak.upgrade().is_none());
    assert!(registry.with(seen.start, |_| ()).is_none(), "the registration unwound");

    // An error with payloads that panic: again the first panic, with all of them dropped.
    let standing = registry.register(page(2), payload(false)).unwrap();
    let batch = (0..4).map(|i| (page(i), payload(i % 2 == 0)));
    assert!(catch_unwind(AssertUnwindSafe(|| registry.register_all(batch).map(|all| all.len()))).is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 7);
    assert_eq!(registry.stats().live_ranges, 1);
    drop(standing);
}

/// As many old payloads and new ones as the call has to drop, all of which panic.
#[cfg(feature = "guard")]
fn a_registration_that_frees_bombs_panics_once<R>(register: impl FnOnce(&CodeRegistry<Bomb>) -> R) {
    let registry = CodeRegistry::new();
    let (old, old_dropped) = bomb(true);
    let id = registry.register(page(9), old).unwrap().leak().unwrap();
    let guard = registry.pin();
    registry.unregister(id).unwrap();
    drop(guard);
    let panic = catch_unwind(AssertUnwindSafe(|| register(&registry))).map(|_| ()).unwrap_err();
    assert!(panic.downcast_ref::<&str>().is_some_and(|what| what.contains("destructor of a payload")));
    assert!(old_dropped.load(Ordering::SeqCst));
    let stats = registry.stats();
    assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (0, 0, 0));
}

#[test]
#[cfg(feature = "guard")]
fn a_registration_that_is_undone_holds_the_panic_of_its_own_payload_back() {
    a_registration_that_frees_bombs_panics_once(|registry| registry.register(page(0), bomb(true).0).map(|_| ()));
}

#[test]
#[cfg(feature = "guard")]
fn a_batch_that_is_undone_holds_the_panics_of_its_own_payloads_back() {
    a_registration_that_frees_bombs_panics_once(|registry| {
        let batch = [(page(0), bomb(true).0), (0x10..0x10, bomb(true).0), (page(1), bomb(true).0)];
        registry.register_all(batch).map(|_| ())
    });
}

#[test]
#[cfg(feature = "std")]
fn a_batch_with_a_bad_range_drops_each_payload_by_itself() {
    let registry = CodeRegistry::new();
    let bombs: Vec<_> = (0..4).map(|_| bomb(true)).collect();
    let (codes, dropped): (Vec<_>, Vec<_>) = bombs.into_iter().unzip();
    let batch: Vec<_> = codes.into_iter().enumerate().map(|(i, code)| (2 * i..5 - i, code)).collect();
    assert!(catch_unwind(AssertUnwindSafe(|| registry.register_all(batch).map(|_| ()))).is_err());
    assert!(dropped.iter().all(|dropped| dropped.load(Ordering::SeqCst)));
}

#[test]
#[cfg(all(feature = "snapshot", feature = "guard"))]
fn a_removal_that_waits_holds_the_panic_of_its_own_payload_back() {
    a_registration_that_frees_bombs_panics_once(|registry| {
        let (code, dropped) = bomb(true);
        let snapshot = registry.snapshot();
        let id = catch_unwind(AssertUnwindSafe(|| registry.register(page(0), code).unwrap().leak().unwrap()));
        // The old one went with that registration, which was undone: once more, with one that waits.
        assert!(id.is_err() && dropped.load(Ordering::SeqCst));
        drop(snapshot);
        let old = registry.register(page(1), bomb(true).0).unwrap().leak().unwrap();
        let mine = registry.register(page(2), bomb(true).0).unwrap().leak().unwrap();
        let snapshot = registry.snapshot();
        registry.unregister(old).unwrap();
        drop(snapshot);
        registry.unregister_and_wait(mine).map(|_| ())
    });
}

#[test]
#[cfg(feature = "snapshot")]
fn the_end_of_a_registry_drops_what_no_snapshot_sees() {
    let drops = Arc::new(AtomicUsize::new(0));
    let registry = CodeRegistry::new();
    let register = |i| _ = registry.register(page(i), Payload::new(&drops)).unwrap().leak();
    (0..3).for_each(register);
    let older = registry.snapshot();
    (3..5).for_each(register);
    let newer = registry.snapshot();
    (5..60).for_each(register);
    drop(registry);
    assert_eq!(drops.load(Ordering::SeqCst), 55, "what no snapshot sees, though it was in one leaf with the rest");
    assert!(newer.iter().all(|found| !found.payload().dropped));
    drop(newer);
    assert!(older.iter().all(|found| !found.payload().dropped));
    drop(older);
    assert_eq!(drops.load(Ordering::SeqCst), 60);
}

#[test]
#[cfg(feature = "std")]
fn a_batch_whose_iterator_panics_registers_nothing() {
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let payload = || {
        let dropped = dropped.clone();
        let last = move || {
            dropped.fetch_add(1, Ordering::SeqCst);
            assert!(dropped.load(Ordering::SeqCst) > 9, "a payload panics");
        };
        Arc::new(Last(Box::new(last) as Box<dyn Fn() + Send + Sync>))
    };
    let batch = (0..5).map(|i| if i < 3 { (page(i), payload()) } else { std::panic::resume_unwind(Box::new(i)) });
    let panic = catch_unwind(AssertUnwindSafe(|| registry.register_all(batch).map(|all| all.len()))).unwrap_err();
    assert_eq!(panic.downcast_ref::<usize>(), Some(&3));
    assert_eq!((dropped.load(Ordering::SeqCst), registry.stats().live_ranges), (3, 0));
}

#[test]
fn a_payload_may_write_to_its_registry_when_dropped() {
    let registry: Arc<CodeRegistry<Boxed>> = Arc::default();
    let runs = Arc::new(AtomicUsize::new(0));
    fn plain() -> Arc<Boxed> {
        Arc::new(Last(Box::new(|| ())))
    }
    for i in 0..200 {
        let (theirs, runs): (Weak<CodeRegistry<Boxed>>, _) = (Arc::downgrade(&registry), runs.clone());
        let last: Box<dyn Fn() + Send + Sync> = Box::new(move || {
            let Some(registry) = theirs.upgrade() else { return };
            runs.fetch_add(1, Ordering::SeqCst);
            let registration = registry.register(page(1_000 + i), plain()).unwrap();
            assert!(registry.with(page(1_000 + i).start, |_| ()).is_some());
            drop(registration);
            registry.reclaim();
        });
        drop(registry.register(page(i), Arc::new(Last(last))).unwrap());
    }
    registry.reclaim();
    registry.reclaim();
    assert_eq!(runs.load(Ordering::SeqCst), 200);
    assert_eq!(registry.stats().live_ranges, 0);
    assert_eq!(registry.stats().retired_ranges, 0);
}

#[test]
fn the_payload_of_a_refused_registration_may_write_to_the_registry_too() {
    let registry: Arc<CodeRegistry<Boxed>> = Arc::default();
    let plain = || Arc::new(Last(Box::new(|| ()) as Box<dyn Fn() + Send + Sync>));
    let standing = registry.register(page(0), plain()).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let writes = || {
        let (theirs, runs) = (Arc::downgrade(&registry), runs.clone());
        Arc::new(Last(Box::new(move || {
            let Some(registry) = theirs.upgrade() else { return };
            let nothing = Arc::new(Last(Box::new(|| ()) as Box<dyn Fn() + Send + Sync>));
            drop(registry.register(page(1), nothing).unwrap());
            registry.reclaim();
            runs.fetch_add(1, Ordering::SeqCst);
        }) as Box<dyn Fn() + Send + Sync>))
    };
    let refused = |result: Result<Registration<'_, Boxed>, RegisterError>| {
        assert!(matches!(result, Err(RegisterError::Overlap { .. })), "{result:?}");
    };
    refused(registry.register(page(0), writes()));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(registry.register_all([(page(2), writes()), (page(0), writes())]).is_err());
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert!(registry.with(page(2).start, |_| ()).is_none());
    drop(standing);
}

/// Says when it is dropped, and may panic then.
struct Bomb {
    armed: bool,
    dropped: Arc<AtomicBool>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
        assert!(!self.armed, "the destructor of a payload panics");
    }
}

fn bomb(armed: bool) -> (Arc<Bomb>, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    (Arc::new(Bomb { armed, dropped: dropped.clone() }), dropped)
}

/// Has `register` be the call that frees a bomb, which a snapshot held up, and unwinds. What it was registering must be
/// registered no more, and dropped once nobody sees it: not before, and not never.
#[cfg(feature = "snapshot")]
fn a_registration_that_unwinds_registers_nothing(register: impl Fn(&CodeRegistry<Bomb>, Arc<Bomb>)) {
    let registry = CodeRegistry::new();
    for _ in 0..40 {
        let id = registry.register(0..8, bomb(true).0).unwrap().leak().unwrap();
        let snapshot = registry.snapshot();
        registry.unregister(id).unwrap();
        drop(snapshot);
        let (code, dropped) = bomb(false);
        assert!(catch_unwind(AssertUnwindSafe(|| register(&registry, code))).is_err());
        assert!(registry.with(0x1000, |_| ()).is_none(), "still registered, and nobody's");
        assert!(dropped.load(Ordering::SeqCst), "leaked");
    }
}

#[test]
#[cfg(feature = "snapshot")]
fn a_registration_that_unwinds_is_undone() {
    a_registration_that_unwinds_registers_nothing(|registry, code| {
        drop(registry.register(0x1000..0x1008, code).unwrap());
    });
}

#[test]
#[cfg(feature = "snapshot")]
fn a_batch_that_unwinds_is_undone() {
    a_registration_that_unwinds_registers_nothing(|registry, code| {
        drop(registry.register_all([(0x1000..0x1008, code)]).unwrap());
    });
}

/// Without `std` a panic cannot be held back until the others are dropped: they leak, and nothing else does.
#[cfg(not(feature = "std"))]
#[test]
fn a_payload_that_panics_leaves_the_registrys_own_memory_counted_right() {
    struct Panics(bool);

    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(!self.0, "a payload");
        }
    }

    let registry = CodeRegistry::new();
    let kept = registry.register(0x10..0x20, Arc::new(Panics(false))).unwrap();
    let before = registry.stats().live_bytes;
    for _ in 0..4 {
        let register = |i: usize| registry.register(i * 0x1000..i * 0x1000 + 8, Arc::new(Panics(i == 1))).unwrap();
        let ids: Vec<_> = (1..=200).map(|i| register(i).leak().unwrap()).collect();
        registry.with(0x18, |_| ids.into_iter().for_each(|id| _ = registry.unregister(id).unwrap()));
        assert!(std::panic::catch_unwind(|| registry.reclaim()).is_err());
        registry.reclaim();
    }
    assert_eq!((registry.stats().live_bytes, registry.stats().live_ranges), (before, 1));
    drop(kept);
}
