//! Readers of every kind against writers, on addresses that are reused all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use trapline::{CodeRegistry, Found};

const MAGIC: u64 = 0x600d_c0de_600d_c0de;
const POISON: u64 = 0xdead_dead_dead_dead;

/// Says so when it is looked at after its drop.
struct Payload {
    magic: u64,
    slot: usize,
    version: u64,
    alive: Arc<AtomicIsize>,
}

impl Payload {
    fn new(slot: usize, version: u64, alive: &Arc<AtomicIsize>) -> Arc<Self> {
        alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { magic: MAGIC, slot, version, alive: alive.clone() })
    }

    fn check(&self) {
        // SAFETY: a reference; volatile, so that it is read now.
        let magic = unsafe { (&raw const self.magic).read_volatile() };
        assert_eq!(magic, MAGIC, "used after its drop");
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.check();
        // SAFETY: ours; volatile, so that it is written although nobody should look.
        unsafe { (&raw mut self.magic).write_volatile(POISON) };
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A guard holds up the garbage of every registry of the process, and these tests count what is left: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

const SLOTS: usize = 200;

/// Even slots are stable, odd ones come and go.
fn slot(i: usize) -> usize {
    0x10_0000 + i * 0x100
}

/// What is known about a slot that comes and goes: the version that a write was last about to be made for, or was made
/// for. A lookup that begins when `registered` is v and ends while `removing` is below v must find v or a later one;
/// one that begins when `removed` is v must not find v or any older one.
#[derive(Default)]
struct Truth {
    registering: AtomicU64,
    registered: AtomicU64,
    removing: AtomicU64,
    removed: AtomicU64,
}

struct World {
    registry: CodeRegistry<Payload>,
    truth: Vec<Truth>,
    alive: Arc<AtomicIsize>,
    over: AtomicBool,
    lookups: AtomicUsize,
    /// Lookups whose right answer was known, found and not found.
    known: [AtomicUsize; 2],
}

impl World {
    fn look_up(&self, i: usize, find: impl FnOnce(usize) -> Option<(usize, u64)>) {
        let truth = &self.truth[i];
        let removed = truth.removed.load(Ordering::SeqCst);
        let registered = truth.registered.load(Ordering::SeqCst);
        let found = find(slot(i) + 0x7f);
        let removing = truth.removing.load(Ordering::SeqCst);
        let registering = truth.registering.load(Ordering::SeqCst);
        self.lookups.fetch_add(1, Ordering::Relaxed);
        if i.is_multiple_of(2) {
            assert_eq!(found, Some((i, 0)), "a stable range");
            return;
        }
        if let Some((of, version)) = found {
            assert_eq!(of, i, "found another slot's code");
            assert!(version > removed, "found version {version} after {removed} was removed");
            assert!(version <= registering, "found version {version} before it was registered");
            assert!(version >= registered, "found version {version} though {registered} is registered");
        }
        if registered > removing {
            assert!(found.is_some(), "version {registered} was registered all the time");
            self.known[0].fetch_add(1, Ordering::Relaxed);
        }
        if removed == registering {
            assert_eq!(found, None, "nothing was registered all the time");
            self.known[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&self, from: usize, step: usize) {
        for version in 1..=60 {
            for i in (from..SLOTS).step_by(step) {
                let truth = &self.truth[i];
                truth.registering.store(version, Ordering::SeqCst);
                let payload = Payload::new(i, version, &self.alive);
                let id = self.registry.register(slot(i)..slot(i) + 0x80, payload).unwrap().leak().unwrap();
                truth.registered.store(version, Ordering::SeqCst);
                if (i / 2).is_multiple_of(3) {
                    thread::yield_now();
                }
                truth.removing.store(version, Ordering::SeqCst);
                self.registry.unregister(id).unwrap();
                truth.removed.store(version, Ordering::SeqCst);
            }
            if version.is_multiple_of(20) {
                self.registry.reclaim();
            }
        }
    }
}

fn of(found: Found<'_, Payload>) -> (usize, u64) {
    let payload = found.payload();
    payload.check();
    assert_eq!(found.range(), slot(payload.slot)..slot(payload.slot) + 0x80);
    let answer = (payload.slot, payload.version);
    payload.check();
    answer
}

#[test]
fn every_lookup_finds_what_is_registered_and_nothing_that_was_removed() {
    let _alone = alone();
    let world = World {
        registry: CodeRegistry::new(),
        truth: (0..SLOTS).map(|_| Truth::default()).collect(),
        alive: Arc::default(),
        over: AtomicBool::new(false),
        lookups: AtomicUsize::new(0),
        known: Default::default(),
    };
    for i in (0..SLOTS).step_by(2) {
        world.registry.register(slot(i)..slot(i) + 0x80, Payload::new(i, 0, &world.alive)).unwrap().leak();
    }
    thread::scope(|scope| {
        let world = &world;
        let readers: &[fn(&World, usize)] = &[
            |w, i| w.look_up(i, |pc| w.registry.with(pc, of)),
            #[cfg(feature = "guard")]
            |w, i| {
                let guard = w.registry.pin();
                for i in i..(i + 8).min(SLOTS) {
                    w.look_up(i, |pc| guard.get(pc).map(of));
                }
            },
            #[cfg(feature = "snapshot")]
            |w, i| w.look_up(i, |pc| w.registry.snapshot().get(pc).map(of)),
            |w, i| {
                w.look_up(i, |pc| {
                    let (code, offset) = w.registry.get_owned(pc)?;
                    assert_eq!(offset, 0x7f);
                    code.check();
                    Some((code.slot, code.version))
                });
            },
        ];
        for read in readers {
            scope.spawn(move || {
                while !world.over.load(Ordering::Relaxed) {
                    (0..SLOTS).for_each(|i| read(world, i));
                }
            });
        }
        let writers = [1, 3].map(|from| scope.spawn(move || world.write(from, 4)));
        // An unwinding writer ends the readers too.
        let results = writers.map(|writer| writer.join());
        world.over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let [found, not_found] = &world.known;
    println!("{:?} lookups, {found:?} had to find a passing range, {not_found:?} had not to", world.lookups);
    assert!(found.load(Ordering::Relaxed) > 0 && not_found.load(Ordering::Relaxed) > 0, "nothing was shown");
    world.registry.reclaim();
    let stats = world.registry.stats();
    assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (SLOTS / 2, 0, 0));
    assert_eq!(world.alive.load(Ordering::Relaxed), SLOTS as isize / 2);
    let alive = world.alive.clone();
    drop(world);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
#[cfg(all(feature = "snapshot", feature = "guard"))]
fn a_batch_is_seen_all_or_none() {
    let _alone = alone();
    const BATCH: usize = 150;
    let registry = CodeRegistry::new();
    let alive = Arc::default();
    let over = AtomicBool::new(false);
    let seen = [const { AtomicUsize::new(0) }; 2];
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let snapshot = registry.snapshot();
                    let all: Vec<_> = snapshot.iter().map(of).collect();
                    assert_eq!(snapshot.len(), all.len());
                    assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].1), "two batches at once");
                    // Removals come one by one, from the last slot to the first: the first slot is the last to go.
                    assert!(all.iter().enumerate().all(|(i, (slot, _))| *slot == i), "a hole in a batch");
                    seen[usize::from(all.len() == BATCH)].fetch_add(1, Ordering::Relaxed);

                    // Whoever finds the last of the batch finds the first: it came with it, and goes after it.
                    let guard = registry.pin();
                    if let Some((_, version)) = guard.get(slot(BATCH - 1)).map(of) {
                        match guard.get(slot(0)).map(of) {
                            Some((_, other)) => assert!(other >= version),
                            None => assert!(registry.with(slot(BATCH - 1), of) != Some((BATCH - 1, version))),
                        }
                    }
                }
            });
        }
        // At least until a snapshot fell between a registration and a removal, and another one did not.
        let both_seen = || seen.iter().all(|seen| seen.load(Ordering::Relaxed) > 0);
        for version in (1..).take_while(|version| *version < 150 || !both_seen()) {
            let batch = (0..BATCH).map(|i| (slot(i)..slot(i) + 0x80, Payload::new(i, version, &alive)));
            let mut registrations = registry.register_all(batch).unwrap();
            thread::yield_now();
            while registrations.pop().is_some() {}
        }
        over.store(true, Ordering::Relaxed);
    });
    registry.reclaim();
    assert_eq!(registry.stats().retired_nodes, 0);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn of_two_threads_that_remove_the_same_code_exactly_one_does() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let alive = Arc::default();
    let barrier = Barrier::new(2);
    const ROUNDS: usize = 3_000;
    let ids: Vec<_> = (0..ROUNDS)
        .map(|i| registry.register(slot(i)..slot(i) + 0x80, Payload::new(i, 0, &alive)).unwrap().leak().unwrap())
        .collect();
    let won = [const { AtomicUsize::new(0) }; ROUNDS];
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for (id, won) in ids.iter().zip(&won) {
                    barrier.wait();
                    won.fetch_add(usize::from(registry.unregister(*id).is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(won.iter().all(|won| won.load(Ordering::Relaxed) == 1));
    registry.reclaim();
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
#[cfg(all(feature = "snapshot", feature = "guard"))]
fn a_registry_dropped_with_garbage_pending_leaves_its_snapshots_what_they_see() {
    let _alone = alone();
    for pins in [false, true] {
        let alive = Arc::default();
        let registry = CodeRegistry::new();
        let (send, receive) = std::sync::mpsc::channel::<(trapline::Snapshot<Payload>, u64)>();
        let reader = thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok(pair) = receive.recv() {
                held.push(pair);
            }
            // The registry is gone by now.
            for (snapshot, version) in held {
                let all: Vec<_> = snapshot.iter().map(of).collect();
                assert_eq!(all, (0..90).map(|i| (i, version)).collect::<Vec<_>>());
            }
        });
        for version in 0..20 {
            if pins {
                assert!(registry.pin().get(slot(0)).is_none());
            }
            let batch = (0..90).map(|i| (slot(i)..slot(i) + 0x80, Payload::new(i, version, &alive)));
            let registrations = registry.register_all(batch).unwrap();
            send.send((registry.snapshot(), version)).unwrap();
            if version < 19 {
                drop(registrations);
            } else {
                registrations.into_iter().for_each(|registration| {
                    registration.leak();
                });
            }
        }
        assert!(registry.stats().retired_nodes > 0, "there is garbage pending");
        drop(registry);
        assert_eq!(alive.load(Ordering::Relaxed), 20 * 90, "the snapshots see all of it");
        drop(send);
        reader.join().unwrap();
        assert_eq!(alive.load(Ordering::Relaxed), 0, "with the last snapshot all of it goes");
    }
}
