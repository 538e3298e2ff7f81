//! The section.

use super::bare::{self, Installed};
use super::guests::{self, Code, Guest, Trapping};
use super::inside;
use crate::beside::Wasmtime;
use crate::crowd;
use crate::harness::{Control, Times, processors};
use crate::section::{Axis, Curve, Glance, Plot, Section, Table};
use crate::work::{Options, short, spread, thousands};
use crate::world::Rng;
use core::hint::black_box;
use std::ffi::c_void;
use std::ptr;
use trapline::Backtrace;
use trapline::image::ModuleIndex;
use trapline::signal::{Entry, Signals, catch_trap, catch_trap_with, install, prepare_thread};
use trapline::store::{Engine, EngineCode, ModuleRegistry};

const THREADS: [usize; 3] = [1, 2, 4];
const SLICES: usize = 9;
/// Traps in a slice of time.
const COUNT: usize = 200;
/// Calls that return in a slice of time.
const CALLS: usize = 20_000;
/// Ranges, where there are many.
const MANY: usize = 10_000;
const FRAMES: usize = 100;
/// So many frames are resolved, as wasmtime does.
const RESOLVED: usize = 20;

/// By [`THREADS`].
type ByThreads = [Times; THREADS.len()];

/// Who handles the trap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Skip,
    Land,
    LookUp,
    Map,
    Trapline,
    Backtrace,
}

const HOWS: [(How, &str); 6] = [
    (How::Skip, "the kernel alone: instruction skipped"),
    (How::Land, "bare handler, looks nothing up"),
    (How::LookUp, "bare handler, asks the registry"),
    (How::Map, "bare handler, asks a locked map"),
    (How::Trapline, "**trapline**"),
    (How::Backtrace, "**trapline**, with a backtrace"),
];
/// The places of some of them.
const LAND: usize = 1;
const TRAPLINE: usize = 4;

/// As wasmtime's own program names them.
const WASMTIME: [(&str, &str); 2] =
    [("plain", "wasmtime, without backtraces"), ("backtrace", "wasmtime, with a backtrace")];
const WASMTIME_KINDS: [&str; 3] = ["unreachable", "divide", "load"];

/// Those of [`HOWS`] who are measured where there are many ranges.
const AMONG_MANY: [How; 4] = [How::Land, How::LookUp, How::Map, How::Trapline];

/// A call that traps.
type Call = (Guest, Address);

/// What it is called with.
#[derive(Clone, Copy)]
struct Address(*mut c_void);

// SAFETY: a number, or the address of a page that nobody can access.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// Has its handler installed while it lives.
fn handler(how: How) -> Option<Installed> {
    let handler: bare::Handler = match how {
        How::Skip => bare::skip,
        How::Land => bare::land,
        How::LookUp => bare::look_up,
        How::Map => bare::look_up_in_map,
        How::Trapline | How::Backtrace => return None,
    };
    // SAFETY: until it is dropped, traps are those of `traps`, which is told the same.
    Some(unsafe { Installed::new(handler) })
}

/// Traps so often, under the handler that belongs to `how`: how often it was caught.
fn traps(how: How, calls: &[Call], skipped: i64, first: usize, count: usize) -> usize {
    let calls = (first..first + count).map(|i| calls[i % calls.len()]);
    let mut backtrace: Backtrace = Backtrace::new();
    let caught = |(guest, arg): &Call| {
        // SAFETY: the guests own nothing and stay on this stack, and the handler is installed.
        unsafe {
            match how {
                How::Skip => {
                    bare::call(*guest, arg.0, skipped);
                    true
                }
                How::Land | How::LookUp | How::Map => bare::catch(*guest, arg.0),
                How::Trapline => catch_trap(*guest, arg.0).is_err(),
                How::Backtrace => catch_trap_with(*guest, arg.0, Entry::new().backtrace(&mut backtrace)).is_err(),
            }
        }
    };
    calls.filter(caught).count()
}

/// Nanoseconds of a processor's time for a trap.
fn time(how: How, calls: &[Call], skipped: i64, threads: usize) -> f64 {
    let _installed = handler(how);
    crowd::time(threads, SLICES, COUNT, |thread, slice| {
        if slice == 0 {
            prepare_thread().expect("there is memory for a signal stack");
        }
        let caught = traps(how, calls, skipped, (thread * 7919 + slice) * COUNT, COUNT);
        assert_eq!(caught, COUNT);
        caught
    })
}

/// What was measured.
#[derive(Default)]
struct Measured {
    /// By kind of trap and [`HOWS`].
    traps: [[ByThreads; HOWS.len()]; 3],
    /// By kind of trap and [`WASMTIME`].
    wasmtime: [[ByThreads; WASMTIME.len()]; 3],
    /// [`AMONG_MANY`], with few ranges and with many, on one thread and on two.
    many: [[[Times; 2]; 2]; AMONG_MANY.len()],
    /// Of a deep stack: ours, and wasmtime's.
    deep: [Times; DEEP.len()],
    wasmtime_deep: [Times; WASMTIME.len()],
    /// Of calls that return: trapline, bare, wasmtime.
    calls: [Times; 3],
    /// What [`inside::measure`] says, by kind of trap: with few ranges, and with many.
    inside: [[(Times, Times); 3]; 2],
}

const DEEP: [&str; 3] =
    ["**trapline**", "**trapline**, with a backtrace", "**trapline**, with a backtrace, 20 frames resolved"];

/// Measures it.
pub(super) fn measure(options: &Options) -> Section {
    let processors = processors();
    // SAFETY: nothing in this program relies on these signals.
    unsafe { install(Signals::all()) }.expect("handlers can be installed");
    let (kinds, returning, deep) = (guests::trapping(), guests::returning(), Deep::new());
    kinds.iter().for_each(|kind| bare::add_to_map(&kind.code));
    let many = if options.quick { MANY / 10 } else { MANY };
    let mut wasmtime = Wasmtime::start(options);
    let control = Control::new();
    let mut measured = Measured::default();
    let dropped = control.turns(options.turns(11), || {
        turn(&mut measured, &kinds, &returning, &deep, many);
        if let Ok(process) = &mut wasmtime
            && let Err(error) = wasmtime_turn(&mut measured, process)
        {
            wasmtime = Err(error);
        }
    });
    kinds.iter().for_each(|kind| bare::remove_from_map(&kind.code));
    let version = wasmtime.as_ref().map(Wasmtime::version).map_err(String::as_str);
    let mut tables: Vec<Table> =
        kinds.iter().enumerate().map(|(k, kind)| trap_table(&measured, k, kind, version)).collect();
    tables.push(share_table(&measured, &kinds, many));
    tables.push(many_table(&measured, many));
    tables.push(deep_table(&measured, version));
    tables.push(call_table(&measured, version));
    Section {
        intro: format!("{INTRO} There are {processors} processors; {dropped} turns were dropped for want of two."),
        glance: glance(&measured, version),
        tables,
        plots: vec![plot(&measured, version)],
        ..Section::default()
    }
}

fn turn(measured: &mut Measured, kinds: &[Trapping], returning: &Code, deep: &Deep, many: usize) {
    for (kind, by_how) in kinds.iter().zip(&mut measured.traps) {
        let calls = [(kind.code.guest(), Address(kind.arg))];
        for (i, threads) in THREADS.into_iter().enumerate() {
            for ((how, _), times) in HOWS.iter().zip(by_how.iter_mut()) {
                times[i].0.push(time(*how, &calls, kind.skipped, threads));
            }
        }
    }
    let divide = &kinds[1];
    let one = [(divide.code.guest(), Address(divide.arg))];
    for (n, inside) in measured.inside.iter_mut().enumerate() {
        let loaded = (n == 1).then(|| Many::load(many));
        let calls = loaded.as_ref().map_or(&one[..], |loaded| &loaded.calls);
        for (kind, (handling, lookup)) in kinds.iter().zip(inside) {
            let (handling_ns, lookup_ns) = inside::measure(kind);
            handling.0.push(handling_ns);
            lookup.0.push(lookup_ns);
        }
        for (how, times) in AMONG_MANY.into_iter().zip(&mut measured.many) {
            for (threads, times) in [1, 2].into_iter().zip(&mut times[n]) {
                times.0.push(time(how, calls, divide.skipped, threads));
            }
        }
    }
    for (i, times) in measured.deep.iter_mut().enumerate() {
        times.0.push(deep.time(i));
    }
    let guest = returning.guest();
    let call = |f: &(dyn Fn() -> bool + Sync)| {
        crowd::time(1, SLICES, CALLS, |_, _| (0..CALLS).filter(|_| black_box(f())).count())
    };
    // SAFETY: the guest returns at once.
    measured.calls[0].0.push(call(&|| unsafe { catch_trap(guest, ptr::null_mut()) }.is_ok()));
    // SAFETY: as above.
    measured.calls[1].0.push(call(&|| !unsafe { bare::catch(guest, ptr::null_mut()) }));
}

fn wasmtime_turn(measured: &mut Measured, process: &mut Wasmtime) -> Result<(), String> {
    for (kind, by_setting) in WASMTIME_KINDS.into_iter().zip(&mut measured.wasmtime) {
        for (i, threads) in THREADS.into_iter().enumerate() {
            for ((setting, _), times) in WASMTIME.iter().zip(by_setting.iter_mut()) {
                times[i].0.push(process.time(&format!("trap {kind} {setting} {threads} {COUNT}"))?);
            }
        }
    }
    for ((setting, _), times) in WASMTIME.iter().zip(&mut measured.wasmtime_deep) {
        times.0.push(process.time(&format!("trap deep {setting} 1 {COUNT}"))?);
    }
    measured.calls[2].0.push(process.time(&format!("trap nothing plain 1 {CALLS}"))?);
    Ok(())
}

/// Many texts that divide by zero, registered as long as this lives.
struct Many {
    codes: Vec<Code>,
    /// In random order.
    calls: Vec<Call>,
}

impl Many {
    fn load(len: usize) -> Self {
        let codes: Vec<Code> = (0..len).map(|_| guests::dividing()).collect();
        codes.iter().for_each(bare::add_to_map);
        let mut calls: Vec<Call> = codes.iter().map(|code| (code.guest(), Address(ptr::null_mut()))).collect();
        Rng::new(4711).shuffle(&mut calls);
        Self { codes, calls }
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.codes.iter().for_each(bare::remove_from_map);
    }
}

/// A trap under many frames, in a store that can say what they are.
struct Deep {
    store: ModuleRegistry,
    guest: Guest,
}

impl Deep {
    fn new() -> Self {
        let engine = Engine::new();
        let code = EngineCode::new(&engine, guests::deep()).expect("loads");
        let module = code.module(ModuleIndex::new(0)).expect("there is one");
        let mut store = ModuleRegistry::new(&engine);
        let base = store.store_code_base_or_register(module).expect("registers").expect("there is code");
        Self { store, guest: guests::guest(base.as_usize()) }
    }

    /// Nanoseconds for a trap, the `i`th way of [`DEEP`].
    fn time(&self, i: usize) -> f64 {
        crowd::time(1, SLICES, COUNT, |_, _| {
            let arg = ptr::without_provenance_mut(FRAMES);
            let mut backtrace = Backtrace::<{ 2 * FRAMES }>::new();
            let mut caught = 0;
            for _ in 0..COUNT {
                let entry = if i == 0 { Entry::new() } else { Entry::new().backtrace(&mut backtrace) };
                // SAFETY: the guest owns nothing, and stays on this stack.
                caught += usize::from(unsafe { catch_trap_with(self.guest, arg, entry) }.is_err());
                if i == 2 {
                    let frames = self.store.resolve(&backtrace).take(RESOLVED).flatten();
                    let mut resolved = 0;
                    frames.for_each(|(frame, _)| resolved += 1 + usize::from(black_box(frame.function_index()) != 0));
                    assert_eq!(resolved, RESOLVED);
                }
            }
            assert_eq!((caught, backtrace.len()), (COUNT, if i == 0 { 0 } else { FRAMES }));
            caught
        })
    }
}

fn glance(measured: &Measured, version: Result<&str, &str>) -> Vec<Glance> {
    let divide = &measured.traps[1];
    let mut glance = vec![Glance {
        what: "trap, division by zero: time relative to a handler that looks nothing up, 1 / 2 threads".into(),
        ratios: (0..2).map(|i| (None, short(divide[TRAPLINE][i].ratio_to(&divide[LAND][i])[1]))).collect(),
    }];
    if version.is_ok() {
        let wasmtime = &measured.wasmtime[1][0];
        glance.push(Glance {
            what: "the same: traps a second relative to wasmtime without backtraces, which does more, 1 / 2 threads"
                .into(),
            ratios: (0..2).map(|i| (None, short(wasmtime[i].ratio_to(&divide[TRAPLINE][i])[1]))).collect(),
        });
    }
    glance
}

fn plot(measured: &Measured, version: Result<&str, &str>) -> Plot {
    let places =
        [("kernel alone", 0), ("bare handler", LAND), ("trapline", TRAPLINE), ("trapline, backtrace", TRAPLINE + 1)];
    let mut all: Vec<(&str, &ByThreads)> = places.map(|(name, i)| (name, &measured.traps[1][i])).to_vec();
    if version.is_ok() {
        all.extend(["wasmtime", "wasmtime, backtrace"].into_iter().zip(&measured.wasmtime[1]));
    }
    let processors = processors();
    let point =
        |(threads, times): (usize, &Times)| (threads as f64, threads.min(processors) as f64 * 1e6 / times.median());
    let curve = |(name, times): (&str, &ByThreads)| Curve {
        name: name.into(),
        points: THREADS.into_iter().zip(times).map(point).collect(),
    };
    Plot {
        file: "trap".into(),
        title: format!("Divisions by zero caught, on {processors} processors"),
        x: Axis { label: "threads".into(), logarithmic: false },
        y: Axis { label: "thousand traps a second, all threads".into(), logarithmic: false },
        curves: all.into_iter().map(curve).collect(),
    }
}

const INTRO: &str = "Guest code is called, executes an instruction that faults, and the call returns an `Err`: once \
    around through the kernel, by a real signal. To tell what of that is the registry's, others handle the same \
    signals on the same signal stack: a handler that only goes on behind the instruction, which is what the kernel \
    takes; a bare one that catches every trap on a landing like trapline's and asks nobody; and the same asking the \
    registry, or a `RwLock<BTreeMap>` that it clones an `Arc` from. Contenders take turns; a ratio is taken within a \
    turn, and the cells are the median over the turns, and the quartiles. Where there are more threads than \
    processors, the time is the processors' time that all of them took together, for each trap. The \
    kernel takes a lock of the whole process for each signal, so threads cost each other something whoever handles. (An \
    invalid instruction is often shown to a virtual machine's monitor first, and takes longer then.)";

const WASMTIME_NOTE: &str = "**It does more for each trap.** The handler looks the pc up in a `RwLock<BTreeMap>`, \
    collects the backtrace, if there is one, in memory that it allocates there and then, and puts the trap in a box. \
    After the landing the call makes an error of it: an allocation; for a bad access, which address of which memory; \
    and up to 20 frames, resolved in the store's modules, with names. Before the call it sets the stack's limit, and \
    afterwards it puts back what the store knew. The traps are those of `unreachable`, `i32.div_u`, and an `i32.load` \
    outside the memory; `without backtraces` is `Config::wasm_backtrace_max_frames(None)`.";

fn trap_table(measured: &Measured, k: usize, kind: &Trapping, version: Result<&str, &str>) -> Table {
    let mut columns = vec![String::new()];
    for threads in THREADS {
        let plural = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        columns.extend([format!("{plural}: ns"), "relative to bare".into(), "traps a second, each processor".into()]);
    }
    let land = &measured.traps[k][LAND];
    let row = |name: &str, times: &ByThreads| {
        let mut row = vec![name.to_owned()];
        for (times, land) in times.iter().zip(land) {
            let per_second = thousands((1e9 / times.median()) as usize);
            row.extend([short(times.median()), spread(times.ratio_to(land)), per_second]);
        }
        row
    };
    let mut rows: Vec<_> = HOWS.iter().zip(&measured.traps[k]).map(|((_, name), times)| row(name, times)).collect();
    let note = match version {
        Ok(version) => {
            rows.extend(WASMTIME.iter().zip(&measured.wasmtime[k]).map(|((_, name), times)| row(name, times)));
            if k == 0 { format!("wasmtime {version}, a process of its own. {WASMTIME_NOTE}") } else { String::new() }
        }
        Err(why) if k == 0 => format!("wasmtime was not measured: {why}."),
        Err(_) => String::new(),
    };
    Table { title: format!("Trap by {}", kind.name), note, columns, rows }
}

fn share_table(measured: &Measured, kinds: &[Trapping], many: usize) -> Table {
    let mut rows = Vec::new();
    for (n, name) in ["few".to_owned(), thousands(many)].into_iter().enumerate() {
        for (k, kind) in kinds.iter().enumerate() {
            let (handling, lookup) = &measured.inside[n][k];
            let whole = &measured.traps[k][TRAPLINE][0];
            let entry = measured.calls[0].median();
            let percent = |times: &Times| spread(times.ratio_to(whole).map(|ratio| ratio * 100.0));
            rows.push(vec![
                kind.name.into(),
                name.clone(),
                short(handling.median()),
                short(lookup.median()),
                short(entry),
                short(whole.median()),
                percent(handling),
                percent(lookup),
            ]);
        }
    }
    Table {
        title: "What share is ours".into(),
        note:
            "Timed inside a handler: one real trap is handled over and over, the context put back in between. So the \
            caches hold all that is touched. `handle_signal` is all that trapline does in a handler, its lookup among \
            it; the lookup of the trap code by itself is timed beside it. The entry is a `catch_trap` whose call \
            returns: what is done around every call, trap or not."
                .into(),
        columns: [
            "trap",
            "ranges",
            "`handle_signal`, ns",
            "lookup, ns",
            "entry, ns",
            "whole trap, ns",
            "`handle_signal`, % of it",
            "lookup, % of it",
        ]
        .map(String::from)
        .to_vec(),
        rows,
    }
}

fn many_table(measured: &Measured, many: usize) -> Table {
    let mut rows = Vec::new();
    for (how, times) in AMONG_MANY.iter().zip(&measured.many) {
        let name = HOWS.iter().find(|(of, _)| of == how).map_or("", |(_, name)| name);
        let mut row = vec![name.to_owned()];
        let [few, many] = times;
        let [_, bare] = &measured.many[0];
        for ((few, many), bare) in few.iter().zip(many).zip(bare) {
            row.extend([short(many.median()), spread(many.ratio_to(bare)), spread(many.ratio_to(few))]);
        }
        rows.push(row);
    }
    let mut columns = vec![String::new()];
    for threads in ["1 thread", "2 threads"] {
        columns.extend([format!("{threads}: ns"), "relative to bare".into(), "relative to few ranges".into()]);
    }
    Table {
        title: format!("Division by zero in any of {} registered texts", thousands(many)),
        note: "Each trap is in another text, at random, so that neither the text nor what is known of it is in the \
            caches: the bare handler, which looks nothing up, is slower too."
            .into(),
        columns,
        rows,
    }
}

fn deep_table(measured: &Measured, version: Result<&str, &str>) -> Table {
    let plain = &measured.deep[0];
    let row = |name: &str, times: &Times| {
        let each = (times.median() - plain.median()) / FRAMES as f64;
        vec![name.to_owned(), short(times.median()), spread(times.ratio_to(plain)), short(each.max(0.0))]
    };
    let mut rows: Vec<_> = DEEP.iter().zip(&measured.deep).map(|(name, times)| row(name, times)).collect();
    if version.is_ok() {
        rows.extend(WASMTIME.iter().zip(&measured.wasmtime_deep).map(|((_, name), times)| {
            let mut row = row(name, times);
            let each = (times.median() - measured.wasmtime_deep[0].median()) / FRAMES as f64;
            row[3] = short(each.max(0.0));
            row
        }));
    }
    Table {
        title: format!("`ud2` under {FRAMES} frames"),
        note: format!(
            "Of guest code, with frame pointers. The last column is what a backtrace adds, for each frame. wasmtime \
             collects all frames, and resolves {RESOLVED} with their names; ours are resolved to their functions by \
             the store, without names."
        ),
        columns: ["", "ns", "relative to none", "ns more for each frame"].map(String::from).to_vec(),
        rows,
    }
}

fn call_table(measured: &Measured, version: Result<&str, &str>) -> Table {
    let names = ["**trapline**, `catch_trap`", "bare", "wasmtime, `TypedFunc::call`"];
    let measured: Vec<_> = names.iter().zip(&measured.calls).take(if version.is_ok() { 3 } else { 2 }).collect();
    let rows = measured
        .iter()
        .map(|(name, times)| vec![(**name).to_owned(), short(times.median()), spread(times.ratio_to(measured[1].1))]);
    Table {
        title: "A call that returns".into(),
        note: "Of a function that does nothing: what it takes to be ready for a trap.".into(),
        columns: ["", "ns", "relative to bare"].map(String::from).to_vec(),
        rows: rows.collect(),
    }
}
