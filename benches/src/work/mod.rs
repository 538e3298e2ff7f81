//! What is measured: one file for each kind of work.
//!
//! A kind of work is a function from [`Options`] to a [`Section`]. To add one, add its line to [`WORK`].

pub mod churn;
pub mod instantiate;
pub mod instructions;
pub mod lookup;
pub mod memory;
pub mod scaling;
pub mod trap;
pub mod walk;
pub mod write;

use crate::section::Section;

/// A kind of work.
pub struct Work {
    /// By which the report is asked for it, and its section's name.
    pub name: &'static str,
    /// Shown above its section.
    pub title: &'static str,
    /// Measures it.
    pub measure: fn(&Options) -> Section,
}

/// All there is to measure, in the order of the report.
pub const WORK: &[Work] = &[
    Work { name: "lookup", title: "Lookup", measure: lookup::measure },
    Work { name: "churn", title: "Lookup beside a writer", measure: churn::measure },
    Work { name: "walk", title: "Stack walks", measure: walk::measure },
    Work { name: "write", title: "Registering and unregistering", measure: write::measure },
    Work { name: "instantiate", title: "Stores that come and go", measure: instantiate::measure },
    Work { name: "trap", title: "Traps", measure: trap::measure },
    Work { name: "memory", title: "Memory", measure: memory::measure },
    Work { name: "instructions", title: "Instructions and cache lines", measure: instructions::measure },
    Work { name: SCALING, title: "More processors", measure: scaling::measure },
];

/// The one that becomes a document of its own, since most of it is not measured.
pub const SCALING: &str = "scaling";

/// How much is measured.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only to see that it works: as little as possible of everything, in seconds.
    pub quick: bool,
    /// Only these numbers of ranges, where there is a choice; all if empty.
    pub only: Vec<usize>,
}

impl Options {
    /// Of these numbers of ranges, those to be measured.
    pub fn ns(&self, all: &[usize]) -> Vec<usize> {
        let wanted = |n: &usize| match self.only.is_empty() {
            true => !self.quick || *n <= 1_000,
            false => self.only.contains(n),
        };
        all.iter().copied().filter(wanted).collect()
    }

    /// How many turns every contender has, if it has so many in a full run.
    pub fn turns(&self, full: usize) -> usize {
        if self.quick { 2 } else { full }
    }

    /// How long something takes, in milliseconds, if it takes so long in a full run.
    pub fn millis(&self, full: u64) -> u64 {
        if self.quick { full.min(20) } else { full }
    }
}

/// A number with its thousands apart: 1,000,000.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with three significant digits or all of its whole ones.
pub fn short(x: f64) -> String {
    match x.abs() {
        a if !a.is_finite() => "-".into(),
        a if a >= 99.95 => thousands(x.round() as usize),
        a if a >= 9.995 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

/// A median with its quartiles: `[lower, median, upper]`.
pub fn spread([low, middle, high]: [f64; 3]) -> String {
    format!("{} ({} to {})", short(middle), short(low), short(high))
}
