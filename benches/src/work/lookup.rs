//! Looking up: warm and cold, one after another and one for another, by one thread and by several.

use super::{Options, short, spread, thousands};
use crate::cold::{Sweep, shot};
use crate::contenders::{ALL, FLAT, HANDLER, Kind, LOCKED, Loader, Lookup, Nothing, PINNED, by_name, make, objects};
use crate::harness::{Control, Times, median, pin_to, processors, throughput, time_lookups};
use crate::section::{Axis, Curve, Glance, Plot, Section, Table};
use crate::world::{Pcs, Rng, World};
use core::hint::black_box;
use std::thread;
use std::time::Duration;

/// Numbers of ranges.
const NS: &[usize] = &[1, 16, 1_000, 10_000, 100_000, 1_000_000];

/// A way to do many lookups.
struct Mode {
    title: &'static str,
    pcs: Pcs,
    threads: usize,
    dependent: bool,
}

const MODES: &[Mode] = &[
    Mode { title: "Independent lookups, one thread", pcs: Pcs::Uniform, threads: 1, dependent: false },
    Mode { title: "Independent lookups, two threads", pcs: Pcs::Uniform, threads: 2, dependent: false },
    Mode {
        title: "Each lookup waits for the last one's answer, one thread",
        pcs: Pcs::Uniform,
        threads: 1,
        dependent: true,
    },
    Mode { title: "Skewed: a few ranges most of the time, one thread", pcs: Pcs::Skewed, threads: 1, dependent: false },
    Mode { title: "Misses, one thread", pcs: Pcs::Misses, threads: 1, dependent: false },
];
const ONE: usize = 0;
const TWO: usize = 1;
const DEPENDENT: usize = 2;

/// The threads of the table of throughputs.
const THREADS: &[usize] = &[1, 2, 4, 8];

/// What was measured of one number of ranges: of each contender, in the order of [`ALL`].
struct Measured {
    n: usize,
    /// By mode.
    warm: Vec<Vec<Times>>,
    /// By [`THREADS`], lookups a second; empty if not measured for this number.
    throughput: Vec<Vec<Times>>,
    /// First with the code in the caches, then without.
    cold: [Vec<Times>; 2],
    dropped: usize,
}

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let mut sweep = Sweep::new();
    let control = Control::new();
    let all: Vec<_> = options.ns(NS).into_iter().map(|n| measure_n(options, n, &control, &mut sweep)).collect();
    let index = |name: &str| ALL.iter().position(|kind| kind.name == name).unwrap_or(0);
    let (flat, locked, handler, pinned) = (index(FLAT), index(LOCKED), index(HANDLER), index(PINNED));
    let by_n = |f: &dyn Fn(&Measured) -> [f64; 3]| all.iter().map(|m| (Some(m.n), short(f(m)[1]))).collect();

    let glance = vec![
        Glance {
            what: "handler's lookup: time relative to a flat array that nothing protects".into(),
            ratios: by_n(&|m| m.warm[ONE][handler].ratio_to(&m.warm[ONE][flat])),
        },
        Glance {
            what: "the same under a guard".into(),
            ratios: by_n(&|m| m.warm[ONE][pinned].ratio_to(&m.warm[ONE][flat])),
        },
        Glance {
            what: "handler's lookup, data out of cold caches: time relative to the flat array".into(),
            ratios: by_n(&|m| m.cold[0][handler].ratio_to(&m.cold[0][flat])),
        },
        Glance {
            what: "the same, code out of cold caches as well".into(),
            ratios: by_n(&|m| m.cold[1][handler].ratio_to(&m.cold[1][flat])),
        },
        Glance {
            what: "handler's lookup: speed relative to the locked map, 1 thread".into(),
            ratios: by_n(&|m| m.warm[ONE][locked].ratio_to(&m.warm[ONE][handler])),
        },
        Glance {
            what: "the same, 2 threads".into(),
            ratios: by_n(&|m| m.warm[TWO][locked].ratio_to(&m.warm[TWO][handler])),
        },
        Glance {
            what: "handlers' lookups: throughput on 2 threads relative to 1".into(),
            ratios: by_n(&|m| scaling(m, handler)),
        },
    ];

    let mut tables = Vec::new();
    for (mode, Mode { title, .. }) in MODES.iter().enumerate() {
        let note = if mode == ONE { note_on_times(&all) } else { String::new() };
        let ratio = |m: &Measured, i: usize| m.warm[mode][i].ratio_to(&m.warm[mode][flat]);
        tables.push(table(&format!("{title}: time relative to flat"), &note, &all, &ratio, "flat, ns", |m| {
            m.warm[mode][flat].median()
        }));
    }
    for (mode, title) in [(ONE, "one thread"), (TWO, "two threads")] {
        let ratio = |m: &Measured, i: usize| m.warm[mode][locked].ratio_to(&m.warm[mode][i]);
        let title = format!("Independent lookups, {title}: speed relative to the locked map");
        tables.push(table(&title, "", &all, &ratio, "locked map, ns", |m| m.warm[mode][locked].median()));
    }
    let note = "Of independent lookups, in lookups a second; 2 is the most there can be.";
    let title = "Throughput on two threads relative to one";
    tables.push(table(title, note, &all, &scaling, "flat, million lookups a second on two threads", |m| {
        2e3 / m.warm[TWO][flat].median()
    }));
    tables.extend(all.iter().filter(|m| !m.throughput.is_empty()).map(throughput_table));
    for (code, title) in ["Cold data", "Cold data and cold code"].into_iter().enumerate() {
        let note =
            if code == 0 { COLD_NOTE.replace("{bytes}", &(sweep.bytes() >> 20).to_string()) } else { String::new() };
        let ratio = |m: &Measured, i: usize| m.cold[code][i].ratio_to(&m.cold[code][flat]);
        let title = format!("{title}, single lookups: time relative to flat");
        tables.push(table(&title, &note, &all, &ratio, "flat, ns", |m| m.cold[code][flat].median()));
    }
    tables.extend(loader_table(options, &control));

    let dropped: usize = all.iter().map(|m| m.dropped).sum();
    Section {
        intro: format!("{INTRO} {dropped} turns were dropped for want of two processors."),
        glance,
        tables,
        plots: plots(&all),
        ..Section::default()
    }
}

const INTRO: &str = "Lookups that read the payload, of pcs in ranges that are there unless said otherwise: uniform over \
    the ranges. Contenders take turns; a ratio is taken within a turn. The cells are the median over the turns, and the \
    quartiles. `flat` is a binary search in a sorted array of starts that nothing protects and nobody may change: the \
    limit of what sorted arrays can do. The locked map is a `RwLock<BTreeMap>` whose lookup clones an `Arc`.";

const COLD_NOTE: &str = "What a trap sees that comes once in a while. Before each shot, {bytes} MiB of other memory are \
    written, which takes everything out of the caches and the TLB; then each contender, in random order, does one \
    lookup, and its time less that of an empty call counts. Each has payloads of its own. With cold data, a lookup in a \
    small twin goes before, which brings the contender's code back into the caches, but nothing of its data.";

/// How long things take, to give an idea.
fn note_on_times(all: &[Measured]) -> String {
    let turns = all.iter().map(|m| m.warm[ONE][0].0.len()).min().unwrap_or(0);
    format!("Of {turns} turns or more for each number of ranges. The last row is in nanoseconds.")
}

/// How much faster two threads are than one.
fn scaling(m: &Measured, i: usize) -> [f64; 3] {
    m.warm[ONE][i].ratio_to(&m.warm[TWO][i]).map(|ratio| 2.0 * ratio)
}

fn table(
    title: &str,
    note: &str,
    all: &[Measured],
    ratio: &dyn Fn(&Measured, usize) -> [f64; 3],
    last: &str,
    absolute: impl Fn(&Measured) -> f64,
) -> Table {
    let mut columns = vec!["ranges".to_owned()];
    columns.extend(all.iter().map(|m| thousands(m.n)));
    let row = |(i, kind): (usize, &Kind)| {
        let cells = all.iter().map(|m| spread(ratio(m, i)));
        [kind.name.to_owned()].into_iter().chain(cells).collect()
    };
    let mut rows: Vec<Vec<String>> = ALL.iter().enumerate().map(row).collect();
    rows.push([last.to_owned()].into_iter().chain(all.iter().map(|m| short(absolute(m)))).collect());
    Table { title: title.into(), note: note.into(), columns, rows }
}

fn throughput_table(m: &Measured) -> Table {
    let mut columns = vec!["threads".to_owned()];
    columns.extend(THREADS.iter().map(ToString::to_string));
    let row = |(i, kind): (usize, &Kind)| {
        let cells = m.throughput.iter().map(|times| spread(times[i].quartiles().map(|rate| rate / 1e6)));
        [kind.name.to_owned()].into_iter().chain(cells).collect()
    };
    let note = format!("There are {} processors: more threads than that share them.", processors());
    Table {
        title: format!("Million lookups a second of all threads together, {} ranges", thousands(m.n)),
        note,
        columns,
        rows: ALL.iter().enumerate().map(row).collect(),
    }
}

fn measure_n(options: &Options, n: usize, control: &Control, sweep: &mut Sweep) -> Measured {
    let world = World::new(n);
    let contenders: Vec<_> = ALL.iter().map(|kind| make(kind, &world)).collect();
    let pcs: Vec<_> = MODES.iter().map(|mode| world.pcs(1 << 15, mode.pcs)).collect();
    let none = || vec![Times::default(); ALL.len()];
    let mut warm: Vec<_> = MODES.iter().map(|_| none()).collect();
    let turns = options.turns(if n > 10_000 { 7 } else { 11 });
    let dropped = control.turns(turns, || {
        for ((mode, pcs), times) in MODES.iter().zip(&pcs).zip(&mut warm) {
            for (contender, times) in contenders.iter().zip(times) {
                times.0.push(time_lookups(&**contender, pcs, mode.threads, mode.dependent));
            }
        }
    });
    let mut rates: Vec<_> = THREADS.iter().map(|_| none()).collect();
    if n == 1_000 || n == 100_000 {
        for _ in 0..options.turns(if n > 10_000 { 3 } else { 5 }) {
            for (threads, rates) in THREADS.iter().zip(&mut rates) {
                for (contender, rates) in contenders.iter().zip(rates) {
                    let time = Duration::from_millis(options.millis(60));
                    rates.0.push(throughput(&**contender, &pcs[ONE], *threads, time));
                }
            }
        }
    } else {
        rates.clear();
    }
    drop((contenders, world));
    // On a thread of its own, which stays on one processor.
    let cold = thread::scope(|scope| scope.spawn(|| measure_cold(options, n, sweep)).join().expect("no panics"));
    Measured { n, warm, throughput: rates, cold, dropped }
}

/// Times of single lookups, with warm and with cold code.
fn measure_cold(options: &Options, n: usize, sweep: &mut Sweep) -> [Vec<Times>; 2] {
    const TURNS: usize = 10;
    pin_to(0);
    let mut result = [vec![Times::default(); ALL.len()], vec![Times::default(); ALL.len()]];
    // Where things lie in memory makes a difference: everything is made anew, in another order, unless that takes long.
    let lives = if n > 10_000 { 1 } else { options.turns(TURNS / 2) };
    for life in 0..lives {
        measure_cold_life(options.turns(TURNS) / lives, n, life, sweep, &mut result);
    }
    result
}

fn measure_cold_life(turns: usize, n: usize, life: usize, sweep: &mut Sweep, result: &mut [Vec<Times>; 2]) {
    const SHOTS: usize = 15;
    let mut rng = Rng::new(2024 + life as u64);
    // Among many, two contenders hardly ever meet at one payload; among few, each needs its own.
    let shared = (n > 10_000).then(|| World::new(n));
    let small = World::new(3);
    let mut order: Vec<_> = (0..ALL.len()).collect();
    rng.shuffle(&mut order);
    let mut contenders: Vec<_> = order
        .iter()
        .map(|i| match &shared {
            Some(world) => (*i, make(&ALL[*i], world), make(&ALL[*i], &small)),
            None => (*i, make(&ALL[*i], &World::new(n)), make(&ALL[*i], &small)),
        })
        .collect();
    contenders.push((ALL.len(), Box::new(Nothing), Box::new(Nothing)));
    let mut sessions: Vec<_> = contenders.iter().map(|(i, one, twin)| (*i, one.session(), twin.session())).collect();

    let pcs = shared.unwrap_or_else(|| World::new(n)).pcs(1 << 14, Pcs::Uniform);
    let small_pc = small.pcs(1, Pcs::Uniform)[0];
    for _ in 0..turns {
        for (cold_code, result) in result.iter_mut().enumerate() {
            let mut times = vec![Vec::new(); sessions.len()];
            for _ in 0..SHOTS {
                rng.shuffle(&mut sessions);
                let pcs: Vec<_> = sessions.iter().map(|_| pcs[rng.below(pcs.len())]).collect();
                sweep.flush();
                for ((i, session, twin), pc) in sessions.iter_mut().zip(pcs) {
                    if cold_code == 0 {
                        black_box(twin.one(small_pc));
                    }
                    times[*i].push(shot(&mut **session, pc));
                }
            }
            let empty = median(&mut times[ALL.len()]);
            for (times, result) in times.iter_mut().zip(result) {
                result.0.push((median(times) - empty).max(0.1));
            }
        }
    }
}

/// glibc's own search, on what is loaded into this process.
fn loader_table(options: &Options, control: &Control) -> Option<Table> {
    let loader = Loader::new()?;
    let world = World::of(objects(&loader).into_iter());
    let n = world.live.len();
    let pcs = world.pcs(1 << 12, Pcs::Uniform);
    let names = [FLAT, LOCKED, HANDLER, PINNED];
    let mut contenders: Vec<(&str, Box<dyn Lookup>)> =
        names.iter().filter_map(|name| Some((*name, make(by_name(name)?, &world)))).collect();
    contenders.push(("glibc, _dl_find_object", Box::new(loader)));
    let mut times = vec![[Times::default(), Times::default()]; contenders.len()];
    control.turns(options.turns(11), || {
        for ((_, contender), times) in contenders.iter().zip(&mut times) {
            for (threads, times) in [1, 2].into_iter().zip(times) {
                times.0.push(time_lookups(&**contender, &pcs, threads, false));
            }
        }
    });
    let [flat_one, flat_two] = times[0].clone();
    let rows = contenders.iter().zip(&times).map(|((name, _), [one, two])| {
        let cells = [
            short(one.median()),
            spread(one.ratio_to(&flat_one)),
            short(two.median()),
            spread(two.ratio_to(&flat_two)),
        ];
        [(*name).to_owned()].into_iter().chain(cells).collect()
    });
    let columns = ["", "1 thread, ns", "time relative to flat", "2 threads, ns", "time relative to flat"];
    Some(Table {
        title: format!("The {n} objects that are loaded into this process"),
        note:
            "glibc finds the object that holds an address for unwinders, without a lock. It knows only what its loader \
               loaded, so here the others have these ranges as well."
                .into(),
        columns: columns.map(String::from).to_vec(),
        rows: rows.collect(),
    })
}

/// Those in the pictures: one of each family.
const PICTURED: &[&str] = &[
    HANDLER,
    PINNED,
    FLAT,
    LOCKED,
    "parking_lot map, no clone",
    "arc-swap of flat",
    "arc-swap of flat, cached",
    "left-right of maps",
    "half_lock of flat",
    "reader count, flat",
];

fn plots(all: &[Measured]) -> Vec<Plot> {
    let curves = |points: &dyn Fn(usize) -> Vec<(f64, f64)>| {
        let indices = PICTURED.iter().filter_map(|name| ALL.iter().position(|kind| kind.name == *name));
        indices.map(|i| Curve { name: ALL[i].name.into(), points: points(i) }).collect::<Vec<_>>()
    };
    let by_n = |file: &str, title: &str, label: &str, times: &dyn Fn(&Measured) -> &Vec<Times>| Plot {
        file: file.into(),
        title: title.into(),
        x: Axis { label: "ranges".into(), logarithmic: true },
        y: Axis { label: label.into(), logarithmic: true },
        curves: curves(&|i| all.iter().map(|m| (m.n as f64, times(m)[i].median())).collect()),
    };
    let mut plots = vec![
        by_n("lookup", "One lookup, warm, one thread", "nanoseconds", &|m| &m.warm[ONE]),
        by_n("lookup-dependent", "One lookup after another, warm, one thread", "nanoseconds", &|m| &m.warm[DEPENDENT]),
        by_n("lookup-two-threads", "One lookup, warm, on each of two threads", "nanoseconds", &|m| &m.warm[TWO]),
        by_n("lookup-cold", "One lookup out of cold caches", "nanoseconds", &|m| &m.cold[1]),
    ];
    if let Some(m) = all.iter().find(|m| !m.throughput.is_empty()) {
        let rates = |i: usize| {
            let point = |(threads, times): (&usize, &Vec<Times>)| (*threads as f64, times[i].median() / 1e6);
            THREADS.iter().zip(&m.throughput).map(point).collect()
        };
        plots.push(Plot {
            file: "throughput".into(),
            title: format!("Lookups by all threads, {} ranges, {} processors", thousands(m.n), processors()),
            x: Axis { label: "threads".into(), logarithmic: true },
            y: Axis { label: "million lookups a second".into(), logarithmic: false },
            curves: curves(&rates),
        });
    }
    plots
}
