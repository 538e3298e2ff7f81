//! trapline beside what one would use instead: the same work, in one process, turn by turn.
//!
//! | command | what it does |
//! |---|---|
//! | `cargo run --release -p benches --bin report` | measures everything, and writes `RESULTS.md` and `plots/` |
//! | `cargo run --release -p benches --bin report lookup write` | measures these sections again; the others stay |
//! | `cargo run --release -p benches --bin report lookup 1000 10000` | only these numbers of ranges; `RESULTS.md` stays |
//! | `cargo run --release -p benches --bin report -- --quick` | seconds, to see that it works; `RESULTS.md` stays |
//! | `cargo bench -p benches` | criterion: absolute times, and how they changed since the last run |
//! | `valgrind --tool=callgrind --toggle-collect='*probe_*' target/release/probe with 1000 10000` | instructions of lookups, function by function |
//!
//! | folder | what is in it |
//! |---|---|
//! | [`contenders`] | who is measured |
//! | [`work`] | what they do: one file for each section of the report; a new one is a line in [`work::WORK`] |
//! | [`report`] | the sections as Markdown and pictures |
//!
//! # The work
//!
//! A [`World`](world::World) is 2n places 64 KiB apart, of which a random half is registered, in random order. The
//! payload takes 96 bytes, so that it is never in the line of something else, and every lookup reads a field of it.
//!
//! # The contenders
//!
//! Each gets its best form ([`contenders`]). `flat` is the limit: a sorted array that nothing protects and nobody can
//! change. Its keys lie apart from the rest, which makes it faster than the array of triples that is measured as well.
//!
//! # How to read ratios
//!
//! A machine that others use too drifts by more than the contenders differ. So the contenders take turns, slice by
//! slice, a ratio is taken within one turn, and the tables show its median over all turns, with the quartiles. Threads
//! are pinned to processors; what they do together is repeated if one of them did not have its processor all the time,
//! and a turn begins when two threads that share nothing do not slow each other down.

pub mod beside;
pub mod cold;
pub mod contenders;
pub mod crowd;
pub mod harness;
pub mod probe;
pub mod programs;
pub mod report;
pub mod section;
pub mod work;
pub mod world;
