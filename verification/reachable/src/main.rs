//! Lists everything that a handler's entry points can reach in a linked program, and fails if it may not.
//!
//! ```text
//! reachable PROGRAM
//! ```
//!
//! Entries that are wrong on purpose are walked as well, and must be found out: the exit status says whether all
//! entries behaved as they should, and whether the list of entry points in `src/handler/mod.rs` is true.

mod list;
mod program;
mod rules;
mod walk;

use program::Program;
use rules::Kind;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

const ENTRIES: [(&str, Kind); 10] = [
    ("entry_lookup", Kind::Lookup),
    ("entry_view", Kind::Lookup),
    ("entry_text", Kind::Lookup),
    ("entry_guard", Kind::Lookup),
    ("entry_stats", Kind::Lookup),
    ("entry_walk", Kind::Lookup),
    ("entry_sample", Kind::Signal),
    ("entry_signal", Kind::Signal),
    ("entry_installed", Kind::Handler),
    ("trapline::signal::install::on_signal", Kind::Handler),
];

/// Wrong on purpose, and a word of what must be said about them.
const CONTROLS: [(&str, &str); 6] = [
    ("control_indexing", "panic_bounds_check"),
    ("control_allocation", "__rust_alloc"),
    ("control_lock", "lock_contended"),
    ("control_thread_local", "thread-local"),
    ("control_plain_thread_local", "thread-local"),
    ("control_indirect_call", "nobody knows"),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: reachable PROGRAM")?;
    let program = Program::read(&std::fs::read(path)?)?;
    let mut fine = true;
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src"));
    let walked = ENTRIES.map(|(name, _)| name);
    let listed = std::fs::read_to_string(src.join("handler/mod.rs"))?;
    for broken in list::broken(&listed, include_str!("bin/handler_entries.rs"), &walked, &list::documented(src)?) {
        fine = false;
        println!("BROKEN LIST in src/handler/mod.rs: {broken}");
    }
    for (name, kind) in ENTRIES {
        let entry = program.named(name).ok_or_else(|| format!("no function {name}"))?;
        let reached = walk::from_entry(&program, entry, rules::is_harmless);
        println!("{name}: {} instructions of {} functions", reached.instructions, reached.functions.len());
        reached.functions.keys().for_each(|function| println!("    {function}"));
        reached.imports.keys().for_each(|import| println!("    {import} (C library)"));
        let places = reached.thread_local.iter().map(|place| ("thread-local", place));
        for (what, place) in places.chain(reached.indirect_calls.iter().map(|place| ("indirect call", place))) {
            println!("    {what} in {}: {}", place.function, place.instruction);
        }
        for broken in rules::broken(kind, &reached) {
            fine = false;
            println!("  BROKEN: {broken}");
        }
    }
    for (name, word) in CONTROLS {
        let entry = program.named(name).ok_or_else(|| format!("no function {name}"))?;
        let broken = rules::broken(Kind::Lookup, &walk::from_entry(&program, entry, rules::is_harmless));
        match broken.iter().find(|broken| broken.contains(word)) {
            Some(broken) => println!("{name}: found out: {broken}"),
            None => {
                fine = false;
                println!("{name}: NOT FOUND OUT: {broken:?}");
            }
        }
    }
    println!("{}", if fine { "nothing forbidden is reachable" } else { "FAILED" });
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
