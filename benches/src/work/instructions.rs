//! What can be counted instead of timed: instructions, and the cache lines that a cold lookup touches.

use super::{Options, short, thousands};
use crate::contenders::{FLAT, HANDLER, LOCKED, PINNED};
use crate::programs;
use crate::section::{Section, Table};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Numbers of ranges.
const NS: &[usize] = &[16, 1_000, 10_000, 100_000, 1_000_000];
/// Whose are counted.
pub const PROBED: &[&str] = &[
    FLAT,
    LOCKED,
    HANDLER,
    PINNED,
    "trapline, snapshot",
    "arc-swap of flat",
    "arc-swap of flat, cached",
    "left-right of maps",
    "half_lock of flat",
    "reader count, flat",
];
/// How many lookups the probe does of each.
pub const LOOKUPS: usize = 64;
/// How many pairs.
pub const WRITES: usize = 1_000;

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let counts: Result<Vec<_>, String> = options.ns(NS).into_iter().map(|n| Ok((n, count(n)?))).collect();
    let tables = match counts {
        Ok(counts) => tables(&counts),
        Err(why) => vec![Table { title: "Not counted".into(), note: why, ..Table::default() }],
    };
    Section { intro: INTRO.into(), tables, ..Section::default() }
}

const INTRO: &str = "Counted by callgrind, the same every time. The lines are the misses of a simulated cache that is \
    empty when each lookup begins: distinct lines of 64 bytes, the payload's included, and what the processor never \
    fetches in vain is not among them. Lookups are uniform, and in ranges that are there. What an empty call takes is \
    subtracted.";

/// What callgrind counted for one operation.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    instructions: f64,
    data_lines: f64,
    code_lines: f64,
}

/// A part of callgrind's file: whose, of what, and the counts.
type Part = (String, String, Counts);

fn tables(counts: &[(usize, Vec<Part>)]) -> Vec<Table> {
    let table = |title: &str, note: &str, what: &str, value: fn(&Counts) -> f64| {
        let mut columns = vec!["ranges".to_owned()];
        columns.extend(counts.iter().map(|(n, _)| thousands(*n)));
        let row = |name: &&str| {
            let cell = |(_, parts): &(usize, Vec<Part>)| {
                let part = parts.iter().find(|(whose, of, _)| whose == *name && of == what);
                part.map_or(String::new(), |(.., counts)| short(value(counts)))
            };
            let cells: Vec<_> = counts.iter().map(cell).collect();
            let counted = cells.iter().any(|cell| !cell.is_empty());
            counted.then(|| [(*name).to_owned()].into_iter().chain(cells).collect())
        };
        Table { title: title.into(), note: note.into(), columns, rows: PROBED.iter().filter_map(row).collect() }
    };
    vec![
        table("Instructions of a lookup", "", "lookup", |counts| counts.instructions),
        table("Data lines that a lookup touches", "On average.", "lookup", |counts| counts.data_lines),
        table("Code lines that a lookup touches", "On average.", "lookup", |counts| counts.code_lines),
        table("Instructions of a registration and its removal", "On average.", "pair", |counts| counts.instructions),
    ]
}

/// Has the probe counted.
fn count(n: usize) -> Result<Vec<Part>, String> {
    let program = programs::build("probe")?;
    let folder = program.with_file_name("callgrind");
    let error = |error: std::io::Error| error.to_string();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(error)?;
    let file = folder.join("out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no", "--cache-sim=yes"]);
    // Large enough to keep all lines of a lookup.
    valgrind.args(["--I1=65536,16,64", "--D1=65536,16,64"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display())).arg(&program).arg(n.to_string());
    let text = programs::run(&mut valgrind)?;

    let (mut parts, mut empty) = (Vec::new(), Counts::default());
    for (i, line) in text.lines().enumerate() {
        let cells: Vec<_> = line.split('\t').collect();
        let [whose, what, times] = cells[..] else { return Err(format!("the probe wrote: {line}")) };
        let times: f64 = times.parse().map_err(|_| format!("the probe wrote: {line}"))?;
        let counts = read(&file.with_extension((i + 1).to_string()), times)?;
        if whose.is_empty() {
            empty = counts;
        } else {
            let lookup = what == "lookup";
            let less = |a: f64, b: f64| if lookup { a - b } else { a };
            let counts = Counts {
                instructions: less(counts.instructions, empty.instructions),
                data_lines: less(counts.data_lines, empty.data_lines),
                code_lines: less(counts.code_lines, empty.code_lines),
            };
            parts.push((whose.to_owned(), what.to_owned(), counts));
        }
    }
    Ok(parts)
}

/// The counts of a part, for one of so many operations.
fn read(file: &Path, times: f64) -> Result<Counts, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let words = |head: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(head));
        line.map(|line| line.split_whitespace().map(String::from).collect::<Vec<_>>()).unwrap_or_default()
    };
    let (events, totals) = (words("events:"), words("totals:"));
    let total = |event: &str| {
        let at = events.iter().position(|name| name == event);
        let number = at.and_then(|at| totals.get(at)?.parse::<f64>().ok());
        // Zeros at the end of the line are left out.
        number.or(at.filter(|at| *at >= totals.len()).map(|_| 0.0)).ok_or(format!("callgrind did not count {event}"))
    };
    Ok(Counts {
        instructions: total("Ir")? / times,
        data_lines: (total("D1mr")? + total("D1mw")?) / times,
        code_lines: total("I1mr")? / times,
    })
}
