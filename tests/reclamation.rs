//! Who frees, when, and how much may wait: promises P4, P5 and P6.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use trapline::{CodeRegistry, RegisterError, Registration};

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
    const LEAF: usize = 1_280; // 1.25 KiB
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

/// Guards hold up the garbage of every registry of the process, and these tests count garbage: one at a time.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_reader_that_never_leaves_its_closure_keeps_what_it_sees_and_nothing_that_is_written_later() {
    let _alone = alone();
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
    assert!(most <= seen + 64 + levels(STANDING * 2) + 2, "{most} nodes waited");
    registry.reclaim();
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

/// As many lookups inside each other as take all claims of a stripe and more, wherever the stack's pages end.
#[test]
fn lookups_nested_beyond_the_claims_cost_memory_but_no_progress() {
    fn nested(registry: &CodeRegistry<Payload>, depth: usize, stay: &dyn Fn()) {
        registry.view(|_| if depth == 0 { stay() } else { nested(registry, depth - 1, stay) });
    }
    let _alone = alone();
    a_parked_reader_costs_memory_but_no_progress(|registry, stay| nested(registry, 8, stay));
}

#[test]
fn a_guard_that_is_never_dropped_costs_memory_but_no_progress() {
    let _alone = alone();
    a_parked_reader_costs_memory_but_no_progress(|registry, stay| {
        let guard = registry.pin();
        assert!(guard.get(page(0).start).is_some());
        stay();
    });
}

/// What waits when nobody ever calls `reclaim`: 64 nodes, and those of the write that found fewer than that.
#[test]
fn writes_alone_leave_at_most_64_nodes_and_those_of_one_write() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let mut most = 0;
    churn(&registry, &drops, 10_000, |now| most = most.max(now));
    println!("writes alone, no guards: at most {most} nodes wait");
    assert!(most <= 64 + levels(STANDING * 2) + 2, "{most} nodes waited");
    assert!(drops.load(Ordering::SeqCst) > 9_000, "writes free what waits");
}

/// With guards in use (none held), what waits is freed two collections later: three times 64 nodes, and some.
#[test]
fn writes_alone_leave_a_bounded_number_of_nodes_when_guards_are_used() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    let mut most = 0;
    churn(&registry, &drops, 10_000, |now| {
        most = most.max(now);
        assert!(registry.pin().get(page(0).start).is_some());
    });
    println!("writes alone, with guards: at most {most} nodes wait");
    assert!(most <= 6 * 64, "{most} nodes waited");
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
    assert_eq!(drops.load(Ordering::SeqCst), 10_000);
}

#[test]
fn a_snapshot_held_for_ten_thousand_writes_keeps_only_what_it_sees() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    standing(&registry, &drops);
    // The nodes that the snapshot sees: leaves at least a quarter full, and few inner ones.
    let seen = STANDING / 16 + STANDING / 256 + 2;
    let snapshot = registry.snapshot();
    let mut most = 0;
    churn(&registry, &drops, 5_000, |now| most = most.max(now));
    println!("a snapshot of at most {seen} nodes: at most {most} nodes wait");
    assert!(most <= seen + 64 + levels(STANDING * 2) + 2, "{most} nodes waited");
    registry.reclaim();
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
fn many_snapshots_keep_what_each_of_them_sees_and_no_more() {
    let _alone = alone();
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
fn a_closure_that_unwinds_leaves_the_gate() {
    let _alone = alone();
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
fn a_payload_that_panics_when_dropped_panics_in_reclaim_and_the_rest_is_freed() {
    let _alone = alone();
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
    ids.iter().for_each(|id| registry.unregister(*id).unwrap());
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
fn a_payload_that_panics_when_a_removal_frees_it_panics_in_that_removal_which_is_done_nevertheless() {
    let _alone = alone();
    let registry: CodeRegistry<Boxed> = CodeRegistry::new();
    let plain = || Arc::new(Last(Box::new(|| ()) as Box<dyn Fn() + Send + Sync>));
    const PLAIN: usize = 200;
    let ids: Vec<_> = (0..PLAIN).map(|i| registry.register(page(i), plain()).unwrap().leak().unwrap()).collect();
    registry.reclaim();
    let last: Box<dyn Fn() + Send + Sync> = Box::new(|| std::panic::resume_unwind(Box::new("it")));
    drop(registry.register(page(PLAIN), Arc::new(Last(last))).unwrap());
    // Each of these leaves nodes that wait, until there are enough to free them and it.
    let remove = |id| catch_unwind(AssertUnwindSafe(|| registry.unregister(id).unwrap()));
    let panicked: Vec<_> = ids.iter().enumerate().filter(|(_, id)| remove(**id).is_err()).collect();
    let &[(i, id)] = &panicked[..] else { panic!("{panicked:?}") };
    assert!(registry.with(page(i).start, |_| ()).is_none());
    assert!(registry.unregister(*id).is_err(), "it is removed already");
    assert_eq!(registry.stats().live_ranges, 0);
    registry.reclaim();
    assert_eq!((registry.stats().retired_nodes, registry.stats().retired_ranges), (0, 0));
}

#[test]
fn a_payload_may_write_to_its_registry_when_dropped() {
    let _alone = alone();
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
    let _alone = alone();
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

/// Unregisters bombs until `register` is the call that frees one and unwinds. What it was registering must be
/// registered no more, and dropped once nobody sees it: not before, and not never.
fn a_registration_that_unwinds_registers_nothing(register: impl Fn(&CodeRegistry<Bomb>, Arc<Bomb>)) {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let mut unwound = 0;
    for _ in 0..400 {
        let id = registry.register(0..8, bomb(true).0).map(|r| r.leak());
        let _ = catch_unwind(AssertUnwindSafe(|| registry.unregister(id.unwrap().unwrap())));
        let (code, dropped) = bomb(false);
        if catch_unwind(AssertUnwindSafe(|| register(&registry, code))).is_err() {
            unwound += 1;
            assert!(registry.with(0x1000, |_| ()).is_none(), "still registered, and nobody's");
            let _ = catch_unwind(AssertUnwindSafe(|| registry.reclaim()));
            assert!(dropped.load(Ordering::SeqCst), "leaked");
        }
    }
    assert!(unwound > 0, "no registration ever freed a bomb");
    let _ = catch_unwind(AssertUnwindSafe(|| drop(registry)));
}

#[test]
fn a_registration_that_unwinds_is_undone() {
    a_registration_that_unwinds_registers_nothing(|registry, code| {
        drop(registry.register(0x1000..0x1008, code).unwrap());
    });
}

#[test]
fn a_batch_that_unwinds_is_undone() {
    a_registration_that_unwinds_registers_nothing(|registry, code| {
        drop(registry.register_all([(0x1000..0x1008, code)]).unwrap());
    });
}
