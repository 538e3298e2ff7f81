//! Signal handlers that look up, at every instruction of everything they may interrupt.
//!
//! ```text
//! cargo test --release --test every_instruction                             a short run
//! TRAPLINE_POINTS=1000000 cargo test --release --test every_instruction     at least a million interruption points
//! ```
//!
//! An *interruption point* is an instruction after which a handler ran and the answers of its lookups were checked; in
//! mode B, an instruction of a lookup at which the other thread made its change. Instructions that were only stepped
//! over do not count, and neither do the points of the controls.
//!
//! | mode | what is interrupted | where |
//! |---|---|---|
//! | A | writers, allocators, traps: everything that changes or frees what is looked up | `writer`, `process` |
//! | B | a lookup, while another thread removes, frees and reuses what it is looking at | `lookup` |
//! | C | a lookup inside a handler, by another handler's | `nested` |
//! | D | a process, from the installation of its handler to its exit, and its threads from their first instruction to their last | `lifetime` |
//!
//! The controls show that the harness would notice: each runs a design known to be unsafe, and must be caught.
//!
//! Every scenario runs in a process of its own, this binary again. Words after `--` select scenarios by their names.

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod harness;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() -> std::process::ExitCode {
    harness::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() {
    println!("skipped: single-stepping is for Linux on x86-64 with the GNU C library");
}
