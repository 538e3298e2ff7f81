//! wasmtime's traps and instances, measured on demand.
//!
//! Reads one request a line from the standard input, and answers each with one line of JSON on the standard output, so
//! that whoever asks can take turns with it: while no request is under way this process waits and takes no time.
//!
//! | request | what is measured | answer |
//! |---|---|---|
//! | `version` | nothing | `{"version": "48.0.8"}` |
//! | `trap KIND SETTING THREADS COUNT` | calls that trap, or with `nothing` return | `{"ns": 2345.6}` for each of COUNT |
//! | `instantiate MODULE SETTING THREADS COUNT` | a store made, a module instantiated, the store dropped | the same |
//!
//! What cannot be done is answered by `{"error": "..."}`.

mod engines;
mod instances;
mod traps;

use benches::harness::processors;
use serde_json::{Value, json};
use std::io::{BufRead, Write, stdin, stdout};

fn main() -> std::io::Result<()> {
    processors(); // before anything is pinned
    let mut output = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = answer(&words).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(words: &[&str]) -> wasmtime::Result<Value> {
    Ok(match *words {
        ["version"] => json!({ "version": version() }),
        ["trap", kind, setting, threads, count] => {
            json!({ "ns": traps::measure(kind, setting, threads.parse()?, count.parse()?)? })
        }
        ["instantiate", module, setting, threads, count] => {
            json!({ "ns": instances::measure(module, setting, threads.parse()?, count.parse()?)? })
        }
        _ => wasmtime::bail!("{words:?} is no request"),
    })
}

/// Of wasmtime, as the lock file has it.
fn version() -> &'static str {
    let package =
        include_str!("../Cargo.lock").split("[[package]]").find(|text| text.contains("\nname = \"wasmtime\"\n"));
    let line = package.and_then(|text| text.lines().find_map(|line| line.strip_prefix("version = ")));
    line.map_or("unknown", |version| version.trim_matches('"'))
}
