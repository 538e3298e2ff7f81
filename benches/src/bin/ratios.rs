//! Prints tables of ratios: `ratios [lookup|write|bytes|stores] [numbers of ranges...]`; all tables without arguments.
//!
//! `TURNS` in the environment says how often every contender has its turn.

use benches::contenders::{Handler, Locked, Lookup, Write, lookups, registry};
use benches::harness::{Control, Times, on_threads, time_lookups, time_pairs};
use benches::stores::{Instantiate, Maps, Ours};
use benches::world::{Payload, World, range_of};
use std::thread::{available_parallelism, sleep};
use std::time::Duration;
use trapline::CodeRegistry;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (numbers, tables): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.parse::<usize>().is_ok());
    let ns: Vec<usize> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    let turns = std::env::var("TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(15);
    let wanted = |table: &str| tables.is_empty() || tables.iter().any(|t| *t == table);
    let or = |all: &[usize]| if ns.is_empty() { all.to_vec() } else { ns.clone() };
    if wanted("lookup") {
        or(&[16, 1_000, 10_000, 100_000]).into_iter().for_each(|n| lookup_table(n, turns));
    }
    if wanted("write") {
        write_table(&or(&[16, 1_000, 10_000, 100_000, 1_000_000]), turns);
    }
    if wanted("bytes") {
        bytes_table(&or(&[1_000, 10_000, 100_000, 1_000_000]));
    }
    if wanted("stores") {
        stores_table(turns);
    }
}

/// A ratio and its quartiles.
fn show([low, middle, high]: [f64; 3]) -> String {
    format!("{middle:.2} ({low:.2} to {high:.2})")
}

fn lookup_table(n: usize, turns: usize) {
    const MODES: [(&str, usize, bool); 4] = [
        ("1 thread", 1, false),
        ("1 thread, dependent", 1, true),
        ("2 threads", 2, false),
        ("2 threads, dependent", 2, true),
    ];
    let world = World::new(n);
    let pcs = world.pcs(1 << 16);
    let contenders = lookups(&world);
    let control = Control::new();
    let mut times = vec![vec![Times::default(); contenders.len()]; MODES.len()];
    let (mut kept, mut dropped) = (0, 0);
    while kept < turns && dropped < 4 * turns {
        if !control.two_processors() {
            dropped += 1;
            sleep(Duration::from_millis(20));
            continue;
        }
        for (mode, (_, threads, dependent)) in MODES.into_iter().enumerate() {
            for (i, (_, contender)) in contenders.iter().enumerate() {
                times[mode][i].0.push(time_lookups(&**contender, &pcs, threads, dependent));
            }
        }
        kept += 1;
    }
    println!("\n## Lookup, {n} ranges\n\n{kept} turns, {dropped} dropped.\n");
    for (mode, (name, ..)) in MODES.into_iter().enumerate() {
        println!("| {name} | ns | time vs flat | speed vs locked map | throughput vs 1 thread |");
        println!("|---|---|---|---|---|");
        for (i, (contender, _)) in contenders.iter().enumerate() {
            let t = &times[mode][i];
            let scaling = if mode < 2 { [1.0; 3] } else { times[mode - 2][i].ratio_to(t).map(|r| 2.0 * r) };
            println!(
                "| {contender} | {:.1} | {} | {} | {} |",
                t.median(),
                show(t.ratio_to(&times[mode][0])),
                show(times[mode][1].ratio_to(t)),
                show(scaling),
            );
        }
        println!();
    }
}

fn write_table(ns: &[usize], turns: usize) {
    let processors = available_parallelism().map_or(2, usize::from);
    println!("\n## Register and unregister: nanoseconds for a pair, and time vs the locked map\n");
    println!("| ranges | trapline | locked map | ratio | readers on all {processors}: trapline | locked map | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for n in ns {
        let world = World::new(*n);
        let pcs = world.pcs(1 << 16);
        let payload = Payload::new(0);
        let ours = Handler(registry(&world));
        let locked = Locked::new(&world);
        let contenders: [(&dyn Write, &dyn Lookup); 2] = [(&ours, &ours), (&locked, &locked)];
        let mut times = [[Times::default(), Times::default()], [Times::default(), Times::default()]];
        for turn in 0..turns + 2 {
            for (with_readers, times) in times.iter_mut().enumerate() {
                // Those take long.
                if with_readers == 1 && turn >= 7 {
                    continue;
                }
                for ((writer, reader), times) in contenders.iter().zip(times) {
                    let readers = if with_readers == 1 { processors } else { 0 };
                    let time = time_pairs(*writer, *reader, &world.free, &payload, &pcs, readers);
                    if turn >= 2 {
                        times.0.push(time);
                    }
                }
            }
        }
        print!("| {n} |");
        for [ours, locked] in &times {
            print!(" {:.0} | {:.0} | {} |", ours.median(), locked.median(), show(ours.ratio_to(locked)));
        }
        println!();
    }
}

fn bytes_table(ns: &[usize]) {
    println!("\n## Bytes per live range, payload apart\n");
    println!("| ranges | registered at random | in order of address |");
    println!("|---|---|---|");
    for n in ns {
        let bytes = |world: &World| {
            let registry: CodeRegistry<Payload> = CodeRegistry::new();
            let payload = Payload::new(0);
            for (place, _) in &world.live {
                registry.register(range_of(*place), payload.clone()).expect("places do not overlap").leak();
            }
            registry.stats().live_bytes as f64 / *n as f64
        };
        let mut world = World::new(*n);
        let random = bytes(&world);
        world.live.sort_by_key(|(place, _)| *place);
        println!("| {n} | {random:.1} | {:.1} |", bytes(&world));
    }
}

fn stores_table(turns: usize) {
    const COUNT: usize = 20_000;
    println!("\n## Create a store, register a loaded module, look up one frame, drop the store\n");
    println!("| module | threads | trapline, ns | maps, ns | speed vs maps | throughput vs 1 thread | maps |");
    println!("|---|---|---|---|---|---|---|");
    let control = Control::new();
    for (name, modules) in [("shared", 1), ("one for each thread", 2)] {
        let (ours, maps) = (Ours::new(modules), Maps::new(modules));
        let contenders: [&dyn Instantiate; 2] = [&ours, &maps];
        let mut times = [[Times::default(), Times::default()], [Times::default(), Times::default()]];
        let (mut kept, mut dropped) = (0, 0);
        while kept < turns && dropped < 4 * turns {
            if !control.two_processors() {
                dropped += 1;
                sleep(Duration::from_millis(20));
                continue;
            }
            for (threads, times) in [1, 2].into_iter().zip(&mut times) {
                for (contender, times) in contenders.iter().zip(times) {
                    times.0.push(on_threads(threads, 15, COUNT, |thread, _| {
                        (0..COUNT).map(|_| contender.instantiate(thread)).fold(0, usize::wrapping_add)
                    }));
                }
            }
            kept += 1;
        }
        for (threads, [our, map]) in [1, 2].into_iter().zip(&times) {
            let scaling = |i: usize, now: &Times| show(times[0][i].ratio_to(now).map(|ratio| ratio * threads as f64));
            println!(
                "| {name} | {threads} | {:.1} | {:.1} | {} | {} | {} |",
                our.median(),
                map.median(),
                show(map.ratio_to(our)),
                scaling(0, our),
                scaling(1, map),
            );
        }
    }
}
