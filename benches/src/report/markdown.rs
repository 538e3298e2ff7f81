//! Sections as Markdown.

use super::{Machine, Measured};
use crate::section::{Glance, Section, Table};
use crate::work::{Work, thousands};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The whole report.
pub fn report(all: &[&(&Work, Measured)]) -> String {
    let mut out = String::from("# Results\n\n");
    out.push_str(
        "trapline beside what one would use instead: the same work, in one process, turn by turn. Made by `cargo run \
         --release -p benches --bin report`; what is measured and how is said in [`src/lib.rs`](src/lib.rs) and above \
         each table. The machine is shared: read the ratios, not the times. Numbers in brackets are quartiles.\n\n",
    );
    let machines: Vec<_> = all.iter().map(|(_, measured)| &measured.machine).collect();
    if let Some(machine) = machines.last() {
        out.push_str(&machine_list(machine));
    }
    out.push_str(&glance(all.iter().flat_map(|(_, measured)| &measured.section.glance)));
    for (work, measured) in all {
        let _ = write!(out, "## {}\n\n", work.title);
        if machines.last().is_some_and(|last| **last != measured.machine) {
            let Machine { processor, processors, rustc, date, .. } = &measured.machine;
            let _ = write!(out, "Measured on {date}: {processor}, {processors} processors, {rustc}.\n\n");
        }
        out.push_str(&section(&measured.section));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// A section as a document of its own.
pub fn document(work: &Work, measured: &Measured) -> String {
    let mut out = format!("# {}\n\n", work.title);
    out.push_str(&machine_list(&measured.machine));
    out.push_str(&section(&measured.section));
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn machine_list(machine: &Machine) -> String {
    let Machine { processor, processors, kernel, rustc, crates, date } = machine;
    let versions: Vec<_> = crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "| | |\n|---|---|\n| processor | {processor} |\n| processors | {processors} |\n| kernel | {kernel} |\n\
         | compiler | {rustc} |\n| crates | {} |\n| date | {date} |\n\n",
        versions.join(", ")
    )
}

/// The ratios at the top.
fn glance<'s>(all: impl Iterator<Item = &'s Glance>) -> String {
    let (by_number, single): (Vec<_>, Vec<_>) = all.partition(|row| row.ratios.iter().all(|(n, _)| n.is_some()));
    let mut out = String::from("## At a glance\n\n");
    if !by_number.is_empty() {
        let ns: BTreeSet<usize> = by_number.iter().flat_map(|row| &row.ratios).filter_map(|(n, _)| *n).collect();
        let mut columns = vec!["number of ranges".to_owned()];
        columns.extend(ns.iter().map(|n| thousands(*n)));
        let rows = by_number.iter().map(|row| {
            let cell = |n: &usize| row.ratios.iter().find(|(at, _)| *at == Some(*n)).map_or("", |(_, ratio)| ratio);
            [row.what.as_str()].into_iter().chain(ns.iter().map(cell)).map(String::from).collect()
        });
        out.push_str(&table(&Table { columns, rows: rows.collect(), ..Table::default() }));
    }
    if !single.is_empty() {
        let columns = vec!["whatever the number of ranges".into(), String::new()];
        let cells = |row: &&Glance| row.ratios.iter().map(|(_, ratio)| ratio.clone()).collect::<Vec<_>>().join(" / ");
        let rows = single.iter().map(|row| vec![row.what.clone(), cells(row)]).collect();
        out.push_str(&table(&Table { columns, rows, ..Table::default() }));
    }
    out
}

/// One section, without its heading.
pub fn section(section: &Section) -> String {
    let mut out = String::new();
    let _ = write!(out, "`{}`\n\n{}\n\n", section.command, section.intro.trim());
    for plot in &section.plots {
        let _ = write!(out, "![{}](plots/{}.svg)\n\n", plot.title, plot.file);
    }
    for each in &section.tables {
        out.push_str(&table(each));
    }
    out
}

fn table(table: &Table) -> String {
    let mut out = String::new();
    if !table.title.is_empty() {
        let _ = write!(out, "### {}\n\n", table.title);
    }
    if !table.note.is_empty() {
        let _ = write!(out, "{}\n\n", table.note.trim());
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    out.push_str(&line(&table.columns));
    out.push_str(&line(&vec!["---".into(); table.columns.len()]).replace(' ', ""));
    table.rows.iter().for_each(|row| out.push_str(&line(row)));
    out.push('\n');
    out
}
