//! A storm of traps: machine code from a real compiler, real faults, several threads, while other threads load and
//! unload code as fast as they can and signals land at random instructions.
//!
//! ```text
//! cargo run --release --example trap_storm -- --seconds 60 --json
//! ```
//!
//! Every call has a known answer, down to the address of the trapping instruction; every lookup in a handler is checked
//! against what its thread knows to be true. The exit status is 1 if anything was wrong, lost, or left over.
//!
//! - `guest/`: what is run, and what must come of it
//! - `call.rs`: one call, compared with its answer
//! - `storm.rs`: the threads
//! - `sampler.rs`: the thread that sends signals to all others
//! - `handlers.rs`: what these signals, and the traps, run
//! - `record.rs`: what handlers count
//! - `report.rs`: the sum of it

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod call;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod guest;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod handlers;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod options;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod record;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod report;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod sampler;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
mod storm;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal")))]
fn main() {
    println!(
        "trap_storm runs on Linux, x86-64 and AArch64, with the feature `signal`: traps are not caught elsewhere yet"
    );
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]
fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    use clap::Parser;
    use indicatif::{ProgressBar, ProgressStyle};
    use std::process::ExitCode;

    let options = options::Options::parse();
    // Draws on standard error, and only if that is a terminal.
    let bar = ProgressBar::new((options.seconds * 10.0) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {elapsed_precise} {msg}")?);
    let run = storm::run(&options, |seconds| {
        bar.set_position((seconds * 10.0) as u64);
        bar.set_message(report::progress(seconds));
    });
    bar.finish_and_clear();
    let report = report::Report::new(run?);
    print!("{}", report.table());
    if options.json {
        println!("{}", report.json(&options));
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
