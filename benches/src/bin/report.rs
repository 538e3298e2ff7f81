//! Measures, and writes the report: `report [--quick] [names of sections...] [numbers of ranges...]`.
//!
//! Without names, everything is measured. With names, only these sections, and the others stay as they were measured
//! last. With `--quick`, which only shows that it works, and with numbers of ranges, which leave out all others, the
//! report is written into the target folder, and the real one stays as it is.

use benches::harness::processors;
use benches::report::{Machine, Measured, Store, document, report, section, svg};
use benches::work::{Options, SCALING, WORK, Work};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, words): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let (numbers, names): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.parse::<usize>().is_ok());
    if let Some(unknown) = flags.iter().find(|flag| *flag != "--quick") {
        return Err(format!("there is no {unknown}: report [--quick] [{}]", names_of(WORK)).into());
    }
    if let Some(unknown) = names.iter().find(|name| WORK.iter().all(|work| work.name != *name)) {
        return Err(format!("there is no section {unknown}, but: {}", names_of(WORK)).into());
    }
    let only = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let options = Options { quick: !flags.is_empty(), only };
    if cfg!(debug_assertions) && !options.quick {
        return Err("times of unoptimised code say nothing: use --release".into());
    }
    processors(); // before anything pins this thread
    let store = Store::new(match (options.quick, options.only.is_empty()) {
        (true, _) => "quick",
        (false, false) => "some",
        (false, true) => "full",
    })?;
    for work in WORK.iter().filter(|work| names.is_empty() || names.iter().any(|name| name == work.name)) {
        let begin = Instant::now();
        let mut result = (work.measure)(&options);
        result.name = work.name.into();
        if result.command.is_empty() {
            result.command = format!("cargo run --release -p benches --bin report {}", work.name);
        }
        println!("## {} ({:.0} s)\n\n{}", work.title, begin.elapsed().as_secs_f64(), section(&result));
        store.keep(work.name, &Measured { section: result, machine: Machine::new() })?;
    }
    let whole = !options.quick && options.only.is_empty();
    let folder = if whole { Path::new(env!("CARGO_MANIFEST_DIR")) } else { store.folder() };
    write(folder, &store)
}

/// Writes the report and the pictures of all that was ever measured.
fn write(folder: &Path, store: &Store) -> Result<(), Box<dyn Error>> {
    let all: Vec<_> = WORK.iter().filter_map(|work| Some((work, store.get(work.name)?))).collect();
    let (scaling, results): (Vec<_>, Vec<_>) = all.iter().partition(|(work, _)| work.name == SCALING);
    let plots = folder.join("plots");
    fs::create_dir_all(&plots)?;
    for plot in all.iter().flat_map(|(_, measured)| &measured.section.plots) {
        fs::write(plots.join(&plot.file).with_extension("svg"), svg(plot)?)?;
    }
    fs::write(folder.join("RESULTS.md"), report(&results))?;
    for (work, measured) in scaling {
        fs::write(folder.join("SCALING.md"), document(work, measured))?;
    }
    println!("Written to {}.", folder.display());
    Ok(())
}

fn names_of(work: &[Work]) -> String {
    work.iter().map(|work| work.name).collect::<Vec<_>>().join(" ")
}
