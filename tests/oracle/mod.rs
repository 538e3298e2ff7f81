//! A naive registry beside the real one: the same operations on both, and every answer compared.
#![cfg_attr(not(all(feature = "snapshot", feature = "guard")), allow(dead_code))]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "snapshot")]
use trapline::Snapshot;
use trapline::{CodeId, CodeRegistry, RegisterError, UnregisterError};

/// What is registered: it knows its number, and counts itself while it is alive.
pub struct Payload {
    number: u64,
    alive: Arc<AtomicUsize>,
}

impl Payload {
    fn new(number: u64, alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, alive: alive.clone() })
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.number = u64::MAX;
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something to do to both.
#[derive(Clone, Debug)]
pub enum Op {
    Register(Range<usize>),
    RegisterAll(Vec<Range<usize>>),
    /// Which of the live registrations, or of the removed ones.
    Unregister(usize),
    UnregisterStale(usize),
    Lookup(usize),
    TakeSnapshot,
    DropSnapshot(usize),
    Reclaim,
    CompareAll,
}

type Map = BTreeMap<usize, (usize, u64)>;

pub struct Oracle {
    registry: CodeRegistry<Payload>,
    map: Map,
    ids: Vec<(CodeId, usize)>,
    stale: Vec<CodeId>,
    #[cfg(feature = "snapshot")]
    snapshots: Vec<(Snapshot<Payload>, Map)>,
    next: u64,
    alive: Arc<AtomicUsize>,
    pins: bool,
}

fn find(map: &Map, pc: usize) -> Option<(Range<usize>, u64)> {
    let (&start, &(end, number)) = map.range(..=pc).next_back()?;
    (pc < end).then_some((start..end, number))
}

fn overlapping(map: &Map, range: &Range<usize>) -> Option<Range<usize>> {
    let (&start, &(end, _)) = map.range(..range.end).next_back()?;
    (end > range.start).then_some(start..end)
}

impl Oracle {
    /// `pins`: also look up through guards, which changes how garbage is freed.
    pub fn new(pins: bool) -> Self {
        Self {
            registry: CodeRegistry::new(),
            map: Map::new(),
            ids: Vec::new(),
            stale: Vec::new(),
            #[cfg(feature = "snapshot")]
            snapshots: Vec::new(),
            next: 0,
            alive: Arc::default(),
            pins,
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Register(range) => self.register(range.clone()),
            Op::RegisterAll(ranges) => self.register_all(ranges),
            Op::Unregister(which) => {
                if !self.ids.is_empty() {
                    let (id, start) = self.ids.swap_remove(which % self.ids.len());
                    assert!(self.registry.unregister(id).is_ok());
                    self.map.remove(&start);
                    self.stale.push(id);
                    self.look_up(start);
                }
            }
            Op::UnregisterStale(which) => {
                if !self.stale.is_empty() {
                    let id = self.stale[which % self.stale.len()];
                    assert_eq!(self.registry.unregister(id), Err(UnregisterError::NotRegistered { id }));
                }
            }
            Op::Lookup(pc) => self.look_up(*pc),
            #[cfg(feature = "snapshot")]
            Op::TakeSnapshot => self.snapshots.push((self.registry.snapshot(), self.map.clone())),
            #[cfg(feature = "snapshot")]
            Op::DropSnapshot(which) => {
                if !self.snapshots.is_empty() {
                    let which = which % self.snapshots.len();
                    self.compare(&self.snapshots[which].0, &self.snapshots[which].1);
                    self.snapshots.swap_remove(which);
                }
            }
            Op::Reclaim => self.reclaim(),
            #[cfg(not(feature = "snapshot"))]
            Op::TakeSnapshot | Op::DropSnapshot(_) => {}
            Op::CompareAll => {
                self.compare_all();
                #[cfg(feature = "snapshot")]
                for (snapshot, map) in &self.snapshots {
                    self.compare(snapshot, map);
                }
            }
        }
        assert_eq!(self.registry.stats().live_ranges, self.map.len());
    }

    fn register(&mut self, range: Range<usize>) {
        let number = self.next;
        self.next += 1;
        let before = self.registry.stats().live_bytes;
        let result = self.registry.register(range.clone(), Payload::new(number, &self.alive));
        if result.is_err() {
            assert_eq!(self.registry.stats().live_bytes, before, "a registration that failed left nodes behind");
        }
        if range.start > range.end {
            assert_eq!(result.map(|_| ()).unwrap_err(), RegisterError::Inverted { range });
        } else if range.is_empty() {
            assert!(result.unwrap().id().is_none());
        } else if let Some(existing) = overlapping(&self.map, &range) {
            match result.map(|_| ()).unwrap_err() {
                RegisterError::Overlap { range: named, existing: other } => {
                    assert_eq!(named, range);
                    // Either end of the range may meet something: any culprit will do, if it is one.
                    assert!(
                        overlapping(&self.map, &other).is_some() && other.start < range.end && range.start < other.end
                    );
                    assert_eq!(self.map.get(&other.start).map(|e| e.0), Some(other.end), "not {existing:?}");
                }
                other => panic!("{other}"),
            }
        } else {
            let id = result.unwrap().leak().unwrap();
            self.map.insert(range.start, (range.end, number));
            self.ids.push((id, range.start));
            self.look_up(range.start);
            self.look_up(range.end - 1);
            self.look_up(range.end);
        }
    }

    fn register_all(&mut self, ranges: &[Range<usize>]) {
        let mut after = self.map.clone();
        let mut fine = true;
        let mut batch = Vec::new();
        for range in ranges {
            let number = self.next;
            self.next += 1;
            fine &= range.start <= range.end;
            if !range.is_empty() {
                fine &= overlapping(&after, range).is_none();
                after.insert(range.start, (range.end, number));
            }
            batch.push((range.clone(), Payload::new(number, &self.alive)));
        }
        let before = self.registry.stats().live_bytes;
        let result = self.registry.register_all(batch);
        if result.is_err() {
            assert_eq!(self.registry.stats().live_bytes, before, "a batch that failed left nodes behind");
        }
        match result {
            Ok(registrations) => {
                assert!(fine, "a batch with a bad range was taken");
                assert_eq!(registrations.len(), ranges.len());
                for (registration, range) in registrations.into_iter().zip(ranges) {
                    assert_eq!(registration.id().is_none(), range.is_empty());
                    if let Some(id) = registration.leak() {
                        self.ids.push((id, range.start));
                    }
                }
                self.map = after;
            }
            Err(error) => assert!(!fine, "{error}"),
        }
        self.compare_all();
    }

    fn look_up(&self, pc: usize) {
        let wanted = find(&self.map, pc);
        let got = self.registry.with(pc, |found| {
            assert_eq!(found.offset(), pc - found.range().start);
            (found.range(), found.payload().number)
        });
        assert_eq!(got, wanted, "pc {pc:#x}");
        #[cfg(feature = "guard")]
        if self.pins {
            let guard = self.registry.pin();
            let got = guard.get(pc).map(|found| (found.range(), found.payload().number));
            assert_eq!(got, wanted, "pinned, pc {pc:#x}");
        }
        let id = self.registry.with(pc, |found| found.id());
        let start = wanted.map(|(range, _)| range.start);
        assert_eq!(id.and_then(|id| self.ids.iter().find(|i| i.0 == id)).map(|i| i.1), start);
    }

    /// Everything that is registered, and nothing else.
    fn compare_all(&self) {
        assert_eq!(self.registry.stats().live_ranges, self.map.len());
        self.registry.view(|view| {
            for (start, (end, number)) in &self.map {
                let found = view.get(*start).map(|found| (found.range(), found.payload().number));
                assert_eq!(found, Some((*start..*end, *number)));
            }
        });
        #[cfg(feature = "snapshot")]
        self.compare(&self.registry.snapshot(), &self.map);
    }

    #[cfg(feature = "snapshot")]
    fn compare(&self, snapshot: &Snapshot<Payload>, map: &Map) {
        assert_eq!(snapshot.len(), map.len());
        let mut all = snapshot.into_iter();
        for (left, (start, (end, number))) in (0..map.len()).rev().zip(map) {
            let found = all.next().map(|found| (found.range(), found.payload().number));
            assert_eq!((found, all.size_hint()), (Some((*start..*end, *number)), (0, Some(left))));
        }
        assert!(all.next().is_none() && all.next().is_none());
        for (start, (end, number)) in map.iter().take(100) {
            for pc in [*start, end - 1] {
                assert_eq!(snapshot.get(pc).map(|found| found.payload().number), Some(*number));
            }
            assert_eq!(snapshot.get(*end).map(|f| f.payload().number), find(map, *end).map(|(_, number)| number));
        }
    }

    fn reclaim(&self) {
        self.registry.reclaim();
        let stats = self.registry.stats();
        #[cfg(feature = "snapshot")]
        let (alone, seen) = (self.snapshots.is_empty(), self.snapshots.iter().flat_map(|(_, map)| map.values()));
        #[cfg(not(feature = "snapshot"))]
        let (alone, seen) = (true, std::iter::empty::<&(usize, u64)>());
        if alone {
            assert_eq!((stats.retired_nodes, stats.retired_ranges, stats.retired_bytes), (0, 0, 0));
            assert_eq!(stats.live_bytes == 0, self.map.is_empty());
        }
        // Exactly what the registry or some snapshot still finds is alive.
        let mut numbers: Vec<u64> = self.map.values().map(|e| e.1).collect();
        numbers.extend(seen.map(|e| e.1));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(self.alive.load(Ordering::Relaxed), numbers.len());
    }

    /// Drops the registry, then the snapshots, and checks that nothing is left.
    pub fn end(self) {
        self.compare_all();
        self.reclaim();
        let Self { registry, alive, .. } = self;
        drop(registry);
        #[cfg(feature = "snapshot")]
        for (snapshot, map) in self.snapshots {
            for (start, (_, number)) in map {
                assert_eq!(snapshot.get(start).unwrap().payload().number, number);
            }
        }
        assert_eq!(alive.load(Ordering::Relaxed), 0, "payloads left over");
    }
}
