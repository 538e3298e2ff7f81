//! Stores that come and go: what a runtime does for every instance.

mod maps;
mod ours;
mod plan;

pub use maps::Maps;
pub use ours::Ours;
pub use plan::{Instantiate, Plan};

use super::{Options, short, spread};
use crate::beside::Wasmtime;
use crate::crowd;
use crate::harness::{Control, Times, processors};
use crate::section::{Axis, Curve, Glance, Plot, Section, Table};

/// Kinds of stores, and how many of them are made in a slice of time.
pub const PLANS: &[(&str, Plan, usize)] = &[
    ("one module, shared by all threads", Plan::SHARED, 10_000),
    ("one module, each thread its own", Plan { own: true, ..Plan::SHARED }, 10_000),
    ("10 modules, shared", Plan { images: 10, ..Plan::SHARED }, 500),
    ("10 modules, each thread its own", Plan { images: 10, own: true, ..Plan::SHARED }, 500),
    ("a component of 100 modules, shared", Plan { modules: 100, functions: 8, ..Plan::SHARED }, 100),
    ("a component of 100, each thread its own", Plan { modules: 100, functions: 8, own: true, ..Plan::SHARED }, 100),
    ("one module, privately copied", Plan { private: true, ..Plan::SHARED }, 50),
];

const THREADS: [usize; 3] = [1, 2, 4];
const SLICES: usize = 15;

/// What was measured of a kind of store, by [`THREADS`].
type ByThreads = [Times; THREADS.len()];

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let processors = processors();
    let contenders: Vec<[Box<dyn Instantiate>; 2]> =
        PLANS.iter().map(|(_, plan, _)| plan.contenders(THREADS[THREADS.len() - 1])).collect();
    let mut times: Vec<[ByThreads; 2]> = vec![Default::default(); PLANS.len()];
    let mut wasmtime = Wasmtimes::start(options);
    let control = Control::new();
    let dropped = control.turns(options.turns(15), || {
        for (i, threads) in THREADS.into_iter().enumerate() {
            for (((_, plan, count), contenders), times) in PLANS.iter().zip(&contenders).zip(&mut times) {
                for (contender, times) in contenders.iter().zip(times) {
                    times[i].0.push(time(&**contender, plan, threads, *count));
                }
            }
            wasmtime.turn(i, threads);
        }
    });
    let [ours, maps] = &times[0];
    let speed = |i: usize| (None, short(maps[i].ratio_to(&ours[i])[1]));
    Section {
        intro: format!("{INTRO} There are {processors} processors; {dropped} turns were dropped for want of two."),
        glance: vec![Glance {
            what:
                "store made, a shared module registered, a frame looked up, store dropped: speed relative to a store \
                   of maps, 1 / 2 threads"
                    .into(),
            ratios: vec![speed(0), speed(1)],
        }],
        tables: vec![table(&times), scaling_table(&times), wasmtime.table(ours)],
        plots: vec![plot(&times)],
        ..Section::default()
    }
}

const INTRO: &str = "A store is made, modules that are loaded already are registered in it, one frame is looked up by \
    its pc, and the store is dropped: what a runtime does for every instance. The other contender is a store of three \
    `BTreeMap`s, by address, by address in the engine, and by module, with the reference counts that such a store \
    takes: the module's, the image's, the function table's, and once more the module's for the frame. Threads \
    are pinned. Contenders take turns; a ratio is taken within a turn, and the cells are the median over the turns and \
    the quartiles. Where there are more threads than processors, the time is the processors' time that all of them took \
    together, for each store that they made.";

fn time(contender: &dyn Instantiate, plan: &Plan, threads: usize, count: usize) -> f64 {
    let stores = |thread, _| (0..count).map(|_| contender.instantiate(thread)).fold(0, usize::wrapping_add);
    // Those who map memory wait for each other.
    if plan.private {
        crowd::time_with_waits(threads, SLICES, count, stores)
    } else {
        crowd::time(threads, SLICES, count, stores)
    }
}

/// Times, and who is faster.
fn table(times: &[[ByThreads; 2]]) -> Table {
    let mut rows = Vec::new();
    for ((name, ..), [ours, maps]) in PLANS.iter().zip(times) {
        for (i, threads) in THREADS.into_iter().enumerate() {
            rows.push(vec![
                (*name).into(),
                threads.to_string(),
                short(ours[i].median()),
                short(maps[i].median()),
                spread(maps[i].ratio_to(&ours[i])),
            ]);
        }
    }
    Table {
        title: "A store's life, in nanoseconds".into(),
        note: NOTE.into(),
        columns: ["store of", "threads", "trapline, ns", "maps, ns", "speed relative to the maps"]
            .map(String::from)
            .to_vec(),
        rows,
    }
}

const NOTE: &str = "A module has 64 functions of 256 bytes, each of the component's 8. Several modules are registered \
    one by one, a component's after the component; the frame is in the seventh. A private copy is mapped, copied, made \
    executable, and told to handlers; later they are told that it is gone, and it is unmapped. trapline's store tells \
    the registry that everybody's handlers read, the other one a locked map; and threads wait for each other in the \
    kernel, which counts. What threads share costs by how far apart their processors are, which changes from time to \
    time on a virtual machine.";

/// What is gained by more threads.
fn scaling_table(times: &[[ByThreads; 2]]) -> Table {
    let mut rows = Vec::new();
    for ((name, ..), contenders) in PLANS.iter().zip(times) {
        let gain = |times: &ByThreads, i: usize, threads: usize| {
            let used = threads.min(processors()) as f64;
            spread(times[0].ratio_to(&times[i]).map(|ratio| ratio * used))
        };
        let mut row = vec![(*name).to_owned()];
        for (i, threads) in THREADS.into_iter().enumerate().skip(1) {
            row.extend(contenders.iter().map(|times| gain(times, i, threads)));
        }
        rows.push(row);
    }
    let mut columns = vec!["store of".to_owned()];
    for threads in &THREADS[1..] {
        columns.extend(["trapline", "maps"].map(|name| format!("{name}, {threads} threads")));
    }
    Table { title: "Throughput relative to one thread".into(), columns, rows, ..Table::default() }
}

fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

fn plot(times: &[[ByThreads; 2]]) -> Plot {
    let per_second = |times: &ByThreads| {
        let point =
            |(i, threads): (usize, usize)| (threads as f64, threads.min(processors()) as f64 * 1e3 / times[i].median());
        THREADS.into_iter().enumerate().map(point).collect()
    };
    let mut curves = Vec::new();
    for (i, kind) in [(0, "shared module"), (1, "own modules")] {
        for (contender, name) in ["trapline", "maps"].into_iter().enumerate() {
            curves.push(Curve { name: format!("{name}, {kind}"), points: per_second(&times[i][contender]) });
        }
    }
    Plot {
        file: "instantiate".into(),
        title: format!("Stores of one module, on {} processors", processors()),
        x: Axis { label: "threads".into(), logarithmic: false },
        y: Axis { label: "million stores a second, all threads".into(), logarithmic: false },
        curves,
    }
}

/// wasmtime's stores with one instance, measured in the same turns.
struct Wasmtimes {
    process: Result<Wasmtime, String>,
    times: Vec<ByThreads>,
}

/// As wasmtime's own program names them, and how many instances are made in a slice of time.
const WASMTIME: &[(&str, &str, usize, &str)] = &[
    ("function", "on-demand", 1_000, "one function"),
    ("function", "pooling", 1_000, "one function, pooling allocator"),
    ("memory", "on-demand", 50, "a page of memory with data, a table"),
    ("memory", "pooling", 300, "a page of memory with data, a table, pooling allocator"),
];

impl Wasmtimes {
    fn start(options: &Options) -> Self {
        Self { process: Wasmtime::start(options), times: vec![ByThreads::default(); WASMTIME.len()] }
    }

    fn turn(&mut self, i: usize, threads: usize) {
        for ((module, setting, count, _), times) in WASMTIME.iter().zip(&mut self.times) {
            let Ok(process) = &mut self.process else { return };
            match process.time(&format!("instantiate {module} {setting} {threads} {count}")) {
                Ok(time) => times[i].0.push(time),
                Err(error) => self.process = Err(error),
            }
        }
    }

    fn table(&self, ours: &ByThreads) -> Table {
        let title = "wasmtime's stores with one instance".into();
        let version = match &self.process {
            Ok(process) => process.version(),
            Err(why) => {
                let (columns, rows) = (vec!["wasmtime".into()], vec![vec![format!("not measured: {why}")]]);
                return Table { title, columns, rows, ..Table::default() };
            }
        };
        let mut rows = Vec::new();
        for ((.., name), times) in WASMTIME.iter().zip(&self.times) {
            let mut row = vec![(*name).to_owned()];
            row.extend(times.iter().map(|times| short(times.median())));
            row.extend(
                times.iter().zip(ours).map(|(wasmtime, ours)| spread(ours.ratio_to(wasmtime).map(|r| r * 100.0))),
            );
            rows.push(row);
        }
        let mut columns = vec!["module".to_owned()];
        columns.extend(THREADS.map(|n| format!("ns, {}", threads(n))));
        columns.extend(THREADS.map(|n| format!("our store in % of it, {}", threads(n))));
        Table { title, note: format!("wasmtime {version}, {WASMTIME_NOTE}"), columns, rows }
    }
}

const WASMTIME_NOTE: &str = "a process of its own that takes its turns with this one: `Store::new`, \
    `InstancePre::instantiate`, and the store's end, with the settings that were fastest. **It does more than we do: \
    the rows say what a store costs there, not who is better.** It allocates the store and a context in it that host \
    functions are called from; registers the module in its maps; takes an instance from the allocator, within limits \
    that it counts; fills the instance's context in (built-in functions, imports, function references, globals, \
    tables); maps memory or clears what was mapped, with what is in it from the beginning; notes all of it in the \
    store for its handles; and takes it down. The last columns compare that to our store of one shared module.";
