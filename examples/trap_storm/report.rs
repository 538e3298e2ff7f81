//! What the storm says at its end: a table for people, one JSON object for programs.

use crate::guest::Kind;
use crate::options::Options;
use crate::record::{Count, Record, SIGNALS, Ticks, VISITORS, Wrong};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::io;
use std::time::Duration;
use trapline::TrapCode;

/// Memory at one moment: what is resident, and what the allocator has given out. Where a reader is preempted inside a
/// lookup garbage piles up for a while; the allocator keeps some of what was freed then.
pub struct Resident {
    pub when: &'static str,
    pub bytes: u64,
    pub allocated: u64,
}

impl Resident {
    pub fn now(when: &'static str) -> io::Result<Resident> {
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        let pages = statm.split_ascii_whitespace().nth(1);
        let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
        // SAFETY: no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        Ok(Resident { when, bytes: pages * page, allocated: allocated() })
    }
}

#[cfg(target_env = "gnu")]
fn allocated() -> u64 {
    // SAFETY: no preconditions.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

/// Not known.
#[cfg(not(target_env = "gnu"))]
fn allocated() -> u64 {
    0
}

/// A finished run, to be summed up.
pub struct Run {
    pub elapsed: Duration,
    pub ns_per_tick: f64,
    /// In ticks.
    pub clock_overhead: u64,
    pub resident: Vec<Resident>,
    /// Of threads that could not go on.
    pub failures: Vec<String>,
    /// Ranges that were unregistered and not freed, and ranges still registered, after everything was dropped and
    /// reclaimed.
    pub garbage: usize,
    pub records: Vec<&'static Record>,
}

/// Lookups of one sort: how many, and how long they took, in nanoseconds.
struct Lookups {
    histogram: Histogram<u64>,
    max: u64,
}

pub struct Report {
    run: Run,
    all: Lookups,
    sorts: [(&'static str, Lookups); 3],
}

impl Run {
    fn sum(&self, count: impl Fn(&Record) -> &Count) -> u64 {
        self.records.iter().map(|record| count(record).get()).sum()
    }

    fn lookups(&self, sorts: &[fn(&Record) -> &Ticks]) -> Lookups {
        let mut histogram = Histogram::new(3).expect("three digits are within its limits");
        let mut max = 0;
        for ticks in self.records.iter().flat_map(|record| sorts.iter().map(|sort| sort(record))) {
            for (middle, count) in ticks.counts() {
                let ns = (middle * self.ns_per_tick).round() as u64;
                histogram.record_n(ns, count).expect("it resizes itself");
            }
            max = max.max((ticks.max() as f64 * self.ns_per_tick) as u64);
        }
        Lookups { histogram, max }
    }
}

impl Lookups {
    fn ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }
}

impl Report {
    pub fn new(run: Run) -> Report {
        let of_samples: fn(&Record) -> &Ticks = |record| &record.sample_ticks;
        let of_known: fn(&Record) -> &Ticks = |record| &record.known_ticks;
        let of_traps: fn(&Record) -> &Ticks = |record| &record.trap_ticks;
        Report {
            all: run.lookups(&[of_samples, of_known, of_traps]),
            sorts: [
                ("sampled pc", run.lookups(&[of_samples])),
                ("known trap site", run.lookups(&[of_known])),
                ("trapping pc", run.lookups(&[of_traps])),
            ],
            run,
        }
    }

    fn wrong(&self) -> u64 {
        Wrong::ALL.iter().map(|&what| self.wrong_by(what)).sum()
    }

    fn wrong_by(&self, what: Wrong) -> u64 {
        self.run.sum(|record| &record.wrong[what as usize])
    }

    /// Traps that had to happen and were not caught, or were caught and never signalled, or the reverse; samples sent
    /// and not handled.
    fn lost(&self) -> u64 {
        let expected = self.run.sum(|record| &record.traps_expected);
        let caught = self.run.sum(|record| &record.traps_caught);
        let signals = self.signals().map(|(_, count)| count).sum::<u64>();
        let samples: u64 = self
            .run
            .records
            .iter()
            .filter(|record| record.role != VISITORS.role)
            .map(|record| record.samples_sent.get().abs_diff(record.samples_handled.get()))
            .sum();
        expected.abs_diff(caught) + caught.abs_diff(signals) + samples
    }

    fn traps(&self) -> u64 {
        self.run.sum(|record| &record.traps_caught)
    }

    fn signals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SIGNALS.iter().enumerate().map(|(place, &(_, name))| (name, self.run.sum(|record| &record.signals[place])))
    }

    fn codes(&self) -> impl Iterator<Item = (String, u64)> {
        (0..=u8::MAX).filter_map(|byte| {
            let count = self.run.sum(|record| &record.traps_by_code[usize::from(byte)]);
            let code = TrapCode::from_u8(byte).filter(|_| count != 0)?;
            Some((code.to_string(), count))
        })
    }

    fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Kind::ALL
            .iter()
            .map(|&kind| (kind.name(), self.run.sum(|record| &record.traps_by_kind[kind as usize])))
            .filter(|&(_, count)| count != 0)
    }

    /// Whether the run showed what it is meant to show.
    pub fn is_clean(&self) -> bool {
        self.wrong() == 0 && self.lost() == 0 && self.run.garbage == 0 && self.run.failures.is_empty()
    }

    pub fn json(&self, options: &Options) -> Value {
        let run = &self.run;
        let seconds = run.elapsed.as_secs_f64();
        let object = |pairs: &mut dyn Iterator<Item = (String, u64)>| -> Map<String, Value> {
            pairs.map(|(name, count)| (name, count.into())).collect()
        };
        let named = |(name, count): (&str, u64)| (name.to_owned(), count);
        let wrong_by = Wrong::ALL.iter().map(|&what| (format!("{what:?}"), self.wrong_by(what)));
        let loads = run.sum(|record| &record.loads);
        json!({
            "seconds": seconds,
            "threads": options.threads,
            "churn_threads": options.churn_threads,
            "images": options.images,
            "sample_hz": options.sample_hz,
            "seed": options.seed,
            "calls": run.sum(|record| &record.calls),
            "traps": self.traps(),
            "traps_per_second": self.traps() as f64 / seconds,
            "traps_raised": run.sum(|record| &record.traps_raised),
            "traps_by_signal": object(&mut self.signals().map(named)),
            "traps_by_code": object(&mut self.codes()),
            "traps_by_kind": object(&mut self.kinds().map(named)),
            "samples": run.sum(|record| &record.samples_handled),
            "samples_in_guest": run.sum(|record| &record.samples_in_guest),
            "samples_in_host": run.sum(|record| &record.samples_in_host),
            "handler_lookups": self.all.histogram.len(),
            "handler_lookups_from_traps": self.sorts[2].1.histogram.len(),
            "handler_lookups_from_samples": self.sorts[0].1.histogram.len() + self.sorts[1].1.histogram.len(),
            "loads": loads,
            "loads_per_second": loads as f64 / seconds,
            "unloads": run.sum(|record| &record.unloads),
            "addresses_reused": run.sum(|record| &record.addresses_reused),
            "visitors": run.sum(|record| &record.threads_started),
            "compiled_images": run.sum(|record| &record.compiled),
            "lookup_ns_p50": self.all.ns(0.5),
            "lookup_ns_p99": self.all.ns(0.99),
            "lookup_ns_p999": self.all.ns(0.999),
            "lookup_ns_max": self.all.max,
            "clock_overhead_ns": run.clock_overhead as f64 * run.ns_per_tick,
            "resident_bytes": run.resident.iter().map(|r| (r.when.to_owned(), r.bytes.into())).collect::<Map<_, Value>>(),
            "allocated_bytes": run.resident.iter().map(|r| (r.when.to_owned(), r.allocated.into())).collect::<Map<_, Value>>(),
            "wrong": self.wrong(),
            "wrong_by": object(&mut { wrong_by }),
            "lost": self.lost(),
            "garbage_after_reclaim": run.garbage,
            "failures": run.failures,
        })
    }

    pub fn table(&self) -> String {
        let mut table = String::new();
        self.write(&mut table).expect("writing to a string succeeds");
        table
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let run = &self.run;
        let seconds = run.elapsed.as_secs_f64();
        let traps = self.traps();
        let rate = |count: u64| format!("{:.0}/s", count as f64 / seconds);
        let mut row = |name: &str, count: u64, more: &str| writeln!(out, "{name:<52}{count:>14}  {more}");

        row("calls of guest code", run.sum(|record| &record.calls), "")?;
        row("hardware traps caught", traps, &rate(traps))?;
        for (name, count) in self.signals() {
            row(&format!("  {name}"), count, "")?;
        }
        row("traps raised by host functions", run.sum(|record| &record.traps_raised), "")?;
        for (title, counts) in [
            ("traps by code", self.codes().collect::<Vec<_>>()),
            ("traps by function called", self.kinds().map(|(n, c)| (n.to_owned(), c)).collect()),
        ] {
            row(title, counts.iter().map(|count| count.1).sum(), "")?;
            for (name, count) in counts {
                row(&format!("  {name}"), count, "")?;
            }
        }
        let samples = run.sum(|record| &record.samples_handled);
        row("samples handled", samples, &rate(samples))?;
        let of_guests = |count: fn(&Record) -> &Count| -> u64 {
            run.records.iter().filter(|record| record.calls_guests()).map(|record| count(record).get()).sum()
        };
        let share = 100.0 * of_guests(|record| &record.samples_in_guest) as f64
            / of_guests(|record| &record.samples_handled).max(1) as f64;
        // A call is short: most of its time the thread is in the kernel, which delivers its trap, or in the host, which
        // computes what the answer has to be.
        let share =
            format!("{share:.0} % of those on threads that call it: the rest of a call is the kernel's and the host's");
        row("  that interrupted guest code", run.sum(|record| &record.samples_in_guest), &share)?;
        row("  that interrupted the program or a library", run.sum(|record| &record.samples_in_host), "")?;
        for role in ["main", "guest", "churn", "sampler", "host", "visitor"] {
            let of_role = run.records.iter().filter(|record| record.role == role);
            let count = of_role.map(|record| record.samples_handled.get()).sum();
            row(&format!("  on threads of role: {role}"), count, "")?;
        }
        let (loads, unloads) = (run.sum(|record| &record.loads), run.sum(|record| &record.unloads));
        row("images loaded", loads, &rate(loads))?;
        row("images unloaded while running", unloads, &rate(unloads))?;
        row("  loaded at an address used before", run.sum(|record| &record.addresses_reused), "")?;
        row("short-lived threads started", run.sum(|record| &record.threads_started), "")?;
        row("images compiled", run.sum(|record| &record.compiled), "")?;
        for resident in &run.resident {
            row(&format!("resident memory at the {}, KiB", resident.when), resident.bytes >> 10, "")?;
            row(&format!("  allocated at the {}, KiB", resident.when), resident.allocated >> 10, "")?;
        }

        writeln!(
            out,
            "\n{:<32}{:>12}{:>8}{:>8}{:>8}{:>12}",
            "lookups in handlers, ns", "count", "p50", "p99", "p99.9", "max"
        )?;
        let sorts = self.sorts.iter().map(|(name, lookups)| (*name, lookups));
        for (name, lookups) in sorts.chain([("all", &self.all)]) {
            let (count, max) = (lookups.histogram.len(), lookups.max);
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| lookups.ns(quantile));
            writeln!(out, "  {name:<30}{count:>12}{p50:>8}{p99:>8}{p999:>8}{max:>12}")?;
        }
        writeln!(
            out,
            "  measured by the time stamp counter, whose own {:.0} ns are included, as is whatever interrupts a handler (samples do);\n  \
             the library's own lookup of each trap comes on top and is not timed\n",
            run.clock_overhead as f64 * run.ns_per_tick
        )?;

        for what in Wrong::ALL {
            let count = self.wrong_by(what);
            if count != 0 {
                writeln!(out, "  wrong: {what:?}: {count}")?;
            }
        }
        for failure in &run.failures {
            writeln!(out, "  failed: {failure}")?;
        }
        writeln!(
            out,
            "wrong answers {}, lost {}, garbage after reclaim {}: {}",
            self.wrong(),
            self.lost(),
            run.garbage,
            if self.is_clean() { "clean" } else { "FAILED" }
        )
    }
}

/// One line while the storm goes on.
pub fn progress(seconds: f64) -> String {
    let records = crate::record::all();
    let sum = |count: fn(&Record) -> &Count| records.iter().map(|record| count(record).get()).sum::<u64>();
    let wrong: u64 = records.iter().flat_map(|record| &record.wrong).map(Count::get).sum();
    format!(
        "{:.0} traps/s, {:.0} loads/s, {:.0} samples/s, {wrong} wrong",
        sum(|record| &record.traps_caught) as f64 / seconds,
        sum(|record| &record.loads) as f64 / seconds,
        sum(|record| &record.samples_handled) as f64 / seconds,
    )
}
