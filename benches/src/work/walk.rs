//! Stack walks: many pcs in a row, of one moment.

use super::{Options, short, spread, thousands};
use crate::crowd;
use crate::harness::{Control, Times, processors};
use crate::section::{Glance, Section, Table};
use crate::world::{Payload, Rng, range_of};
use core::hint::black_box;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use trapline::{CodeRegistry, Found};

/// Frames of a stack.
const FRAMES: usize = 100;
/// So many stacks are walked in turn.
const STACKS: usize = 64;
/// Walks in a slice of time.
const COUNT: usize = 128;
const SLICES: usize = 15;
const NS: &[usize] = &[16, 1_000, 10_000, 100_000];
const THREADS: [usize; 2] = [1, 2];

/// A stack's frames lie in so many ranges: few, since callers and callees mostly belong together; or any.
const SPREADS: [(&str, usize); 2] = [("8 ranges", 8), ("any range", usize::MAX)];

type Stack = [usize; FRAMES];

/// Someone who walks: looks every pc up, and reads what it finds. The result depends on every answer.
trait Walk: Sync {
    fn walk(&self, stack: &Stack) -> usize;
}

impl<F: Fn(&Stack) -> usize + Sync> Walk for F {
    fn walk(&self, stack: &Stack) -> usize {
        self(stack)
    }
}

/// Everyone, in the order of the tables.
const NAMES: [&str; 9] = [
    "flat, unprotected",
    "one pin",
    "one view",
    "one snapshot",
    "one `with` for each frame",
    "locked map, locked once",
    "locked map, locked for each frame",
    "locked map, locked and cloned for each frame",
    "locked map, locked once, all cloned",
];
const VIEW: usize = 2;
const EACH: usize = 4;
const LOCKED_ONCE: usize = 5;
const CLONED_EACH: usize = 7;

/// What is walked over.
struct Code {
    registry: CodeRegistry<Payload>,
    map: RwLock<Map>,
    starts: Vec<usize>,
    rest: Vec<(usize, Arc<Payload>)>,
}

/// From the last address of a range.
type Map = BTreeMap<usize, (usize, Arc<Payload>)>;

impl Code {
    /// Of every other place, registered in random order.
    fn new(n: usize) -> Self {
        let mut live: Vec<_> = (0..n).map(|i| (range_of(2 * i), Payload::new(i))).collect();
        let starts = live.iter().map(|(range, _)| range.start).collect();
        let rest = live.iter().map(|(range, payload)| (range.end, Arc::clone(payload))).collect();
        Rng::new(88_172_645_463_325_252).shuffle(&mut live);
        let (registry, mut map) = (CodeRegistry::new(), Map::new());
        for (range, payload) in live {
            registry.register(range.clone(), Arc::clone(&payload)).expect("ranges do not overlap").leak();
            map.insert(range.end - 1, (range.start, payload));
        }
        Self { registry, map: RwLock::new(map), starts, rest }
    }

    fn stacks(&self, spread: usize) -> Vec<Stack> {
        let n = self.starts.len();
        let mut rng = Rng::new(99);
        let mut stack = || {
            let near: Vec<usize> = (0..spread.min(n)).map(|_| rng.below(n)).collect();
            core::array::from_fn(|_| {
                let range = range_of(2 * near[rng.below(near.len())]);
                range.start + rng.below(range.len())
            })
        };
        (0..STACKS).map(|_| stack()).collect()
    }

    fn contenders(&self) -> [Box<dyn Walk + '_>; NAMES.len()] {
        let Self { registry, map, starts, rest } = self;
        fn id(found: &Found<'_, Payload>) -> usize {
            found.payload().id
        }
        fn all(stack: &Stack, mut id: impl FnMut(usize) -> usize) -> usize {
            stack.iter().fold(0, |sum, pc| sum.wrapping_mul(31) ^ id(*pc))
        }
        fn find(map: &Map, pc: usize) -> &Arc<Payload> {
            let (_, (start, payload)) = map.range(pc..).next().expect("all hit");
            assert!(*start <= pc);
            payload
        }
        [
            Box::new(|stack: &Stack| {
                all(stack, |pc| {
                    let (end, payload) = &rest[starts.partition_point(|start| *start <= pc) - 1];
                    assert!(pc < *end);
                    payload.id
                })
            }),
            Box::new(|stack: &Stack| {
                let guard = registry.pin();
                all(stack, |pc| id(&guard.get(pc).expect("all hit")))
            }),
            Box::new(|stack: &Stack| registry.view(|view| all(stack, |pc| id(&view.get(pc).expect("all hit"))))),
            Box::new(|stack: &Stack| {
                let snapshot = registry.snapshot();
                all(stack, |pc| id(&snapshot.get(pc).expect("all hit")))
            }),
            Box::new(|stack: &Stack| all(stack, |pc| registry.with(pc, |found| id(&found)).expect("all hit"))),
            Box::new(|stack: &Stack| {
                let map = map.read().expect("no panics");
                all(stack, |pc| find(&map, pc).id)
            }),
            Box::new(|stack: &Stack| all(stack, |pc| find(&map.read().expect("no panics"), pc).id)),
            Box::new(|stack: &Stack| {
                all(stack, |pc| {
                    let payload = Arc::clone(find(&map.read().expect("no panics"), pc));
                    payload.id
                })
            }),
            Box::new(|stack: &Stack| {
                let mut frames: [Option<Arc<Payload>>; FRAMES] = [const { None }; FRAMES];
                {
                    let map = map.read().expect("no panics");
                    frames.iter_mut().zip(stack).for_each(|(frame, pc)| *frame = Some(Arc::clone(find(&map, *pc))));
                }
                let mut frames = frames.iter().flatten();
                all(stack, |_| frames.next().expect("all hit").id)
            }),
        ]
    }
}

/// What was measured: of each contender, by threads.
type Measured = Vec<[Times; THREADS.len()]>;

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let processors = processors();
    let ns = options.ns(NS);
    let control = Control::new();
    let mut dropped = 0;
    let mut all: Vec<(usize, [Measured; SPREADS.len()])> = Vec::new();
    for n in ns {
        let code = Code::new(n);
        let stacks = SPREADS.map(|(_, spread)| code.stacks(spread));
        let contenders = code.contenders();
        check(&contenders, &stacks);
        let mut measured: [Measured; SPREADS.len()] = core::array::from_fn(|_| vec![Default::default(); NAMES.len()]);
        dropped += control.turns(options.turns(11), || {
            for (stacks, measured) in stacks.iter().zip(&mut measured) {
                for (i, threads) in THREADS.into_iter().enumerate() {
                    for (contender, times) in contenders.iter().zip(measured.iter_mut()) {
                        times[i].0.push(time(&**contender, stacks, threads));
                    }
                }
            }
        });
        all.push((n, measured));
    }
    let glance = |what: &str, f: &dyn Fn(&Measured) -> [f64; 3]| Glance {
        what: what.into(),
        ratios: all.iter().map(|(n, measured)| (Some(*n), short(f(&measured[0])[1]))).collect(),
    };
    let glances = vec![
        glance("walk of 100 frames: one view, speed relative to one `with` for each frame", &|m| {
            m[EACH][0].ratio_to(&m[VIEW][0])
        }),
        glance("the same: one view, speed relative to the locked map locked once, 1 thread", &|m| {
            m[LOCKED_ONCE][0].ratio_to(&m[VIEW][0])
        }),
        glance("the same: one view, speed relative to the map locked and cloned for each frame, 2 threads", &|m| {
            m[CLONED_EACH][1].ratio_to(&m[VIEW][1])
        }),
    ];
    let mut tables = Vec::new();
    for (i, (spread, _)) in SPREADS.iter().enumerate() {
        for (t, threads) in THREADS.into_iter().enumerate() {
            let of: Vec<_> = all.iter().map(|(n, measured)| (*n, &measured[i])).collect();
            tables.push(table(&of, spread, t, threads));
        }
    }
    Section {
        intro: format!("{INTRO} There are {processors} processors; {dropped} turns were dropped for want of two."),
        glance: glances,
        tables,
        ..Section::default()
    }
}

const INTRO: &str = "A stack of 100 frames is walked: the code of each pc is looked up, and what was found is read. \
    Protected once for all of them, by a pin, by a view in the gate, by a snapshot that is taken and dropped; or for \
    each by itself. The locked map answers under its lock, or else the `Arc` is cloned and the answer used without the \
    lock: for each frame, or once for all, with the clones kept to the end. 64 stacks take turns, so that their pcs \
    are not learnt by heart. Contenders take turns; a ratio is taken within a turn, and the cells are the median over \
    the turns, and the quartiles.";

fn time(contender: &dyn Walk, stacks: &[Stack], threads: usize) -> f64 {
    let walks = |thread: usize, slice: usize| {
        let first = thread * 7 + slice * COUNT;
        (0..COUNT).fold(0, |sum, i| sum ^ contender.walk(black_box(&stacks[(first + i) % stacks.len()])))
    };
    crowd::time(threads, SLICES, COUNT * FRAMES, walks)
}

/// All find the same.
fn check(contenders: &[Box<dyn Walk + '_>], stacks: &[Vec<Stack>]) {
    for stack in stacks.iter().flatten() {
        let expected = contenders[0].walk(stack);
        for (contender, name) in contenders.iter().zip(NAMES) {
            assert_eq!(contender.walk(stack), expected, "{name}");
        }
    }
}

fn table(all: &[(usize, &Measured)], spread_over: &str, t: usize, threads: usize) -> Table {
    let mut columns = vec![String::new()];
    columns.extend(all.iter().map(|(n, _)| format!("{} ranges", thousands(*n))));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (i, name) in NAMES.iter().enumerate() {
        let mut row = vec![(*name).to_owned()];
        row.extend(all.iter().map(|(_, measured)| {
            let times = &measured[i][t];
            format!("{}; {}", short(times.median()), spread(times.ratio_to(&measured[EACH][t])))
        }));
        rows.push(row);
    }
    let plural = if threads == 1 { "thread" } else { "threads" };
    Table {
        title: format!("100 frames in {spread_over}, {threads} {plural}"),
        note: "Nanoseconds for a frame; and the time relative to one `with` for each.".into(),
        columns,
        rows,
    }
}
