//! Registering and unregistering: one by one and many at once, alone and beside others.

use super::{Options, short, spread, thousands};
use crate::contenders::table::{Map, Table as _};
use crate::contenders::{ALL, HANDLER, LOCKED, Lookup, Write, make};
use crate::harness::{Control, Times, on_threads, processors, rate, while_reading};
use crate::section::{Axis, Curve, Glance, Plot, Section, Table};
use crate::world::{Payload, Pcs, Rng, World};
use core::hint::black_box;
use core::ops::Range;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use trapline::CodeRegistry;

/// Numbers of ranges.
const NS: &[usize] = &[16, 1_000, 10_000, 100_000, 1_000_000];

/// Those that differ as writers. The first is what the others are compared with.
pub const WRITERS: &[&str] = &[
    LOCKED,
    HANDLER,
    "parking_lot map, no clone",
    "left-right of maps",
    "arc-swap of flat",
    "left-right of flat",
    "half_lock of flat",
    "reader count, flat",
];

/// Beside whom.
const SCENES: &[&str] = &["alone", "with a reader on every processor", "two writers, each on a processor"];

/// What was measured: nanoseconds of a pair, by scene and by [`WRITERS`]; without turns if not measured.
struct Measured {
    n: usize,
    times: Vec<Vec<Times>>,
}

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let control = Control::new();
    let all: Vec<_> = options.ns(NS).into_iter().map(|n| measure_n(options, n, &control)).collect();
    let batches: Vec<_> = options.ns(&NS[1..]).into_iter().map(|n| measure_batches(options, n)).collect();
    let ratios = |f: &dyn Fn(&Measured) -> [f64; 3]| all.iter().map(|m| (Some(m.n), short(f(m)[1]))).collect();
    let glance = vec![
        Glance {
            what: "register and unregister: time relative to the locked map".into(),
            ratios: ratios(&|m| m.times[0][1].ratio_to(&m.times[0][0])),
        },
        Glance {
            what: "the same with a reader on every processor".into(),
            ratios: ratios(&|m| m.times[1][1].ratio_to(&m.times[1][0])),
        },
    ];
    let mut tables = Vec::new();
    for (scene, title) in SCENES.iter().enumerate() {
        tables.push(pairs_table(&all, scene, title));
    }
    tables.push(scaling_table(&all));
    tables.push(batch_table(&batches));
    Section { intro: INTRO.into(), glance, tables, plots: plots(&all), ..Section::default() }
}

const INTRO: &str = "A pair is one registration and its removal, at a random free place among so many ranges. Contenders \
    take turns; cells are the median over the turns, and the quartiles. Tables that are copied as a whole, or in which \
    all that follows is moved, are left out where that takes too long. A reader looks up without a pause, in batches of \
    64; the writer shares its processor with one of them, so that there even the best writer takes twice the time. A dash \
    says that not one pair was done in a turn of 80 ms. Each of our writes swaps an arc-swap, which walks a record of each \
    thread that ever used one; peers and readers here leave several of these, 10 ns each.";

fn pairs_table(all: &[Measured], scene: usize, title: &str) -> Table {
    let mut columns = vec!["ranges".to_owned()];
    columns.extend(all.iter().map(|m| thousands(m.n)));
    let row = |(i, name): (usize, &&str)| {
        let cell = |m: &Measured| match &m.times[scene][i] {
            times if times.0.is_empty() => String::new(),
            times => format!("{}: {}", short(times.median()), spread(times.ratio_to(&m.times[scene][0]))),
        };
        [(*name).to_owned()].into_iter().chain(all.iter().map(cell)).collect()
    };
    Table {
        title: format!("A pair, {title}"),
        note: "Nanoseconds of a pair on each writing thread: time relative to the locked map.".into(),
        columns,
        rows: WRITERS.iter().enumerate().map(row).collect(),
    }
}

fn scaling_table(all: &[Measured]) -> Table {
    let mut columns = vec!["ranges".to_owned()];
    columns.extend(all.iter().map(|m| thousands(m.n)));
    let row = |(i, name): (usize, &&str)| {
        let cell = |m: &Measured| match &m.times[0][i] {
            times if times.0.is_empty() => String::new(),
            times => spread(times.ratio_to(&m.times[2][i]).map(|ratio| 2.0 * ratio)),
        };
        [(*name).to_owned()].into_iter().chain(all.iter().map(cell)).collect()
    };
    Table {
        title: "Two writers: pairs of both together, relative to one alone".into(),
        note:
            "Everybody here has one lock for all writers: 1 is the most there can be, apart from what is done outside \
               of it."
                .into(),
        columns,
        rows: WRITERS.iter().enumerate().map(row).collect(),
    }
}

fn measure_n(options: &Options, n: usize, control: &Control) -> Measured {
    let world = World::new(n);
    let pcs = world.pcs(1 << 16, Pcs::Uniform);
    let payload = Payload::new(0);
    let kinds: Vec<_> = WRITERS.iter().filter_map(|name| ALL.iter().find(|kind| kind.name == *name)).collect();
    let contenders: Vec<Option<Box<dyn Lookup>>> =
        kinds.iter().map(|kind| (n <= 10_000 || !kind.copies).then(|| make(kind, &world))).collect();
    let mut times = vec![vec![Times::default(); WRITERS.len()]; SCENES.len()];
    let turns = options.turns(if n > 100_000 { 5 } else { 9 });
    // The first one warms up.
    let mut turn = 0;
    control.turns(turns + 1, || {
        for (i, (kind, contender)) in kinds.iter().zip(&contenders).enumerate() {
            let Some(contender) = contender else { continue };
            let Some(writer) = contender.writer() else { continue };
            // Those take long.
            let count = if kind.copies && n > 1_000 { 10 } else { 500 };
            let mut note = |scene: usize, time| {
                if turn > 0 {
                    times[scene][i].0.push(time);
                }
            };
            let part = |half: usize, halves: usize| {
                &world.free[half * world.free.len() / halves..(half + 1) * world.free.len() / halves]
            };
            note(0, on_threads(1, 9, count, |_, slice| pairs(writer, count, part(0, 1), slice, &payload)));
            // A lock that is not fair lets one of them have many turns, and a writer that shares its processor waits
            // for its own: only a time with many of those says anything.
            let steady = |writers: usize, time: u64| {
                let time = Duration::from_millis(options.millis(time));
                let payload = &payload;
                let rate = rate(writers, time, |thread| {
                    let mut slice = 0;
                    move || {
                        slice += 1;
                        pairs(writer, 4, part(thread, writers), slice, payload)
                    }
                });
                1e9 * writers as f64 / rate
            };
            note(2, steady(2, 50));
            if turn <= options.turns(7) {
                note(1, while_reading(&**contender, &pcs, 0..processors(), || steady(1, 80)));
            }
        }
        turn += 1;
    });
    Measured { n, times }
}

/// So many pairs at random ones of these places.
fn pairs(writer: &dyn Write, count: usize, free: &[Range<usize>], slice: usize, payload: &Arc<Payload>) -> usize {
    let mut rng = Rng::new(4711 + slice as u64);
    (0..count).for_each(|_| writer.pair(&free[rng.below(free.len())], payload));
    count
}

/// Nanoseconds for each range, by [`BATCHES`].
struct Batches {
    n: usize,
    times: Vec<Times>,
}

const BATCHES: &[&str] = &[
    "load: `register_all`",
    "load: `register` one by one",
    "load: locked map, one by one",
    "load: locked map, all under one lock",
    "unload: registrations dropped one by one",
    "unload: the registry dropped",
    "unload: locked map, one by one",
    "unload: the map dropped",
];
/// What each is compared with: the locked map, one by one.
const BATCH_BASE: &[usize] = &[2, 2, 2, 2, 6, 6, 6, 6];

fn batch_table(all: &[Batches]) -> Table {
    let mut columns = vec!["ranges".to_owned()];
    columns.extend(all.iter().map(|batches| thousands(batches.n)));
    let row = |(i, name): (usize, &&str)| {
        let cell = |batches: &Batches| {
            let (times, base) = (&batches.times[i], &batches.times[BATCH_BASE[i]]);
            format!("{}: {}", short(times.median()), spread(times.ratio_to(base)))
        };
        [(*name).to_owned()].into_iter().chain(all.iter().map(cell)).collect()
    };
    Table {
        title: "Many at once".into(),
        note: "Into an empty registry, in random order, and out of it again. Nanoseconds for each range: time relative to \
               the locked map, one by one."
            .into(),
        columns,
        rows: BATCHES.iter().enumerate().map(row).collect(),
    }
}

fn measure_batches(options: &Options, n: usize) -> Batches {
    let world = World::new(n);
    let mut times = vec![Times::default(); BATCHES.len()];
    let turns = options.turns(if n > 100_000 { 3 } else { 7 });
    for turn in 0..=turns {
        // Small ones are too short to be timed once.
        let rounds = (20_000 / n).max(1);
        let mut sums = [0.0; BATCHES.len()];
        for _ in 0..rounds {
            batches(&world, &mut |i, time| sums[i] += time.as_nanos() as f64);
        }
        if turn > 0 {
            times.iter_mut().zip(sums).for_each(|(times, sum)| times.0.push(sum / (rounds * n) as f64));
        }
    }
    Batches { n, times }
}

fn batches(world: &World, note: &mut dyn FnMut(usize, Duration)) {
    let timed = |note: &mut dyn FnMut(usize, Duration), i: usize, begin: Instant| note(i, begin.elapsed());
    {
        let registry: CodeRegistry<Payload> = CodeRegistry::new();
        // Whoever loads a batch has it already.
        let batch: Vec<_> = world.live.clone();
        let begin = Instant::now();
        let registrations = registry.register_all(batch).expect("places do not overlap");
        timed(note, 0, begin);
        black_box(registrations).into_iter().for_each(|registration| _ = registration.leak());
        let begin = Instant::now();
        drop(registry);
        timed(note, 5, begin);
    }
    {
        let registry: CodeRegistry<Payload> = CodeRegistry::new();
        let mut registrations = Vec::with_capacity(world.live.len());
        let begin = Instant::now();
        for (range, payload) in &world.live {
            registrations.push(registry.register(range.clone(), payload.clone()).expect("places do not overlap"));
        }
        timed(note, 1, begin);
        let begin = Instant::now();
        drop(black_box(registrations));
        timed(note, 4, begin);
    }
    {
        let map = RwLock::new(Map::default());
        let begin = Instant::now();
        for (range, payload) in &world.live {
            map.write().expect("no panics").insert(range, payload.clone());
        }
        timed(note, 2, begin);
        let begin = Instant::now();
        for (range, _) in &world.live {
            drop(map.write().expect("no panics").remove(range));
        }
        timed(note, 6, begin);
    }
    {
        let map = RwLock::new(Map::default());
        let begin = Instant::now();
        {
            let mut map = map.write().expect("no panics");
            world.live.iter().for_each(|(range, payload)| map.insert(range, payload.clone()));
        }
        timed(note, 3, begin);
        let begin = Instant::now();
        drop(black_box(map));
        timed(note, 7, begin);
    }
}

fn plots(all: &[Measured]) -> Vec<Plot> {
    let curve = |scene: usize, i: usize| {
        let measured = all.iter().filter(|m| !m.times[scene][i].0.is_empty());
        let points =
            measured.map(|m| (m.n as f64, m.times[scene][i].median())).filter(|(_, time)| time.is_finite()).collect();
        Curve { name: WRITERS[i].into(), points }
    };
    let plot = |(scene, file): (usize, &str)| Plot {
        file: file.into(),
        title: format!("Registering and unregistering, {}", SCENES[scene]),
        x: Axis { label: "ranges".into(), logarithmic: true },
        y: Axis { label: "nanoseconds for a pair".into(), logarithmic: true },
        curves: (0..WRITERS.len()).map(|i| curve(scene, i)).collect(),
    };
    [(0, "write"), (1, "write-with-readers")].map(plot).to_vec()
}
