//! The store layer against a naive model: lists, searched from front to back.
//!
//! No compiler, and nothing is executed: texts are arbitrary bytes, so that thousands of images are cheap.

#[path = "../common/allocator.rs"]
mod allocator;
mod image;
mod loaded;
mod many;
mod model;
mod no_allocation;
#[cfg(unix)]
mod out_of_memory;
mod random;
mod sequences;
#[cfg(target_os = "linux")]
mod threads;
mod twin;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// For tests that count what is registered in the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
