//! What is shown, and the controls.

use super::page::Verdict;
use super::{case, controls, lifetime, lookup, nested, process, stores, watch, writer};

/// Runs in a process of its own.
pub struct Scenario {
    pub mode: char,
    pub name: &'static str,
    /// Its part of all interruption points, of [`SHARES`].
    pub share: u64,
    pub expected: Verdict,
    /// Runs until so many interruption points were checked.
    pub run: Box<dyn Fn(u64) + Sync>,
}

/// The sum of all shares.
pub const SHARES: u64 = 100;

pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |mode, name, share, run: Box<dyn Fn(u64) + Sync>| {
        all.push(Scenario { mode, name, share, expected: Verdict::Fine, run });
    };
    for &(name, operation) in writer::OPERATIONS.iter().chain(process::OPERATIONS).chain(stores::OPERATIONS) {
        add('A', name, 2, Box::new(move |points| writer::run(operation, points)));
    }
    for (name, case) in [
        ("a lookup in one node, its code replaced", case::ONE_NODE),
        ("a lookup in a tree, its code replaced", case::LEVELS),
        ("a lookup in wide nodes, its code replaced", case::WIDE),
        ("a lookup in a tree, its nodes freed and reused", case::NODES),
        ("a lookup in the process-wide registry, its code unmapped", case::MAPPED),
    ] {
        add('B', name, 4, Box::new(move |points| lookup::run(case, points)));
    }
    for (name, case) in [
        ("lookups in lookups in lookups, their code replaced", case::LEVELS),
        ("lookups in lookups in lookups, their nodes freed and reused", case::NODES),
    ] {
        add('C', name, 7, Box::new(move |points| nested::run(case, points)));
    }
    let life = "any moment of a process, its threads' births and deaths included";
    add('D', life, 22, Box::new(|points| lifetime::run(watch::check, || (), points)));
    all.extend(controls::all());
    all
}
