//! Who is measured.

use crate::world::{Payload, World, range_of};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use trapline::CodeRegistry;

/// A run of lookups: as many as there are from one `pcs` index to another, each reading the payload.
pub struct Job<'p> {
    /// What is looked up: a power of two of them.
    pub pcs: &'p [usize],
    /// The index of the first.
    pub first: usize,
    /// How many lookups.
    pub count: usize,
    /// Whether each lookup waits for the answer of the one before.
    pub dependent: bool,
}

impl Job<'_> {
    /// Does it. The result depends on every answer.
    #[inline(always)]
    pub fn run(&self, look_up: impl Fn(usize) -> (usize, usize)) -> usize {
        let mask = self.pcs.len() - 1;
        let (mut sum, mut at) = (0, self.first);
        if self.dependent {
            for _ in 0..self.count {
                let (id, zero) = look_up(self.pcs[at & mask]);
                sum ^= id;
                at += 1 + zero;
            }
        } else {
            for _ in 0..self.count {
                sum ^= look_up(self.pcs[at & mask]).0;
                at += 1;
            }
        }
        sum
    }
}

#[inline(always)]
fn read(payload: &Payload) -> (usize, usize) {
    (payload.id, payload.zero)
}

/// Someone who looks up pcs.
pub trait Lookup: Sync {
    /// Does a run of lookups, all of which hit.
    fn run(&self, job: &Job<'_>) -> usize;
}

/// Someone who registers ranges.
pub trait Write: Sync {
    /// Registers the range of a place, and unregisters it again.
    fn pair(&self, place: usize, payload: &Arc<Payload>);
}

/// A registry with a world in it. Never freed: registrations borrow it.
pub fn registry(world: &World) -> &'static CodeRegistry<Payload> {
    let registry: &'static CodeRegistry<Payload> = Box::leak(Box::default());
    for (place, payload) in &world.live {
        registry.register(range_of(*place), payload.clone()).expect("places do not overlap").leak();
    }
    registry
}

/// trapline, as a signal handler looks up.
pub struct Handler(pub &'static CodeRegistry<Payload>);

impl Lookup for Handler {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| self.0.with(pc, |found| read(found.payload())).expect("all hit"))
    }
}

impl Write for Handler {
    fn pair(&self, place: usize, payload: &Arc<Payload>) {
        drop(self.0.register(range_of(place), payload.clone()).expect("the place is free"));
    }
}

/// trapline, under one guard for the whole run.
pub struct Pinned(pub &'static CodeRegistry<Payload>);

impl Lookup for Pinned {
    fn run(&self, job: &Job<'_>) -> usize {
        let guard = self.0.pin();
        job.run(|pc| read(guard.get(pc).expect("all hit").payload()))
    }
}

/// trapline, with a guard for each lookup.
pub struct PinEach(pub &'static CodeRegistry<Payload>);

impl Lookup for PinEach {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| read(self.0.pin().get(pc).expect("all hit").payload()))
    }
}

/// trapline, in a snapshot that is kept.
pub struct Kept(pub trapline::Snapshot<Payload>);

impl Lookup for Kept {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| read(self.0.get(pc).expect("all hit").payload()))
    }
}

/// What engines have today: a map from the last address of a range, behind a lock, and a clone of the `Arc` because the
/// lock is not held while the answer is used.
#[derive(Default)]
pub struct Locked(RwLock<BTreeMap<usize, (usize, Arc<Payload>)>>);

impl Locked {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let this = Self::default();
        for (place, payload) in &world.live {
            this.insert(*place, payload);
        }
        this
    }

    fn insert(&self, place: usize, payload: &Arc<Payload>) {
        let range = range_of(place);
        let before = self.0.write().expect("no panics").insert(range.end - 1, (range.start, payload.clone()));
        assert!(before.is_none());
    }
}

impl Lookup for Locked {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| {
            let payload = {
                let map = self.0.read().expect("no panics");
                let (_, (start, payload)) = map.range(pc..).next().expect("all hit");
                assert!(*start <= pc);
                payload.clone()
            };
            read(&payload)
        })
    }
}

impl Write for Locked {
    fn pair(&self, place: usize, payload: &Arc<Payload>) {
        self.insert(place, payload);
        let removed = self.0.write().expect("no panics").remove(&(range_of(place).end - 1));
        assert!(removed.is_some());
    }
}

/// The limit: sorted arrays that nothing protects, keys apart from the rest.
pub struct Flat {
    starts: Vec<usize>,
    rest: Vec<(usize, Arc<Payload>)>,
}

impl Flat {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let triples = Triples::new(world);
        Self {
            starts: triples.0.iter().map(|t| t.0).collect(),
            rest: triples.0.into_iter().map(|t| (t.1, t.2)).collect(),
        }
    }

    #[inline(always)]
    fn find(&self, pc: usize) -> Option<&Payload> {
        let i = self.starts.partition_point(|start| *start <= pc).checked_sub(1)?;
        let (end, payload) = &self.rest[i];
        (pc < *end).then_some(payload)
    }
}

impl Lookup for Flat {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| read(self.find(pc).expect("all hit")))
    }
}

/// The same as one array of start, end, payload.
pub struct Triples(Vec<(usize, usize, Arc<Payload>)>);

impl Triples {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        let triple = |(place, payload): &(usize, Arc<Payload>)| {
            let range = range_of(*place);
            (range.start, range.end, payload.clone())
        };
        let mut triples: Vec<_> = world.live.iter().map(triple).collect();
        triples.sort_unstable_by_key(|t| t.0);
        Self(triples)
    }
}

impl Lookup for Triples {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| {
            let i = self.0.partition_point(|t| t.0 <= pc) - 1;
            let (_, end, payload) = &self.0[i];
            assert!(pc < *end);
            read(payload)
        })
    }
}

/// The flat arrays, in an arc-swap: what one writes to get rid of the lock, if handlers do not matter.
pub struct Swapped(ArcSwap<Flat>);

impl Swapped {
    /// With a world in it.
    pub fn new(world: &World) -> Self {
        Self(ArcSwap::from_pointee(Flat::new(world)))
    }
}

impl Lookup for Swapped {
    fn run(&self, job: &Job<'_>) -> usize {
        job.run(|pc| read(self.0.load().find(pc).expect("all hit")))
    }
}

/// Everyone who looks up, by name; the first is the limit, the second what engines have today.
pub fn lookups(world: &World) -> Vec<(&'static str, Box<dyn Lookup>)> {
    let registry = registry(world);
    vec![
        ("flat, unprotected", Box::new(Flat::new(world))),
        ("locked map", Box::new(Locked::new(world))),
        ("trapline, handler", Box::new(Handler(registry))),
        ("trapline, pinned", Box::new(Pinned(registry))),
        ("trapline, pin each", Box::new(PinEach(registry))),
        ("trapline, snapshot", Box::new(Kept(registry.snapshot()))),
        ("arc-swap of flat", Box::new(Swapped::new(world))),
        ("triples, unprotected", Box::new(Triples::new(world))),
    ]
}
