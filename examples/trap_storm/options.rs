//! The command line.

use clap::Parser;
use std::thread;

/// Run compiled code that traps, on several threads, while others load and unload code and signals land everywhere.
#[derive(Clone, Debug, Parser)]
#[command(name = "trap_storm")]
pub struct Options {
    /// How long to run.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Threads that call guest code of the long-lived images [default: one per core].
    #[arg(long, default_value_t = cores())]
    pub threads: usize,
    /// Threads that load, run and unload images.
    #[arg(long, default_value_t = 2)]
    pub churn_threads: usize,
    /// Long-lived images, each with code of its own.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub images: u32,
    /// Asynchronous signals per second and thread; 0 for none.
    #[arg(long, default_value_t = 1000)]
    pub sample_hz: u32,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// What all choices derive from: constants, arguments, the order of calls. The interleaving is the machine's own.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..1e9).contains(&seconds) { Ok(seconds) } else { Err("not a duration".into()) }
}
