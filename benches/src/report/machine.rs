//! What a measurement was made on.

use crate::harness::processors;
use serde::{Deserialize, Serialize};
use std::process::Command;

/// The machine, the versions and the day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name for itself.
    pub processor: String,
    /// How many processors the process may use.
    pub processors: usize,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// Of those that are compared.
    pub crates: Vec<(String, String)>,
    /// The day in UTC, as 2026-11-25.
    pub date: String,
}

/// Whose versions are reported.
const CRATES: &[&str] = &["trapline", "arc-swap", "crossbeam-epoch", "left-right", "parking_lot"];

impl Machine {
    /// The one this runs on, now.
    pub fn new() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let processor = model.map_or(std::env::consts::ARCH.into(), |(_, model)| model.trim().to_owned());
        Self {
            processor,
            processors: processors(),
            kernel: output("uname", &["-sr"]),
            rustc: output(&std::env::var("RUSTC").unwrap_or("rustc".into()), &["--version"]),
            crates: CRATES.iter().filter_map(|name| Some(((*name).into(), locked(name)?))).collect(),
            date: output("date", &["-u", "+%F"]),
        }
    }
}

/// What a command says, or that it says nothing.
fn output(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The version of a crate that this was built with.
fn locked(name: &str) -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    Some(lines.nth(1)?.strip_prefix("version = \"")?.trim_end_matches('"').to_owned())
}
