//! Does single things while callgrind counts: `probe RANGES`, under `valgrind --tool=callgrind --instr-atstart=no
//! --collect-atstart=no --cache-sim=yes`.
//!
//! For each contender in turn, callgrind writes a part of its file with the counts of a number of lookups, each with
//! cold caches, and for those who write another one for a number of pairs. The program prints a line for each part: the
//! contender's name, `lookup` or `pair`, and how many there were, separated by tabs.
//!
//! `probe with|guard|pair RANGES TIMES` does one thing often: for `--toggle-collect='*probe_*'`, and for profiles.

use benches::contenders::{ALL, Lookup, Nothing, make, registry};
use benches::probe::{Request, ask, probe_guard, probe_pair, probe_with};
use benches::work::instructions::{LOOKUPS, PROBED, WRITES};
use benches::world::{Payload, Pcs, World};
use core::hint::black_box;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or| args.get(i).and_then(|arg| arg.parse().ok()).unwrap_or(or);
    match args.first().map(String::as_str) {
        Some(what @ ("with" | "guard" | "pair")) => often(what, number(1, 1_000), number(2, 10_000)),
        Some(n) if n.parse::<usize>().is_ok() => parts(number(0, 0)),
        _ => eprintln!("probe RANGES, or probe with|guard|pair RANGES TIMES"),
    }
}

fn parts(n: usize) {
    let world = World::new(n);
    // What it takes to measure.
    count_lookups("", &Nothing, &world);
    for kind in ALL.iter().filter(|kind| PROBED.contains(&kind.name)) {
        let contender = make(kind, &world);
        count_lookups(kind.name, &*contender, &world);
        let Some(writer) = contender.writer().filter(|_| n <= 10_000 || !kind.copies) else { continue };
        let payload = Payload::new(0);
        ask(Request::Start);
        ask(Request::Zero);
        for range in world.free.iter().cycle().take(WRITES) {
            ask(Request::Toggle);
            writer.pair(range, &payload);
            ask(Request::Toggle);
        }
        ask(Request::Dump);
        ask(Request::Stop);
        println!("{}\tpair\t{WRITES}", kind.name);
    }
}

fn count_lookups(name: &str, contender: &dyn Lookup, world: &World) {
    let mut session = contender.session();
    let pcs = world.pcs(LOOKUPS, Pcs::Uniform);
    // What is initialised lazily is so by now.
    session.one(pcs[0]);
    ask(Request::Zero);
    for pc in pcs {
        ask(Request::Start);
        ask(Request::Toggle);
        black_box(session.one(pc));
        ask(Request::Toggle);
        ask(Request::Stop);
    }
    ask(Request::Dump);
    println!("{name}\tlookup\t{LOOKUPS}");
}

fn often(what: &str, n: usize, times: usize) {
    let world = World::new(n);
    let registry = registry(&world);
    let pcs = world.pcs(times, Pcs::Uniform);
    match what {
        "with" => pcs.iter().for_each(|pc| _ = black_box(probe_with(&registry, *pc))),
        "guard" => {
            let guard = registry.pin();
            pcs.iter().for_each(|pc| _ = black_box(probe_guard(&guard, *pc)));
        }
        _ => {
            let payload = Payload::new(0);
            world.free.iter().cycle().take(times).for_each(|range| probe_pair(&registry, range, &payload));
        }
    }
}
