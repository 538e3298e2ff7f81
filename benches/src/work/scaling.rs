//! What shared cache lines would cost on machines with more processors: a model, and the counts that it rests on.
//!
//! Two processors show little of it. So it is counted which lines an operation writes and how many threads write the
//! same one, measured what it takes to hand a line over, and computed what follows. A document of its own.

use super::instantiate::Plan;
use super::{Options, short, thousands};
use crate::contenders::{HANDLER, LOCKED, PINNED, by_name, make};
use crate::harness::{Control, Times, on_threads, time_lookups};
use crate::section::{Axis, Curve, Plot, Section, Table};
use crate::world::{Pcs, World};
use core::hint::black_box;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

/// So many threads are computed for; on the first, the model can be compared with the machine.
const THREADS: [usize; 5] = [2, 8, 32, 64, 192];
const RANGES: usize = 1_000;
/// What the handover of a line is taken from, and its place among the lookups.
const READER_COUNT: &str = "reader count, flat";
const COUNTED: usize = 2;

/// Which threads write the same line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// Each its own.
    Own,
    /// Those whose stacks fall on the same stripe of the gate.
    Stripe,
    /// Those whose stacks fall on the same lane of a module's reference count.
    Lane,
    /// All.
    All,
}

/// An operation of a contender, and the line that most of its threads wait for.
struct Operation {
    /// As in the tables.
    name: &'static str,
    /// Which line that is.
    line: &'static str,
    shared: Shared,
    /// How often an operation takes the line from whoever has it.
    takes: f64,
    /// Nanoseconds without anybody else, and on two threads.
    times: [Times; 2],
}

fn operation(name: &'static str, line: &'static str, shared: Shared, takes: f64) -> Operation {
    Operation { name, line, shared, takes, times: Default::default() }
}

/// Measures, counts, and computes.
pub fn measure(options: &Options) -> Section {
    let world = World::new(RANGES);
    let pcs = world.pcs(1 << 14, Pcs::Uniform);
    let mut lookups = [
        operation(HANDLER, "its stripe's claim", Shared::Stripe, 1.0),
        operation(PINNED, "none", Shared::Own, 0.0),
        operation(READER_COUNT, "the count", Shared::All, 2.0),
        operation(LOCKED, "the lock's word", Shared::All, 2.0),
    ];
    let mut stores = [
        operation("trapline's store", "its lane's count", Shared::Lane, 2.0),
        operation("a store of maps", "the module's count", Shared::All, 4.0),
    ];
    let contenders: Vec<_> =
        lookups.iter().map(|each| make(by_name(each.name).expect("is a contender"), &world)).collect();
    let instantiate = Plan::SHARED.contenders(2);
    let control = Control::new();
    control.turns(options.turns(9), || {
        for (i, threads) in [1, 2].into_iter().enumerate() {
            for (each, contender) in lookups.iter_mut().zip(&contenders) {
                each.times[i].0.push(time_lookups(&**contender, &pcs, threads, false));
            }
            for (each, contender) in stores.iter_mut().zip(&instantiate) {
                each.times[i].0.push(on_threads(threads, 15, 5_000, |thread, _| {
                    (0..5_000).map(|_| contender.instantiate(thread)).fold(0, usize::wrapping_add)
                }));
            }
        }
    });
    // Two threads that do little else wait for each other's turns, twice a lookup.
    let handover = lookups[COUNTED].times[1].median() / 4.0;
    let stripes = Spread::count(STRIPES, |stack| stack >> 12);
    let lanes = Spread::count(LANES, |stack| stack >> 18);
    let predict = |each: &Operation, threads: usize| {
        let alone = each.times[0].median();
        let meet = match each.shared {
            Shared::Own => return alone,
            Shared::All => vec![threads; threads],
            Shared::Stripe => stripes.company(threads),
            Shared::Lane => lanes.company(threads),
        };
        // Each thread of a line has its turn at it as often as any other.
        let time = |with: usize| if with == 1 { alone } else { alone.max(with as f64 * each.takes * handover) };
        meet.iter().map(|with| 1.0 / time(*with)).sum::<f64>().recip() * threads as f64
    };
    Section {
        intro: INTRO.replace("{handover}", &short(handover)).replace("{ranges}", &thousands(RANGES)),
        tables: vec![
            stripes.table("Threads that share a stripe of the gate", STRIPES),
            lanes.table("Threads that share a lane of a module's count", LANES),
            prediction("Lookups", &lookups, predict),
            prediction("Stores", &stores, predict),
        ],
        plots: [("scaling-lookup", "Lookups", &lookups[..]), ("scaling-store", "Stores", &stores[..])]
            .map(|(file, title, operations)| plot(file, title, operations, predict))
            .into(),
        ..Section::default()
    }
}

const INTRO: &str = "What follows is computed, not measured, except for the columns that say so: this machine has too few \
    processors to show it.\n\n\
    **Which lines are written, and by whom.** A lookup through the gate writes one line, its claim: a compare-exchange \
    when it comes, a plain store when it leaves, by which time the line is its own. Threads write the same claim only if \
    their stacks hash to the same stripe; the writer reads all of them once in some thirty writes, and writes none. A \
    lookup under a guard, or in a snapshot, writes nothing. A lookup in a locked map writes the lock's word twice and the \
    count of what it found twice; a count of readers is written twice. A store writes the count of its lane of the module \
    twice; a store of maps writes the module's count four times, and two other counts twice each.\n\n\
    A registration writes the writers' lock, nodes that nobody sees yet, and the line with the root and its tick, which \
    every reader then loads once more, with the two or three new nodes on its way. Writers take turns: more of them \
    do not write more. With W publications a second, a lookup that comes after a publication misses on at most the \
    gate's line and one node a level: at a million a second and 100 ns a miss, a thread that does nothing but look up \
    loses at most the third of its time that two levels and the gate take.\n\n\
    **The model.** A thread waits for the line that most threads write: if k threads write it, each gets it every k \
    handovers, and an operation that takes it r times takes k r h nanoseconds, or the time that it takes alone if that \
    is more. h is what the two threads here that share the count of readers come to, {handover} ns; so their time is no \
    prediction, and that of the locked map, whose counts are left out, is too low. Processors further apart need more, \
    two sockets several times as much: then the contended times below grow in proportion, and the others do not. \
    Lookups are in {ranges} ranges, independent of each other, by threads that do nothing else, which no program does; \
    that is the worst case for everybody.";

/// As many as the gate has: `handler::gate`.
const STRIPES: usize = 64;
/// As many as a module's count has: `store::striped`.
const LANES: usize = 128;

/// How many threads of a crowd fall on the same one of something.
struct Spread(BTreeMap<usize, Vec<usize>>);

impl Spread {
    /// Starts so many real threads, with the usual stacks, and hashes where these are, as the library does.
    fn count(buckets: usize, region: fn(usize) -> usize) -> Self {
        let count = |threads: usize| {
            let barrier = Barrier::new(threads);
            let body = || {
                let here = 0_u8;
                let stack = black_box(&raw const here).addr();
                // Nobody's stack is free to be used again before all have one.
                barrier.wait();
                let hash = (region(stack) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (hash >> (64 - buckets.trailing_zeros())) as usize
            };
            let mut counts = vec![0; buckets];
            thread::scope(|scope| {
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(body)).collect();
                threads.into_iter().for_each(|thread| counts[thread.join().expect("no panics")] += 1);
            });
            (threads, counts)
        };
        Self(THREADS.into_iter().map(count).collect())
    }

    /// For each of so many threads, how many use what it uses, itself included.
    fn company(&self, threads: usize) -> Vec<usize> {
        let counts = &self.0[&threads];
        counts.iter().flat_map(|count| core::iter::repeat_n(*count, *count)).collect()
    }

    fn table(&self, title: &str, buckets: usize) -> Table {
        let rows = self.0.iter().map(|(threads, counts)| {
            let company = self.company(*threads);
            let mean = company.iter().sum::<usize>() as f64 / company.len() as f64;
            let used = counts.iter().filter(|count| **count > 0).count();
            let alone = company.iter().filter(|with| **with == 1).count();
            let most = counts.iter().max().map_or(0, |most| *most);
            [*threads, used, alone, most].map(|n| n.to_string()).into_iter().chain([short(mean)]).collect()
        });
        Table {
            title: title.into(),
            note: format!(
                "Counted: threads with stacks of the usual size, all alive at once; there are {buckets} to fall on."
            ),
            columns: ["threads", "used", "threads alone on theirs", "most on one", "on a thread's own, on average"]
                .map(String::from)
                .into(),
            rows: rows.collect(),
        }
    }
}

fn prediction(title: &str, operations: &[Operation], predict: impl Fn(&Operation, usize) -> f64) -> Table {
    let mut columns: Vec<String> =
        ["", "waits for", "taken", "alone, measured", "2 threads, measured"].map(String::from).into();
    columns.extend(THREADS.map(|threads| format!("{threads} threads")));
    let row = |each: &Operation| {
        let [alone, two] = each.times.each_ref().map(|times| short(times.median()));
        let mut row = vec![each.name.into(), each.line.into(), short(each.takes), alone, two];
        row.extend(THREADS.map(|threads| short(predict(each, threads))));
        row
    };
    let last = THREADS[THREADS.len() - 1];
    let base = predict(&operations[operations.len() - 1], last);
    let speeds: Vec<_> =
        operations.iter().map(|each| format!("{} {} times", each.name, short(base / predict(each, last)))).collect();
    Table {
        title: title.into(),
        note: format!(
            "Nanoseconds for an operation on each thread. At {last} threads, as fast as the last one: {}.",
            speeds.join(", ")
        ),
        columns,
        rows: operations.iter().map(row).collect(),
    }
}

fn plot(file: &str, title: &str, operations: &[Operation], predict: impl Fn(&Operation, usize) -> f64) -> Plot {
    let curve = |each: &Operation| Curve {
        name: each.name.into(),
        points: THREADS.map(|threads| (threads as f64, threads as f64 * 1e3 / predict(each, threads))).into(),
    };
    Plot {
        file: file.into(),
        title: format!("{title}: computed"),
        x: Axis { label: "threads, each on a processor".into(), logarithmic: true },
        y: Axis { label: "millions a second, all threads together".into(), logarithmic: true },
        curves: operations.iter().map(curve).collect(),
    }
}
