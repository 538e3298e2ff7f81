//! Looking up while a writer registers and unregisters at full speed.

use super::{Options, short, spread, thousands};
use crate::contenders::{ALL, FLAT, HANDLER, Kind, LOCKED, Lookup, Nothing, make};
use crate::harness::{Times, pin_to, processors};
use crate::section::{Axis, Curve, Glance, Plot, Section, Table};
use crate::world::{Payload, Pcs, Rng, World};
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use hdrhistogram::Histogram;
use std::thread;
use std::time::{Duration, Instant};

/// Numbers of ranges.
const NS: &[usize] = &[16, 1_000, 10_000, 100_000];

/// The parts of all lookups of which the tables say how long they took at most, and their names.
const PARTS: &[(f64, &str)] = &[(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];
/// Of [`PARTS`], the one that contenders are compared by.
const COMPARED: usize = 2;

/// What was measured of one contender.
struct Measured {
    name: &'static str,
    /// Of all turns.
    times: Histogram<u64>,
    /// By [`PARTS`], in nanoseconds.
    parts: Vec<Times>,
    /// Pairs a second.
    writes: Times,
}

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let readers = processors().saturating_sub(1).max(1);
    let (mut tables, mut plots, mut glance) = (Vec::new(), Vec::new(), Vec::new());
    for n in options.ns(NS) {
        let all = measure_n(options, n, readers);
        let of = |name: &str| all.iter().find(|m| m.name == name);
        if let (Some(locked), Some(handler)) = (of(LOCKED), of(HANDLER)) {
            let ratio = locked.parts[COMPARED].ratio_to(&handler.parts[COMPARED]);
            glance.push((Some(n), short(ratio[1])));
            tables.push(table(n, &all, locked));
        }
        if n == 1_000 {
            plots.push(plot(n, &all));
        }
    }
    Section {
        intro: INTRO.replace(
            "{readers}",
            &if readers == 1 { "One thread looks".into() } else { format!("{readers} threads look") },
        ),
        glance: vec![Glance {
            what: "handler's lookup while a writer is at it: how much lower its p99.9 is than the locked map's".into(),
            ratios: glance,
        }],
        tables,
        plots,
        ..Section::default()
    }
}

const INTRO: &str = "One thread registers and unregisters ranges as fast as it can. {readers} up, on other processors if \
    there are any, and every lookup is timed by itself, the clock included; every answer is checked. Guards and \
    snapshots are renewed every 128 lookups. Times are in nanoseconds. Contenders take turns, and the cells are the \
    median of the turns, and the quartiles; the longest time of a turn is what the system did to it as often as not, as \
    the rows without a writer show.";

fn table(n: usize, all: &[Measured], locked: &Measured) -> Table {
    let mut columns = vec![String::new()];
    columns.extend(PARTS.iter().map(|(_, name)| (*name).to_owned()));
    columns.push(format!("{} of the locked map relative to this", PARTS[COMPARED].1));
    columns.push("writer's pairs a second".into());
    let row = |m: &Measured| {
        let parts = m.parts.iter().map(|times| spread(times.quartiles()));
        let ratio = spread(locked.parts[COMPARED].ratio_to(&m.parts[COMPARED]));
        let writes = if m.writes.0.is_empty() { "-".into() } else { thousands(m.writes.median() as usize) };
        [m.name.to_owned()].into_iter().chain(parts).chain([ratio, writes]).collect()
    };
    Table {
        title: format!("{} ranges", thousands(n)),
        columns,
        rows: all.iter().map(row).collect(),
        ..Table::default()
    }
}

fn plot(n: usize, all: &[Measured]) -> Plot {
    let curve = |m: &Measured| {
        // One in so many lookups takes longer.
        let point = |rarity: f64| (rarity, m.times.value_at_quantile(1.0 - 1.0 / rarity).max(1) as f64);
        let known = |rarity: &f64| *rarity <= m.times.len() as f64 / 10.0;
        let rarities = (0..=22).map(|i| 10f64.powf(f64::from(i) / 4.0)).filter(known);
        Curve { name: m.name.into(), points: rarities.map(point).collect() }
    };
    Plot {
        file: "churn".into(),
        title: format!("Lookups while a writer is at it, {} ranges", thousands(n)),
        x: Axis { label: "one lookup in so many ...".into(), logarithmic: true },
        y: Axis { label: "... takes more nanoseconds than".into(), logarithmic: true },
        curves: all.iter().filter(|m| PICTURED.contains(&m.name)).map(curve).collect(),
    }
}

/// Those in the picture.
const PICTURED: &[&str] = &[
    HANDLER,
    "trapline, pinned",
    LOCKED,
    "parking_lot map, no clone",
    "arc-swap of flat",
    "left-right of maps",
    "half_lock of flat",
    "reader count, flat",
    NO_WRITER,
];

const NO_WRITER: &str = "flat, no writer";

fn measure_n(options: &Options, n: usize, readers: usize) -> Vec<Measured> {
    let world = World::new(n);
    let pcs = Known::new(&world);
    let new = |name| Measured {
        name,
        times: histogram(),
        parts: vec![Times::default(); PARTS.len()],
        writes: Times::default(),
    };
    let with_writer = |kind: &&Kind| make(kind, &world).writer().is_some();
    let mut contenders: Vec<(Box<dyn Lookup>, bool, Measured)> =
        ALL.iter().filter(with_writer).map(|kind| (make(kind, &world), true, new(kind.name))).collect();
    contenders
        .extend(ALL.iter().filter(|kind| kind.name == FLAT).map(|kind| (make(kind, &world), false, new(NO_WRITER))));
    contenders.push((Box::new(Nothing), false, new("the clock alone")));
    for _ in 0..options.turns(7) {
        for (contender, writes, measured) in &mut contenders {
            let time = Duration::from_millis(options.millis(150));
            let (times, rate) = churn(&**contender, *writes, &world, &pcs, readers, time);
            for ((part, _), into) in PARTS.iter().zip(&mut measured.parts) {
                into.0.push(times.value_at_quantile(*part) as f64);
            }
            measured.writes.0.extend(rate);
            measured.times.add(&times).expect("of the same kind");
        }
    }
    contenders.into_iter().map(|(.., measured)| measured).collect()
}

/// Pcs and the answers to them.
struct Known(Vec<(usize, usize)>);

impl Known {
    fn new(world: &World) -> Self {
        let mut starts: Vec<_> = world.live.iter().map(|(range, payload)| (range.start, payload.id)).collect();
        starts.sort_unstable();
        let answer = |pc: usize| (pc, starts[starts.partition_point(|(start, _)| *start <= pc) - 1].1);
        Self(world.pcs(1 << 14, Pcs::Uniform).into_iter().map(answer).collect())
    }
}

fn histogram() -> Histogram<u64> {
    const HOUR: u64 = 3_600_000_000_000;
    Histogram::new_with_bounds(1, HOUR, 3).expect("sensible bounds")
}

/// The times of the lookups, and the writer's pairs a second.
fn churn(
    contender: &dyn Lookup,
    writes: bool,
    world: &World,
    pcs: &Known,
    readers: usize,
    time: Duration,
) -> (Histogram<u64>, Option<f64>) {
    let checked = writes || !world.live.is_empty();
    let (ready, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let all = readers + usize::from(writes);
    let meet = || {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < all {
            thread::yield_now();
            spin_loop();
        }
    };
    let read = |i: usize| {
        // Not where the writer is, if that is possible.
        pin_to(1 + i);
        let mut times = histogram();
        let mut session = contender.session();
        meet();
        for batch in pcs.0.chunks(128).cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            for (pc, expected) in batch {
                let begin = Instant::now();
                let id = session.one(*pc);
                let time = begin.elapsed();
                times.record(time.as_nanos() as u64).expect("less than an hour");
                assert!(id == *expected || id == *pc || !checked, "a wrong answer");
            }
            session.renew();
        }
        times
    };
    let write = || {
        let writer = contender.writer()?;
        pin_to(0);
        let payload = Payload::new(0);
        let mut rng = Rng::new(4711);
        meet();
        let begin = Instant::now();
        let mut pairs = 0;
        while !over.load(Ordering::Relaxed) {
            writer.pair(&world.free[rng.below(world.free.len())], &payload);
            pairs += 1;
        }
        Some(f64::from(pairs) / begin.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let (read, write) = (&read, &write);
        let reading: Vec<_> = (0..readers).map(|i| scope.spawn(move || read(i))).collect();
        let writing = writes.then(|| scope.spawn(write));
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let mut times = histogram();
        for reader in reading {
            times.add(black_box(reader.join().expect("no panics"))).expect("of the same kind");
        }
        (times, writing.and_then(|writer| writer.join().expect("no panics")))
    })
}
